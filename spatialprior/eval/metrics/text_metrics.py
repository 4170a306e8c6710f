"""BLEU, METEOR, ROUGE-L and CIDEr of replies against several answers, by the package pycocoevalcap."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from threading import Timer
from typing import Any

log = logging.getLogger(__name__)

PACKAGE = "pycocoevalcap"
METEOR_SECONDS = 100.0
"""How long METEOR's program may take over one set of replies: seconds as a rule, most of them to start."""


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

    Words are what white space separates; nothing is lower-cased. For METEOR alone, whose program reads one
    sentence a line in UTF-8, line breaks become spaces, and half a surrogate pair a question mark. It takes
    minutes over a reply and an answer of hundreds of the same words: beyond :data:`METEOR_SECONDS`, or where
    it breaks off, there is no METEOR, and a warning says so.

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
        meteor = _meteor(answers, replies)
        if meteor is not None:
            found["METEOR"] = meteor
    return found


def _meteor(
    answers: Mapping[int, Sequence[str]], replies: Mapping[int, Sequence[str]]
) -> float | None:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    timer = Timer(METEOR_SECONDS, scorer.meteor_p.kill)
    timer.daemon = True
    timer.start()
    try:
        score, _ = scorer.compute_score(
            *({k: _lines(v) for k, v in each.items()} for each in (answers, replies))
        )
        return float(score)
    except (OSError, ValueError):  # its pipe is gone, or gave no number
        log.warning(
            "METEOR is left out: its Java program broke off, or took over %g seconds",
            METEOR_SECONDS,
        )
        return None
    finally:
        timer.cancel()
        _stop(scorer)


def _lines(texts: Sequence[str]) -> list[str]:
    return [re.sub("[\r\n]", " ", text).encode(errors="replace").decode() for text in texts]


def _stop(scorer: Any) -> None:
    """Ends the program, and lets go of a lock for which the scorer's destructor would wait for ever."""
    with suppress(OSError):
        scorer.meteor_p.stdin.close()
    scorer.meteor_p.kill()
    scorer.meteor_p.wait()
    for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):
        pipe.close()
    if scorer.lock.locked():
        scorer.lock.release()
