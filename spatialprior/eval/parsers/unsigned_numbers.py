"""All numbers in a reply, without signs, as SPAR-Bench reads them."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<!\^)(?:\d+\.\d+|\d+)")


def unsigned_numbers(reply: str) -> list[float | int]:
    """Integers and decimals, in order.

    Of a number right behind ``^`` only the first digit is passed over: ``^12`` gives 2.

    Source: SPAR, ``lmms_eval/tasks/sparbench/utils.py``, ``process_na``.

    Raises:
        ValueError: An integer has more digits than Python reads (4300).
    """
    return [float(text) if "." in text else int(text) for text in _NUMBER.findall(reply)]
