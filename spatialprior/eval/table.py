"""``python -m spatialprior.eval.table``: tables of scores, from their cards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spatialprior.eval.cards.card import CardError, find_cards, read_card
from spatialprior.eval.cards.markup import FORMATS
from spatialprior.eval.cards.reference import PublishedError, papers, references
from spatialprior.eval.cards.table import tables
from spatialprior.registry import suggest
from spatialprior.report.schema import write_text


def render(
    places: Sequence[Path],
    form: str = "markdown",
    *,
    benchmark: str | None = None,
    published: Sequence[str] = (),
) -> str:
    """All cards below ``places`` as tables of one format.

    Args:
        places: Cards, or folders with cards.
        form: Of :data:`~spatialprior.eval.cards.markup.FORMATS`.
        benchmark: Only this one.
        published: Papers whose numbers stand below ours.

    Raises:
        CardError: There is no card, one is broken, or none is of that benchmark.
        PublishedError: No numbers of such a paper are here.
    """
    cards = []
    for path in dict.fromkeys(path.resolve() for place in places for path in find_cards(place)):
        card, sealed = read_card(path)
        if not sealed:
            raise CardError(
                f"{path} was changed after it was written; python -m spatialprior.run mode=verify "
                f"card={path} says where"
            )
        cards.append(card)
    names = {card.benchmark["name"] for card in cards}
    if benchmark is not None:
        cards = [card for card in cards if card.benchmark["name"] == benchmark]
        if not cards:
            raise CardError(f"no card is of {benchmark!r}; {suggest(benchmark, names)}")
    return FORMATS[form](tables(cards, references(published)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 2 asked for what does not exist."""
    known = papers()
    parser = argparse.ArgumentParser(prog="python -m spatialprior.eval.table", description=__doc__)
    parser.add_argument("cards", nargs="+", type=Path, metavar="CARD_OR_FOLDER")
    parser.add_argument("--format", default="markdown", choices=list(FORMATS))
    parser.add_argument("--benchmark", metavar="NAME", help="only this one")
    parser.add_argument(
        "--published",
        default=",".join(known),
        metavar="NAMES",
        help=f"papers whose numbers stand below ours (default {','.join(known)}; '' is none)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there, not to the terminal")
    asked = parser.parse_args(argv)
    try:
        text = render(
            asked.cards,
            asked.format,
            benchmark=asked.benchmark,
            published=[name for name in asked.published.split(",") if name],
        )
    except (CardError, PublishedError) as error:
        print(f"spatialprior.eval.table: {error}", file=sys.stderr)
        return 2
    if asked.out is None:
        print(text, end="")
        return 0
    try:
        write_text(asked.out, text)
    except OSError as error:
        print(f"spatialprior.eval.table: cannot write: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
