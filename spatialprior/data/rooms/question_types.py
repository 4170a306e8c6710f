"""The question types, one function each, named after what public spatial benchmarks ask.

**No answer may be guessed from the words.** Three devices see to it:

* *Colours are exchangeable*: a room deals its colours at random, so naming colours says nothing.
* *Swapped views*: a question about fixed cells is asked only where two of the views answer it differently,
  and a coin picks the view. Paths have random phase and sense of turn, so view numbers say nothing either.
* *Swapped matches*: a wrong match is where a third view shows the point, or a mirror image.

A function returns ``None`` where the views cannot carry its question. Words are few: each costs a token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spatialprior.core.clip import Question
from spatialprior.data.rooms.observed import Observed, cell_name, pick
from spatialprior.data.rooms.scene import FIRST_OBJECT
from spatialprior.data.rooms.texture import OBJECT_COLOURS

Rng = np.random.Generator
QuestionType = Callable[[Observed, Rng], Question | None]

COLOURS = tuple(OBJECT_COLOURS)
COUNTS = {3: "three", 4: "four", 5: "five", 6: "six"}
VIEW_COUNTS = ("one", "two", "three", "four")
YES_NO = ("yes", "no")
ORDINALS = ("first", "second", "third", "fourth")

_COUNT_KEEP = {3: 1.0, 4: 0.33, 5: 0.48, 6: 0.58}
"""Share of clips asked, by object count: inverse to how often default clips show it (measured)."""

_VIEW_COUNT_KEEP = {1: 1.0, 2: 0.73, 3: 0.19}
"""Share of objects asked, by the number of views that show them: likewise."""

_GOLDEN = 0.618033988749895  # spreads one draw evenly over several objects


def color_at(seen: Observed, rng: Rng) -> Question | None:
    """Colour of the object at a cell (colours dealt at random: balanced for every cell)."""
    shown = np.unique(seen.cell_instance[seen.cell_instance >= FIRST_OBJECT])
    if not len(shown):
        return None
    instance = int(shown[pick(rng, shown)])
    places = np.argwhere(seen.cell_instance == instance)
    view, row, col = places[pick(rng, places)].tolist()
    return Question(
        "color_at", f"image {view + 1} {cell_name(row, col)} color?", seen.colour(instance), COLOURS
    )


def kind_at(seen: Observed, rng: Rng) -> Question | None:
    """Which of two kinds of thing is at a cell, where two views show either (swapped views)."""
    kinds = np.array(seen.room.kinds)
    cells = seen.cell_instance
    for _ in range(30):
        a, b = rng.choice(seen.num_views, size=2, replace=False).tolist()
        row, col = rng.integers(seen.grid, size=2).tolist()
        first, second = cells[a, row, col], cells[b, row, col]
        if min(first, second) < 0 or kinds[first] == kinds[second]:
            continue
        options = (str(kinds[first]), str(kinds[second]))
        options = options if rng.random() < 0.5 else options[::-1]
        text = f"image {a + 1} {cell_name(row, col)} {options[0]} or {options[1]}?"
        return Question("kind_at", text, str(kinds[first]), options)
    return None


def relative_depth(seen: Observed, rng: Rng) -> Question | None:
    """Which of two cells is nearer to the camera, where two views disagree (swapped views)."""
    depth = seen.cell_depth
    for _ in range(60):
        a, b = rng.choice(seen.num_views, size=2, replace=False).tolist()
        (r0, c0), (r1, c1) = rng.integers(seen.grid, size=(2, 2)).tolist()
        if (
            max(abs(r0 - r1), abs(c0 - c1)) < 2
            or min(seen.cell_instance[[a, a, b, b], [r0, r1] * 2, [c0, c1] * 2]) < 0
        ):
            continue
        in_a, in_b = (np.log(depth[v, r1, c1] / depth[v, r0, c0]) for v in (a, b))
        if in_a * in_b > 0 or min(abs(in_a), abs(in_b)) < 0.15:
            continue
        text = f"image {a + 1} nearer {cell_name(r0, c0)} or {cell_name(r1, c1)}?"
        return Question("relative_depth", text, "first" if in_a > 0 else "second", ORDINALS[:2])
    return None


def spatial_relation(seen: Observed, rng: Rng) -> Question | None:
    """Whether one object appears left or right of another in a view."""
    view = int(rng.integers(seen.num_views))
    objects = np.flatnonzero(seen.seen[view])
    if len(objects) < 2:
        return None
    a, b = rng.choice(objects, size=2, replace=False).tolist()
    gap = seen.image_x[view, a] - seen.image_x[view, b]
    if abs(gap) < seen.instances.shape[2] / seen.grid:
        return None
    text = f"image {view + 1} {_name(seen, a)} left or right of {_name(seen, b)}?"
    return Question("spatial_relation", text, "left" if gap < 0 else "right", ("left", "right"))


def camera_motion(seen: Observed, rng: Rng) -> Question | None:
    """Whether the camera turned left or right between two views, or moved forward or back."""
    a, b = rng.choice(seen.num_views, size=2, replace=False).tolist()
    ga, gb = seen.gaze(a), seen.gaze(b)
    turn = np.arctan2(
        ga[0] * gb[1] - ga[1] * gb[0], ga[0] * gb[0] + ga[1] * gb[1]
    )  # positive is left
    advance = float((seen.position(b) - seen.position(a)) @ (ga + gb)) / 2
    text = f"camera {{}} from image {a + 1} to {b + 1}?"
    if abs(advance) > 0.4 and rng.random() < 0.5:
        return Question(
            "camera_motion",
            text.format("move"),
            "forward" if advance > 0 else "back",
            ("forward", "back"),
        )
    if abs(turn) < 0.15:
        return None
    return Question(
        "camera_motion", text.format("turn"), "left" if turn > 0 else "right", ("left", "right")
    )


def object_count(seen: Observed, rng: Rng) -> Question | None:
    """How many objects the views show together."""
    ever = seen.seen.any(axis=0)
    count = int(ever.sum())
    if (seen.unclear & ~ever).any() or seen.luck >= _COUNT_KEEP.get(count, 0.0):
        return None
    return Question(
        "object_count", "all images count objects?", COUNTS[count], tuple(COUNTS.values())
    )


def appearance_order(seen: Observed, rng: Rng) -> Question | None:
    """Which of two objects is seen first, going through the views in order."""
    objects = np.flatnonzero(seen.seen.any(axis=0))
    first = seen.seen.argmax(axis=0)
    for _ in range(10):
        if len(objects) < 2:
            return None
        a, b = rng.choice(objects, size=2, replace=False).tolist()
        later = a if first[a] > first[b] else b
        if first[a] == first[b] or seen.unclear[: first[later], later].any():
            continue
        options = (_name(seen, a), _name(seen, b))
        answer = options[0] if first[a] < first[b] else options[1]
        return Question(
            "appearance_order", f"seen first {options[0]} or {options[1]}?", answer, options
        )
    return None


def visible_in(seen: Observed, rng: Rng) -> Question | None:
    """Whether a view shows a thing of a colour (as often yes as no; any colour may be asked)."""
    shown = np.argwhere(_by_colour(seen, seen.seen))
    hidden = np.argwhere(~_by_colour(seen, seen.seen | seen.unclear))
    # As many of one as of the other may be asked, so that asking often does not run out of one of them.
    count = min(len(shown), len(hidden))
    if not count:
        return None
    fixed = np.random.default_rng(int(seen.luck * 2**32))
    wanted = rng.random() < 0.5
    places = fixed.permutation(shown if wanted else hidden)[:count]
    view, colour = places[pick(rng, places)].tolist()
    text = f"image {view + 1} {COLOURS[colour]} seen?"
    return Question("visible_in", text, YES_NO[0 if wanted else 1], YES_NO)


def sole_view(seen: Observed, rng: Rng) -> Question | None:
    """Which image is the only one that shows an object."""
    if seen.num_views > len(ORDINALS):
        return None
    found = np.flatnonzero((seen.seen.sum(axis=0) == 1) & ~seen.unclear.any(axis=0))
    if not len(found):
        return None
    thing = int(found[pick(rng, found)])
    options = ORDINALS[: seen.num_views]
    answer = options[int(seen.seen[:, thing].argmax())]
    return Question("sole_view", f"only image of {_name(seen, thing)}?", answer, options)


def view_count(seen: Observed, rng: Rng) -> Question | None:
    """How many of the images show an object."""
    if seen.num_views > len(VIEW_COUNTS):
        return None
    times = np.where(seen.unclear.any(axis=0), 0, seen.seen.sum(axis=0))
    # One draw per object and views, so that asking again does not wear the selection out.
    luck = (seen.luck + _GOLDEN * np.arange(len(times))) % 1
    keep = np.array([_VIEW_COUNT_KEEP.get(int(n), 0.0) for n in times])
    found = np.flatnonzero(luck < keep)
    if not len(found):
        return None
    thing = int(found[pick(rng, found)])
    text = f"{_name(seen, thing)} seen in count images?"
    options = VIEW_COUNTS[: seen.num_views]
    return Question("view_count", text, options[times[thing] - 1], options)


def same_point(seen: Observed, rng: Rng) -> Question | None:
    """Whether two cells of two views show the same point (a wrong one is right in the third view)."""
    found = _swappable_match(seen, rng)
    if found is None:
        return None
    a, b, source, here, elsewhere = found
    true = rng.random() < 0.5
    target = cell_name(*(here if true else elsewhere))
    text = f"image {a + 1} {cell_name(*source)} same as image {b + 1} {target}?"
    return Question("same_point", text, YES_NO[0 if true else 1], YES_NO)


def correspondence(seen: Observed, rng: Rng) -> Question | None:
    """Which of four cells of another view shows the point at a cell.

    Offered are its cells in two other views, and both mirrored left to right at the queried cell.
    """
    found = _swappable_match(seen, rng)
    if found is None:
        return None
    a, b, source, here, elsewhere = found
    offers = [here, elsewhere, *((row, 2 * source[1] - col) for row, col in (here, elsewhere))]
    if (
        min(col for _, col in offers) < 0
        or max(col for _, col in offers) >= seen.grid
        or _close(offers)
    ):
        return None
    order = rng.permutation(4).tolist()
    listed = " ".join(cell_name(*offers[i]) for i in order)
    text = f"image {a + 1} {cell_name(*source)} in image {b + 1} is {listed}?"
    return Question("correspondence", text, ORDINALS[order.index(0)], ORDINALS)


def relative_direction(seen: Observed, rng: Rng) -> Question | None:
    """Standing at one object and facing a second, on which side is a third?"""
    objects = np.flatnonzero(seen.seen.any(axis=0))
    if len(objects) < 3:
        return None
    a, b, c = rng.choice(objects, size=3, replace=False).tolist()
    (x0, y0), (x1, y1) = (
        (seen.centers[b] - seen.centers[a])[:2],
        (seen.centers[c] - seen.centers[a])[:2],
    )
    angle = np.arctan2(x0 * y1 - y0 * x1, x0 * x1 + y0 * y1)
    if not np.radians(20) < abs(angle) < np.radians(160):
        return None
    text = f"at {_name(seen, a)} facing {_name(seen, b)} is {_name(seen, c)} left or right?"
    return Question("relative_direction", text, "left" if angle > 0 else "right", ("left", "right"))


def relative_distance(seen: Observed, rng: Rng) -> Question | None:
    """Which of two objects is closer to a third, in the room."""
    objects = np.flatnonzero(seen.seen.any(axis=0))
    if len(objects) < 3:
        return None
    a, b, c = rng.choice(objects, size=3, replace=False).tolist()
    to_b, to_c = (float(np.linalg.norm(seen.centers[i] - seen.centers[a])) for i in (b, c))
    if max(to_b, to_c) < 1.2 * min(to_b, to_c):
        return None
    options = (_name(seen, b), _name(seen, c))
    text = f"closer to {_name(seen, a)} {options[0]} or {options[1]}?"
    return Question("relative_distance", text, options[0] if to_b < to_c else options[1], options)


SINGLE_VIEW: dict[str, QuestionType] = {
    f.__name__: f for f in (color_at, kind_at, relative_depth, spatial_relation, visible_in)
}
"""Answerable from one of the views."""

MULTI_VIEW: dict[str, QuestionType] = {
    f.__name__: f
    for f in (
        camera_motion,
        object_count,
        appearance_order,
        sole_view,
        view_count,
        same_point,
        correspondence,
        relative_direction,
        relative_distance,
    )
}
"""Need more than one view (the relative ones: often)."""

QUESTION_TYPES: dict[str, QuestionType] = SINGLE_VIEW | MULTI_VIEW


def _name(seen: Observed, thing: int) -> str:
    return seen.room.objects[thing].colour


def _by_colour(seen: Observed, things: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``V objects`` to ``V colours``: whether it holds for the object of that colour."""
    table = np.zeros((seen.num_views, len(COLOURS)), dtype=bool)
    for i, thing in enumerate(seen.room.objects):
        table[:, COLOURS.index(thing.colour)] = things[:, i]
    return table


def _swappable_match(
    seen: Observed, rng: Rng
) -> tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """Views a and b, a cell of a, where b shows its point, and where a third view shows it (not nearby)."""
    if seen.num_views < 3:
        return None
    a, b, c = rng.choice(seen.num_views, size=3, replace=False).tolist()
    in_b, in_c = seen.matches(a, b), seen.matches(a, c)
    shared = (in_b >= 0).all(axis=1) & (in_c >= 0).all(axis=1) & (abs(in_b - in_c).max(axis=1) >= 2)
    cells = np.flatnonzero(shared)
    if not len(cells):
        return None
    cell = int(cells[pick(rng, cells)])
    here, elsewhere = in_b[cell].tolist(), in_c[cell].tolist()
    return a, b, divmod(cell, seen.grid), (here[0], here[1]), (elsewhere[0], elsewhere[1])


def _close(cells: list[tuple[int, int]]) -> bool:
    """Whether two of the cells touch or coincide."""
    pairs = [(p, q) for i, p in enumerate(cells) for q in cells[:i]]
    return any(max(abs(p[0] - q[0]), abs(p[1] - q[1])) < 2 for p, q in pairs)
