"""The token map of every family and mode, against what the vision tower does with a bright square."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from spatialprior.diagnostics.anchors import sample_anchors
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.trace import trace_clip
from spatialprior.geometry.matching import Tolerance, all_pairs, grid_points, match
from spatialprior.priors.gasp.targets import match_targets
from spatialprior.registry import BACKBONES
from spatialprior.testing import plane_clip, tiny_backbone

MODES = [(kind, frames) for kind in BACKBONES.names() for frames in ("images", "video")]
MERGED = [(kind, "video") for kind in BACKBONES.names() if kind.startswith("qwen")]


def embeddings(backbone, batch):
    """Visual tokens as they enter the decoder."""
    seen = {}
    hook = backbone.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        backbone(batch)
    hook.remove()
    return seen["inputs_embeds"]


def painted(clip, view, box):
    """``clip`` with a white rectangle of a view's pixels."""
    images = clip.images.clone()
    height, width = clip.image_size
    x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
    images[view, :, y0 : min(y1, height), x0 : min(x1, width)] = 255
    return dataclasses.replace(clip, images=images)


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_a_bright_square_moves_the_token_that_the_map_names(kind, frames):
    backbone = tiny_backbone(kind=kind, frames=frames).eval()
    encoder = backbone.encoder()
    views = 1 if (kind, frames) == ("llava_next_video", "images") else 4  # in tiles, slow
    other = plane_clip("other", num_views=views, size=(80, 64))
    clip = plane_clip("marked", num_views=views, size=(96, 144))
    batch = encoder([other, clip])
    layout, plain = batch.token_map, embeddings(backbone, batch)
    token_views = layout.frames(1).tolist()
    assert token_views == ([0, 2] if (kind, frames) in MERGED else list(range(views)))
    rows, cols = layout.grid[1, 0].tolist()
    last = len(token_views) - 1
    for view, row, col in (
        (0, rows // 2, 1),
        (min(1, last), rows // 3, cols - 2),
        (last, rows // 2 + 1, cols // 2),
    ):
        box = layout.pixel_box(1, view, row, col)
        x, y = layout.centers()[1, view, row * cols + col].tolist()
        assert (x, y) == pytest.approx(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), abs=1e-4)
        shown = painted(clip, token_views[view], box)
        moved = (embeddings(backbone, encoder([other, shown])) - plain).norm(dim=-1)
        assert not moved[0].any()
        moved_in_map = torch.where(layout.valid[1], moved[1][layout.index[1]], 0)
        best = divmod(int(moved_in_map.argmax()), layout.index.shape[-1])
        assert best == (view, row * cols + col), (view, row, col)


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_the_map_holds_each_visual_token_once_and_knows_which_it_leaves_out(kind, frames):
    encoder = tiny_backbone(kind=kind, frames=frames).encoder()
    several = kind == "llava_onevision"
    for views in (1, 2) if kind == "llava_next_video" else (1, 4):
        clip = plane_clip("a", num_views=views, size=(64, 96))
        batch = encoder([clip])
        layout, ids = batch.token_map, batch.inputs["input_ids"][0]
        visual = ((ids == encoder.image_id) | (ids == encoder.video_id)).nonzero().squeeze(1)
        mapped = layout.index[0][layout.valid[0]].tolist()
        assert len(set(mapped)) == len(mapped) and set(mapped) <= set(visual.tolist())
        left_out = len(visual) - len(mapped)
        if kind.startswith("qwen") or (kind, frames) == ("llava_next_video", "video"):
            assert left_out == 0
        elif frames == "video":
            assert left_out == 1  # the line break that ends the video
        elif several and views > 1:
            assert left_out == views  # one line break an image
        else:
            assert left_out > views * len(mapped) / views  # tiles, with a line break a row
        for view in range(len(layout.frames(0))):
            start = layout.sequence_index(0, view, 0, 0)
            assert layout.locate(0, start) == (view, 0, 0)


def test_boxes_are_what_each_processor_keeps_of_a_view():
    def box(kind, frames, size, views=2):
        encoder = tiny_backbone(kind=kind, frames=frames).encoder()
        batch = encoder([plane_clip("a", num_views=views, size=size)])
        return batch.token_map.box[0, 0].tolist(), batch.token_map.grid[0, 0].tolist()

    assert box("qwen3_vl", "video", (64, 96)) == ([0, 0, 96, 64], [8, 12])
    # LLaVA-NeXT-Video crops a video to its middle square, and stretches an image.
    assert box("llava_next_video", "video", (64, 96)) == ([16, 0, 80, 64], [12, 12])
    assert box("llava_next_video", "images", (64, 96), 1) == ([0, 0, 96, 64], [24, 24])
    # LLaVA-OneVision pads several images to squares and stretches one or a video; 44 of 46 pixels have patches.
    patched = 44 / 46
    found, grid = box("llava_onevision", "images", (64, 96))
    assert grid == [11, 11] and found == pytest.approx([0, -16, 96 * patched, -16 + 96 * patched])
    found, grid = box("llava_onevision", "images", (64, 96), 1)
    assert grid == [11, 11] and found == pytest.approx([0, 0, 96 * patched, 64 * patched])
    found, grid = box("llava_onevision", "video", (64, 96))
    assert grid == [6, 6] and found == pytest.approx([0, 0, 96 * patched, 64 * patched])


def test_the_published_sizes_give_the_published_grids():
    """The arithmetic at full size: 12x12 tokens a frame, 27x27 and 14x14."""
    encoder = tiny_backbone(kind="llava_next_video").encoder()
    video = encoder.processor.video_processor
    kept = video.size, video.crop_size, encoder.processor.patch_size
    try:
        video.size, video.crop_size = {"shortest_edge": 336}, {"height": 336, "width": 336}
        encoder.processor.patch_size = 14
        clip = plane_clip("a", num_views=3, size=(48, 64))
        batch = encoder([clip])
    finally:
        video.size, video.crop_size, encoder.processor.patch_size = kept
    assert batch.inputs["pixel_values_videos"].shape == (3, 1, 3, 336, 336)
    assert batch.token_map.grid[0].tolist() == [[12, 12]] * 3
    assert batch.token_map.box[0, 0].tolist() == [8, 0, 56, 48]


# --- what reads the map -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_merged_frames_take_the_geometry_of_the_first_of_each_pair(kind):
    """Targets and anchors of a merged video are those of its even views, given as images."""
    clip = plane_clip("a", num_views=5)
    even = [0, 2, 4]
    alone = dataclasses.replace(
        clip,
        images=clip.images[even],
        frame_ids=tuple(clip.frame_ids[i] for i in even),
        **{
            name: getattr(clip, name)[even]
            for name in ("intrinsics", "world_to_cam", "depth", "depth_valid")
        },
    )
    video = tiny_backbone(kind=kind, frames="video").encoder()([clip])
    images = tiny_backbone(kind=kind, frames="images").encoder()([alone])
    assert video.token_map.frames(0).tolist() == even
    settings = {
        "grids": [4, 6],
        "pairs": "all",
        "max_anchors": 0,
        "tolerance": Tolerance(0.03, 0.03),
    }
    found, wanted = match_targets(video, **settings), match_targets(images, **settings)
    for name in ("view_a", "view_b", "cells_a", "weights_b", "depth", "valid", "token_depth"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    config = ProbeConfig(val_clips=1, test_clips=1)
    pairs = sample_anchors([clip], video.token_map, config)
    same = sample_anchors([alone], images.token_map, config)
    for field in dataclasses.fields(pairs):
        assert torch.equal(getattr(pairs, field.name), getattr(same, field.name)), field.name
    assert pairs.distance.tolist() == [2, 4, 2]  # in the clip's own time


def test_points_outside_a_crop_are_neither_anchors_nor_matches():
    backbone = tiny_backbone(kind="llava_next_video")
    batch = backbone.encoder()([plane_clip("a", num_views=3, size=(64, 128))])
    settings = {"grids": [8], "pairs": "all", "max_anchors": 0, "tolerance": Tolerance(0.03, 0.03)}
    targets = match_targets(batch, **settings)
    wide = dataclasses.replace(batch.token_map, box=torch.tensor([0.0, 0, 128, 64]).expand(1, 3, 4))
    uncut = match_targets(dataclasses.replace(batch, token_map=wide), **settings)
    assert 0 < targets.num_valid < uncut.num_valid
    # A quarter of the anchors' columns lies left of the square, a quarter right of it.
    columns = torch.arange(64) % 8
    outside = (columns < 2) | (columns > 5)
    assert not targets.valid[:, outside].any()
    clip = batch.clips[0]
    found = match(
        grid_points(8, 8, 64, 128),
        all_pairs(3),
        clip.depth,
        clip.depth_valid,
        clip.intrinsics,
        clip.world_to_cam,
        tolerance=settings["tolerance"],
    )
    kept = [(points[..., 0] - 64).abs() <= 32 for points in (found.points_a, found.points_b)]
    both = found.visible & kept[0] & kept[1]
    assert targets.num_valid == int(both.sum()) < int((found.visible & kept[0]).sum())
    pairs = sample_anchors(batch.clips, batch.token_map, ProbeConfig(val_clips=1, test_clips=1))
    inside = (pairs.points_b[pairs.scored] - torch.tensor([64.0, 32.0])).abs() <= 32
    assert len(inside) and inside.all()


def test_a_trace_shows_the_views_that_have_tokens(tmp_path):
    for kind, views in (("qwen2_5_vl", 2), ("llava_onevision", 4)):
        backbone = tiny_backbone(kind=kind, frames="video").eval()
        clip = plane_clip("a", num_views=4, size=(64, 96))
        config = ProbeConfig(val_clips=1, test_clips=1)
        trace = trace_clip(backbone, backbone.encoder(), clip, 1, config)
        assert trace.images.shape == (views, 64, 96, 3) and len(trace.heat) == views
        assert (trace.points_b >= 0).all() and (trace.points_b <= [96, 64]).all()
