"""Views and marks taken away or moved, with all that belongs to them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip
from spatialprior.eval.ablation.views import another_order, kept_view, with_views, without_marks
from spatialprior.testing import plane_clip


@given(st.text(max_size=20), st.integers(0, 40))
def test_another_order_is_one_and_another(clip_id, count):
    order = another_order(clip_id, count)
    assert sorted(order) == list(range(count))
    assert order == another_order(clip_id, count)
    assert (order != list(range(count))) == (count > 1)


def test_orders_differ_between_clips():
    assert len({tuple(another_order(str(clip), 6)) for clip in range(20)}) > 10


def test_views_take_their_geometry_with_them():
    clip = plane_clip(num_views=4)
    found = with_views(clip, (3, 1))
    assert found.frame_ids == (clip.frame_ids[3], clip.frame_ids[1])
    for name in ("images", "intrinsics", "world_to_cam", "depth", "depth_valid"):
        assert torch.equal(getattr(found, name), getattr(clip, name)[[3, 1]]), name
    none = with_views(clip, ())
    assert none.num_views == 0 and not none.has_geometry and none.depth_valid is None


def test_views_of_unlike_sizes():
    views = tuple(torch.full((3, 8, 8 + i), i, dtype=torch.uint8) for i in range(3))
    clip = MultiViewClip("a", "a", views, (0, 1, 2))
    assert [int(view.max()) for view in with_views(clip, (2, 0)).images] == [2, 0]
    assert with_views(clip, ()).images == ()


def test_the_view_that_is_kept():
    assert [kept_view(n, video=True) for n in (1, 2, 3, 32)] == [0, 1, 1, 16]
    assert kept_view(5, video=False) == 0


def test_marks():
    text = f"{IMAGE_MARK} first,\n{IMAGE_MARK}second {IMAGE_MARK}"
    assert without_marks(text) == " first,\nsecond "
    assert without_marks(text, 1) == f" first,\n{IMAGE_MARK}second "
    assert without_marks("plain", 0) == "plain"
