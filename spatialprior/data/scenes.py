"""Scene ids, written alike wherever they come from: what training and test data may have in common.

Paths and names of published data carry the scene in one of a few known forms. Several recordings of one room
count as that room where the name says so (ScanNet's ``scene0001_00`` and ``scene0001_01``); ARKitScenes, 3RScan
and ScanNet++ say it in tables of their own only, so that there a recording is taken for a scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BEFORE, _AFTER = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_PATTERNS = (
    ("scannet", re.compile(rf"{_BEFORE}(scene\d{{4}})(?:_\d{{2}})?{_AFTER}")),
    (
        "3rscan",
        re.compile(rf"{_BEFORE}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}){_AFTER}"),
    ),
    # Ten hexadecimal digits; without a letter they may be any number.
    ("scannetpp", re.compile(rf"{_BEFORE}((?=[0-9]*[a-f])[0-9a-f]{{10}}){_AFTER}")),
    # Video ids of the release, 40753679 to 48458667; other eight digits may be a date.
    ("arkitscenes", re.compile(rf"{_BEFORE}(4[0-8]\d{{6}}){_AFTER}")),
    # Eleven characters of both cases with a digit, as YouTube's ids, of which the same holds: one id, one film.
    (
        "matterport",
        re.compile(
            rf"{_BEFORE}((?=[A-Z0-9]*[a-z])(?=[a-z0-9]*[A-Z])(?=[A-Za-z]*\d)[A-Za-z0-9]{{11}}){_AFTER}"
        ),
    ),
)
# What would be too common elsewhere counts where the name says which data it is.
_WHERE_NAMED = (
    (
        "scannetpp",
        re.compile(r"scannet(?:pp|\+\+)", re.I),
        re.compile(rf"{_BEFORE}(\d{{10}}){_AFTER}"),
    ),
    (
        "matterport",
        re.compile(r"matterport|mp3d|r2r", re.I),
        re.compile(rf"{_BEFORE}((?=[A-Z]*[a-z])(?=[A-Za-z][a-z]*[A-Z])[A-Za-z]{{11}}){_AFTER}"),
    ),
)


@dataclass(frozen=True)
class Scenes:
    """The scenes of some data.

    Attributes:
        known: Their ids, ``dataset/scene`` where the form is a known one.
        unnamed: Clips, records or the like of which no scene can be told.
    """

    known: frozenset[str]
    unnamed: int = 0


def scene_ids(name: str) -> set[str]:
    """Scenes that a path or name speaks of, as ``dataset/scene``; empty where none is of a known form."""
    found = {f"{data}/{scene}" for data, form in _PATTERNS for scene in form.findall(name)}
    for data, named, form in _WHERE_NAMED:
        if named.search(name):
            found |= {f"{data}/{scene}" for scene in form.findall(name)}
    return found


def scenes_of(names: Iterable[str]) -> Scenes:
    """Scenes of clips or records, one name or path of each."""
    known: set[str] = set()
    unnamed = 0
    for name in names:
        found = scene_ids(name)
        known |= found
        unnamed += not found
    return Scenes(frozenset(known), unnamed)
