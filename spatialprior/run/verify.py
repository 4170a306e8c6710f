"""``mode=verify card=PATH``: a card, or all below a folder, recomputed from the stored replies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialprior.eval.cards.card import CardError, find_cards
from spatialprior.eval.cards.verify import verify_card
from spatialprior.run.errors import EXIT_FAILED, ConfigError


def verify(values: Mapping[str, Any]) -> int:
    """Print what agrees and what does not; 0 where all does, else 1. No recipe is composed, no model loaded.

    Args:
        values: The settings of the command line: ``mode`` and ``card``.

    Raises:
        ConfigError: Another setting is there, or none says which card.
        CardError: There is no such card.
    """
    for key in values.keys() - {"mode", "card"}:
        raise ConfigError(f"{key} has no effect on mode=verify, which takes card=PATH alone")
    if not values.get("card"):
        raise ConfigError("mode=verify needs a card: add card=RUN/replies/ARM/card.json")
    codes = [_verify(path) for path in find_cards(Path(str(values["card"])))]
    return max(codes)


def _verify(path: Path) -> int:
    print(path)
    try:
        verdict = verify_card(path)
    except CardError as error:
        print(f"  FAILS        {error}")
        return EXIT_FAILED
    print(verdict.text())
    print("verified" if verdict.ok else f"NOT VERIFIED: {len(verdict.differs)} of it differ")
    return 0 if verdict.ok else EXIT_FAILED
