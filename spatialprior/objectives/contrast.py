"""Contrastive point correspondence (InfoNCE), GASP section on the correspondence loss.

For anchor i in frame a with true match in frame b:
``L_i = -log( exp(<e_i, e_match>/tau) / sum_k exp(<e_i, e_k>/tau) )``, k over the candidates.
The match falls between patch centres, so its target is spread over the four surrounding patches with
bilinear weights (one-hot when it sits on a centre); candidates are all patches of the frame(s).
"""

from __future__ import annotations

from torch import Tensor


def info_nce(match_logit: Tensor, log_normaliser: Tensor, valid: Tensor) -> Tensor:
    """Summed contrastive loss of the valid anchors.

    Args:
        match_logit: ``P A``, ``<e_i, e_match>/tau``, e_match being the bilinear mean of the patches around the
            match (the mean of their log-probabilities is the same: the logit is linear in e).
        log_normaliser: ``P A``, ``logsumexp_k <e_i, e_k>/tau`` over the candidates.
        valid: ``P A`` bool; the others contribute exactly zero.
    """
    return (log_normaliser - match_logit).masked_fill(~valid, 0.0).sum()
