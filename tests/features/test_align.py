"""A cell and the token it is fused into see the same pixels: every family, aspect ratio, fit and stride."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.features.align import align, onto_tokens, overlap_weights
from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.fit import PatchGrid, fit_frames, fitted_size
from spatialprior.features.maps import FeatureMaps
from spatialprior.registry import BACKBONES
from spatialprior.testing import tiny_backbone

MODES = [(kind, frames) for kind in BACKBONES.names() for frames in ("images", "video")]
SIZES = {"4:3": (96, 128), "16:9": (72, 128), "portrait": (128, 96)}


class Brightness(FeatureEncoder):
    """Mean brightness of every 8-pixel cell of its input."""

    multiple = 8

    @property
    def channels(self) -> int:
        return 1

    @property
    def revision(self) -> str:
        return "none"

    def load(self):
        return torch.nn.Identity()

    def encode_pixels(self, module, pixels, seeds):
        return F.avg_pool2d(pixels.mean(1, keepdim=True), 8)


def marked(size: tuple[int, int], center: tuple[float, float], num_views: int = 2) -> MultiViewClip:
    """Black views with a white 16-pixel square about ``center`` ``(x, y)``, given as shares."""
    images = torch.zeros(num_views, 3, *size, dtype=torch.uint8)
    x, y = int(center[0] * size[1]), int(center[1] * size[0])
    images[:, :, y - 8 : y + 8, x - 8 : x + 8] = 255
    return MultiViewClip(
        "marked",
        "marked",
        images,
        tuple(range(num_views)),
        questions=(Question("t", "where?", "here"),),
    )


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_the_brightest_token_lies_on_the_marker(kind, frames, size, fit):
    center = (0.55, 0.4)
    clip = marked(
        size, center, num_views=1 if (kind, frames) == ("llava_next_video", "images") else 2
    )
    layout = tiny_backbone(kind=kind, frames=frames).encoder()([clip]).token_map
    maps = Brightness(EncoderConfig(size=(96, 96), fit=fit))(clip.images)
    features, seen = align([maps.frames()], layout, 1)
    for view in range(len(layout.frames(0))):
        valid = layout.valid[0, view] & seen[0, view]
        brightest = int(features[0, view, :, 0].masked_fill(~valid, -1).argmax())
        rows, cols = layout.grid[0, view].tolist()
        x0, y0, x1, y1 = layout.pixel_box(0, view, brightest // cols, brightest % cols)
        x, y = center[0] * size[1], center[1] * size[0]
        # The square is as large as a token or larger: its brightest token overlaps it.
        assert x0 - 8 <= x <= x1 + 8 and y0 - 8 <= y <= y1 + 8, (x0, y0, x1, y1)
        # Seen from the other side: the centre of mass of all tokens is the marker's.
        weight = features[0, view, valid, 0].double()
        mass = (weight[:, None] * layout.centers()[0, view, valid].double()).sum(0) / weight.sum()
        cell = torch.tensor([x1 - x0, y1 - y0]).double()
        assert ((mass - torch.tensor([x, y])).abs() <= 0.6 * cell + 1).all(), (mass, x, y)
    assert rows * cols == int(layout.valid[0, view].sum())


def test_a_crop_hides_the_borders_and_no_more():
    clip = marked((72, 128), (0.5, 0.5))
    maps = Brightness(EncoderConfig(size=(64, 64), fit="crop"))(clip.images)
    assert maps.box == (28.0, 0.0, 100.0, 72.0)
    features, seen = onto_tokens(maps.frames()[0], (9, 16), (0.0, 0.0, 128.0, 72.0))
    seen = seen.view(9, 16)
    # Columns of 8 pixels: 24-32 lies half inside of the crop, 16-24 outside.
    assert seen[:, 3:13].all() and not seen[:, :3].any() and not seen[:, 13:].any()
    assert not features.view(9, 16)[~seen].any()


def test_equal_grids_are_copied_bit_for_bit():
    values = torch.randn(1, 5, 6, 7)
    found, seen = onto_tokens(
        FeatureMaps(values, (3.0, 1.0, 45.0, 37.0)), (6, 7), (3.0, 1.0, 45.0, 37.0)
    )
    assert seen.all()
    assert torch.allclose(found.T.view(5, 6, 7), values[0], atol=1e-6)


def test_coarser_tokens_are_area_means_and_finer_ones_interpolate():
    values = torch.randn(1, 3, 8, 12)
    box = (0.0, 0.0, 96.0, 64.0)
    coarse, _ = onto_tokens(FeatureMaps(values, box), (4, 6), box)
    assert torch.allclose(coarse.T.view(3, 4, 6), F.avg_pool2d(values, 2)[0], atol=1e-6)
    fine, _ = onto_tokens(FeatureMaps(values, box), (16, 24), box)
    wanted = F.interpolate(values, (16, 24), mode="bilinear", align_corners=False)[0]
    inside = (
        slice(None),
        slice(1, -1),
        slice(1, -1),
    )  # torch repeats the border, as does renormalising
    assert torch.allclose(fine.T.view(3, 16, 24)[inside], wanted[inside], atol=1e-5)


@given(
    st.floats(-50, 50), st.floats(1, 200), st.integers(1, 40),
    st.floats(-50, 50), st.floats(1, 200), st.integers(1, 40),
)  # fmt: skip
def test_weights_are_means_and_keep_coordinates(
    start, length, count, from_start, from_length, from_count
):
    weights, covered = overlap_weights(
        start, start + length, count, from_start, from_start + from_length, from_count
    )
    total = weights.sum(1)
    assert (weights >= 0).all() and bool(((total - 1).abs() < 1e-9).logical_or(total == 0).all())
    assert (covered >= -1e-9).all() and (covered <= 1 + 1e-9).all()
    # Features that are their own coordinate come back as the token's, where it is wholly inside.
    cell, token = from_length / from_count, length / count
    own = from_start + cell * (torch.arange(from_count, dtype=torch.float64) + 0.5)
    center = start + token * (torch.arange(count, dtype=torch.float64) + 0.5)
    half = max(cell, token) / 2
    whole = (center - half >= from_start) & (center + half <= from_start + from_length)
    # A mean over cells is off by what the two edge cells are cut, at most a cell.
    assert ((weights @ own - center)[whole].abs() <= cell / 2 + 1e-6).all()


@given(st.integers(8, 700), st.integers(8, 700), st.sampled_from([8, 14, 16, 28]))
def test_aspect_keeps_the_area_and_the_aspect(height, width, multiple):
    found = fitted_size((height, width), (224, 224), "aspect", multiple)
    assert all(side % multiple == 0 and side > 0 for side in found)
    if 0.5 <= height / width <= 2:
        assert 0.75 <= found[0] * found[1] / 224**2 <= 1.35
        assert abs(found[0] / found[1] / (height / width) - 1) <= 0.25


SIDES = st.integers(1, 90)


@given(
    st.tuples(SIDES, SIDES),
    st.sampled_from([(8, 8), (32, 48), (64, 24)]),
    st.sampled_from(["aspect", "stretch", "crop"]),
    st.sampled_from([None, (1, 2), (3, 3)]),
)
def test_the_grid_is_known_before_a_frame_is_encoded(frame, size, fit, pool):
    encoder = Brightness(EncoderConfig(size=size, fit=fit, pool=pool))
    found = encoder(torch.zeros(1, 3, *frame, dtype=torch.uint8))
    ahead = pickle.loads(pickle.dumps(encoder.patch_grid))
    assert ahead == encoder.patch_grid and hash(ahead) == hash(encoder.patch_grid)
    assert found.grid == ahead(frame)
    assert found.box == ahead.box(frame)


def test_the_box_of_a_crop_is_what_is_cut_out():
    # Every pixel is its own column's number; the input is the cut itself, not resized.
    images = torch.arange(40, dtype=torch.uint8).expand(1, 3, 16, 40)
    pixels, box = fit_frames(images, (16, 24), "crop", 8)
    assert box == PatchGrid((16, 24), "crop", 8).box((16, 40)) == (8, 0, 32, 16)
    assert torch.equal((pixels[0, 0, 0] * 255).round(), torch.arange(8.0, 32.0))


def test_an_encoder_with_pixels_of_its_own_gives_no_grid():
    class Narrower(Brightness):
        def box_of(self, box):
            return (box[0] + 1, *box[1:])

    with pytest.raises(EncoderError, match=r"Narrower .* once it has encoded"):
        _ = Narrower(EncoderConfig()).patch_grid


def test_a_grid_of_a_size_that_does_not_divide_is_refused():
    grid = PatchGrid((60, 64), "stretch", 16)
    for ask in (grid, grid.box):
        with pytest.raises(ValueError, match="multiples of 16"):
            ask((40, 40))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        fit_frames(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), (60, 64), "stretch", 16)
