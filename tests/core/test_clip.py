"""Clips: views of one size or of several, and text alone."""

import pytest
import torch

from spatialprior.core.clip import MultiViewClip


def _view(height, width):
    return torch.zeros(3, height, width, dtype=torch.uint8)


def test_views_may_differ_in_size():
    clip = MultiViewClip("c", "s", (_view(4, 6), _view(8, 2)), (0, 1))
    assert clip.num_views == 2 and clip.image_sizes == [(4, 6), (8, 2)]
    with pytest.raises(ValueError, match="views of 2 sizes"):
        _ = clip.image_size


def test_one_size_and_no_view_at_all():
    assert MultiViewClip("c", "s", torch.stack([_view(4, 6)] * 3), (0, 1, 2)).image_size == (4, 6)
    assert MultiViewClip("c", "s", (), ()).num_views == 0


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 4, 4), (torch.zeros(1, 4, 4, dtype=torch.uint8),)]
)
def test_what_is_no_picture_is_refused(images):
    with pytest.raises(ValueError, match="clip c: images must be uint8"):
        MultiViewClip("c", "s", images, tuple(range(len(images))))
