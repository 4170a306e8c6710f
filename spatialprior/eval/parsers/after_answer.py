"""The first character after "answer is", as Cambrian's scripts read CV-Bench."""

from __future__ import annotations


def first_character(reply: str, trailing: str = ".") -> str:
    """Lower-cased; what follows the last "answer is", then the last "answer:"; trimmed; its first character.

    "answer is" is cut before "answer is:" is looked for, so "The answer is: B" gives ``:``.

    Args:
        reply: What the model said.
        trailing: Characters stripped at the end, before brackets are: ``.``, or ``.:,`` for Omni3D.

    Source: cambrian-mllm/cambrian, ``eval/eval/{coco,omni}/*_test.py``, ``extract_mcq_answer``.
    """
    text = reply.lower().strip()
    for phrase in ("answer is", "answer is:", "answer:"):
        text = text.rpartition(phrase)[2]
    return text.strip().rstrip(trailing).lstrip("(").rstrip(")")[:1]
