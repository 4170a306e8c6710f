"""Contrastive point correspondence (InfoNCE), GASP section on the correspondence loss.

For anchor i in frame a with true match in frame b:
``L_i = -log( exp(<e_i, e_match>/tau) / sum_k exp(<e_i, e_k>/tau) )``, k over the candidates.
The match falls between patch centres, so its target is spread over the four surrounding patches with
bilinear weights (one-hot when it sits on a centre); candidates are all patches of the frame(s).
"""

from __future__ import annotations

from torch import Tensor


def info_nce(log_probabilities: Tensor, cells: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Summed contrastive loss of the valid anchors.

    Args:
        log_probabilities: ``P A K``, log-softmax over the candidates.
        cells: ``P A 4``, candidates that hold the match.
        weights: ``P A 4``, their shares (sum to one).
        valid: ``P A`` bool; the others contribute exactly zero.
    """
    expected = (log_probabilities.gather(-1, cells) * weights.to(log_probabilities.dtype)).sum(-1)
    return -expected.masked_fill(~valid, 0.0).sum()
