"""What an audit of scene ids says."""

from __future__ import annotations

from spatialprior.data.scenes import Scenes
from spatialprior.eval.leaks import Audit


def scenes(*names: str, unnamed: int = 0) -> Scenes:
    return Scenes(frozenset(names), unnamed)


def test_shared_scenes_and_who_has_them():
    audit = Audit(
        scenes("a", "b", "c"),
        {"data": scenes("c", "x"), "chat": scenes("a", "c"), "other": "it cannot tell its scenes"},
    )
    assert audit.shared == {"a": ["chat"], "c": ["data", "chat"]}
    assert audit.told() == "2 scenes (a, c; of chat, data)"
    found = audit.to_dict()
    assert found["shared"] == 2 and found["benchmark"]["scenes"] == 3
    assert found["sources"]["other"] == {"audited": False, "why": "it cannot tell its scenes"}


def test_only_the_first_five_are_named():
    names = [f"s{i}" for i in range(7)]
    told = Audit(scenes(*names), {"data": scenes(*names)}).told()
    assert told == "7 scenes (s0, s1, s2, s3, s4, ...; of data)"


def test_what_cannot_tell_is_not_audited():
    unknown = Audit("it cannot tell its scenes", {"data": scenes("a")})
    assert not unknown.shared and not unknown.to_dict()["benchmark"]["audited"]
    nameless = Audit(scenes("a"), {"data": scenes(unnamed=9)}).to_dict()
    assert nameless["sources"]["data"] == {"audited": False, "why": "none of its 9 names a scene"}
    assert nameless["shared"] == 0
