"""Options written as ``(A)``, as BLINK's own code looks for them."""

from __future__ import annotations

LETTERS = "ABCDE"


def bracketed_letter(reply: str, num_options: int) -> str | None:
    """``(A)`` to ``(E)``; ``None`` where the official code would ask GPT-3.5.

    A reply that is one letter, bare or in brackets, is taken as it is, even where the question has fewer
    options. Otherwise ``(A)`` must stand between white space (``(A),`` does not count), and be the only one in
    the reply or in what follows its last empty line.

    Source: zeyofu/BLINK_Benchmark, ``eval/test_benchmark.py``, ``analyze_answer``.
    """
    if len(reply) == 1 and reply in LETTERS:
        return f"({reply})"
    if len(reply) == 3 and reply in {f"({letter})" for letter in LETTERS}:
        return reply
    offered = {f"({letter})" for letter in LETTERS[:num_options]}
    for part in (reply.split("\n\n")[-1], reply):
        found = offered.intersection(part.split())
        if len(found) == 1:
            return found.pop()
    return None
