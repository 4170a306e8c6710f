"""BLEU, METEOR, ROUGE-L and CIDEr of replies against several answers, by the package pycocoevalcap."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

PACKAGE = "pycocoevalcap"


def missing() -> list[str]:
    """What :func:`text_metrics` leaves out on this machine, a sentence each; empty where all is there."""
    if find_spec(PACKAGE) is None:
        return [
            'BLEU, METEOR, ROUGE and CIDEr are left out: pip install "spatialprior[text-metrics]"'
        ]
    if shutil.which("java") is None:
        return ["METEOR is left out: it is a Java program, and java is not on this machine's PATH"]
    return []


def text_metrics(pairs: Sequence[tuple[str, Sequence[str]]]) -> dict[str, float]:
    """Each metric over all pairs of a reply and its answers, as fractions (CIDEr up to 10).

    Words are what white space separates; nothing is lower-cased. Line breaks become spaces for METEOR alone,
    whose program reads one sentence a line; it takes minutes over a reply of hundreds of repeated words.

    Args:
        pairs: The reply and the answers that count, at least one.

    Returns:
        ``CIDER``, ``BLEU-1`` to ``BLEU-4``, ``METEOR`` and ``Rouge``, less what :func:`missing` names.
    """
    if not pairs or find_spec(PACKAGE) is None:
        return {}
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    replies = {index: [reply] for index, (reply, _) in enumerate(pairs)}
    answers = {index: list(answers) for index, (_, answers) in enumerate(pairs)}
    bleu, _ = Bleu().compute_score(answers, replies, verbose=0)
    found = {
        "CIDER": float(Cider().compute_score(answers, replies)[0]),
        **{f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)},
        "Rouge": float(Rouge().compute_score(answers, replies)[0]),
    }
    if shutil.which("java") is not None:
        from pycocoevalcap.meteor.meteor import Meteor

        one_line = [
            {k: [" ".join(t.split("\n")) for t in v] for k, v in each.items()}
            for each in (answers, replies)
        ]
        found["METEOR"] = float(Meteor().compute_score(*one_line)[0])
    return found
