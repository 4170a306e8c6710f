"""How well the words alone predict the answers: the yardstick for every score.

A majority class flatters a model that has learned the texts. So the lookup reads training questions'
*texts*, tries several ways to generalise from them, and keeps for each task the way that works best on
training questions it has not seen. A model understands a task only where it beats this on held-out scenes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from spatialprior.core.clip import Question

_CELL = re.compile(r"\bcell ([a-p]) ([a-p])\b")

Key = Callable[[Question], str]


def _exact(question: Question) -> str:
    return question.text


def _rows(question: Question) -> str:
    """The text with every cell's column blotted out."""
    return _CELL.sub(r"cell \1 *", question.text)


def _columns(question: Question) -> str:
    return _CELL.sub(r"cell * \2", question.text)


def _offset(question: Question) -> str:
    """The text with its cells replaced by their offsets from the first one."""
    cells = [(ord(row), ord(col)) for row, col in _CELL.findall(question.text)]
    offsets = [(row - cells[0][0], col - cells[0][1]) for row, col in cells[1:]]
    return f"{_template(question)} {offsets}"


def _vertical(question: Question) -> str:
    """The first cell's row, and for every other cell whether it lies above or below."""
    rows = [ord(row) for row, _ in _CELL.findall(question.text)]
    sides = [(row > rows[0]) - (row < rows[0]) for row in rows[1:]]
    return f"{_template(question)} {rows[:1]} {sides}"


def _template(question: Question) -> str:
    """The text without cells and without the words offered as options."""
    options = {re.escape(option) for option in question.options}
    text = _CELL.sub("cell", question.text)
    return re.sub(rf"\b({'|'.join(sorted(options))})\b", "<option>", text) if options else text


def _options(question: Question) -> str:
    return " ".join(sorted(question.options))


_KEYS: tuple[Key, ...] = (_exact, _rows, _columns, _offset, _vertical, _template, _options)


class BlindLookup:
    """Majority answer of equal-looking training questions, under each task's best notion of "equal-looking"."""

    def __init__(self) -> None:
        self._tables: dict[Key, _Table] = {}
        self._best: dict[str, Key] = {}

    @classmethod
    def fit(cls, questions: Iterable[Question]) -> BlindLookup:
        """Fit on training questions; the key of each task is chosen by two-fold validation among them."""
        known = list(questions)
        lookup = cls()
        folds = (known[::2], known[1::2])
        right: dict[str, Counter[int]] = defaultdict(Counter)
        for place, key in enumerate(_KEYS):
            lookup._tables[key] = _Table(key, known)
            for fit, check in (folds, folds[::-1]):
                table = _Table(key, fit)
                for question in check:
                    right[question.task][place] += table.predict(question) == question.answer
        for task, counts in right.items():
            lookup._best[task] = _KEYS[
                max(range(len(_KEYS)), key=lambda place: (counts[place], place))
            ]
        return lookup

    def predict(self, question: Question) -> str:
        """The blind guess at ``question``; for a task never met, its first option (empty without options)."""
        if question.task not in self._best:
            return question.options[0] if question.options else ""
        return self._tables[self._best[question.task]].predict(question)

    def score(self, questions: Sequence[Question]) -> list[float]:
        """1.0 where the guess is right, else 0.0, question by question."""
        return [float(self.predict(question) == question.answer) for question in questions]


class _Table:
    """Counts of answers under one key, both as words and as places among the options."""

    def __init__(self, key: Key, questions: Iterable[Question]) -> None:
        self._key = key
        self._words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._places: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        self._by_task: dict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            name = (question.task, key(question))
            self._words[name][question.answer] += 1
            self._by_task[question.task][question.answer] += 1
            if question.answer in question.options:
                self._places[name][question.options.index(question.answer)] += 1

    def predict(self, question: Question) -> str:
        name = (question.task, self._key(question))
        words = self._words.get(name, Counter())
        if not question.options:
            counts = words or self._by_task.get(question.task, Counter())
            return counts.most_common(1)[0][0] if counts else ""
        # Where options differ between questions, the right one's place may tell, or the word itself.
        places = self._places.get(name, Counter())
        overall = self._by_task.get(question.task, Counter())

        def evidence(place: int) -> tuple[float, float, int]:
            option = question.options[place]
            return words[option] + 0.5 * places[place], overall[option], -place

        return question.options[max(range(len(question.options)), key=evidence)]
