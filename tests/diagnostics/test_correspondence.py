"""Correspondence score: closed forms, boxes, pairs, baselines, and a sweep that goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from spatialprior.diagnostics.correspondence.cells import cell_colours, cell_points, pixel_cells
from spatialprior.diagnostics.correspondence.config import CorrespondenceConfig
from spatialprior.diagnostics.correspondence.heatmap import heatmap
from spatialprior.diagnostics.correspondence.score import score_clip, score_encoders
from spatialprior.diagnostics.correspondence.sweep import sweep
from spatialprior.diagnostics.correspondence.voxels import compare_all, view_voxels
from spatialprior.features.encoder import EncoderConfig, FeatureEncoder
from spatialprior.features.maps import FeatureMaps
from spatialprior.geometry.cameras import unproject
from spatialprior.testing.material import plane_clip

WHOLE = (0.0, 0.0, 64.0, 64.0)
COARSE = CorrespondenceConfig(voxel=0.25, grid=None)


def maps_of(values: torch.Tensor, box=WHOLE) -> FeatureMaps:
    return FeatureMaps(values, box)


def clip_points(clip, maps, share=0.1):
    return cell_points(
        maps.cell_boxes(), clip.depth, clip.depth_valid, clip.intrinsics, clip.world_to_cam, share
    )


def place_features(clip, grid: int, voxel: float, box=WHOLE, channels: int = 256) -> FeatureMaps:
    """A random direction for every voxel of the world, the same in every view."""
    maps = maps_of(torch.zeros(clip.num_views, 1, grid, grid), box)
    points, _ = clip_points(clip, maps)
    cells = (points / voxel).floor().long()
    _, which = torch.unique(cells.reshape(-1, 3), dim=0, return_inverse=True)
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(int(which.max()) + 1, channels, generator=generator)
    values = table[which].reshape(clip.num_views, grid, grid, channels)
    return maps_of(values.permute(0, 3, 1, 2), box)


def values_of(maps, clip, config=COARSE, pairs="all"):
    return score_clip(maps, clip, config)[0][pairs].values()


# --- closed forms --------------------------------------------------------------------------


def test_features_of_the_place_are_found_everywhere():
    clip = plane_clip(num_views=4)
    found = values_of(place_features(clip, 16, COARSE.voxel), clip)
    assert found["retrieval"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["difference"] == pytest.approx(1, abs=0.02)  # random directions of 256 channels
    assert found["chance"] < 0.05


def test_constant_features_have_the_best_cosine_and_tell_nothing():
    clip = plane_clip(num_views=4)
    direction = torch.randn(1536, generator=torch.Generator().manual_seed(0))
    found = values_of(maps_of(direction[None, :, None, None].expand(4, -1, 16, 16)), clip)
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["difference"] == pytest.approx(0, abs=1e-5)
    assert found["retrieval"] == pytest.approx(found["chance"], rel=1e-4)


def test_a_shared_component_inflates_the_cosine_alone():
    clip = plane_clip(num_views=4)
    noise = torch.randn(4, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    shared = maps_of(noise + 10)
    found = values_of(shared, clip)
    assert found["cosine"] > 0.98 and abs(found["difference"]) < 0.01
    centred = values_of(shared, clip, replace(COARSE, centre=True))
    assert abs(centred["cosine"]) < 0.1


def test_noise_is_at_chance():
    clip = plane_clip(num_views=4)
    found = [
        values_of(
            maps_of(torch.randn(4, 32, 16, 16, generator=torch.Generator().manual_seed(s))), clip
        )
        for s in range(20)
    ]
    mean = {name: sum(f[name] for f in found) / len(found) for name in found[0]}
    assert abs(mean["cosine"]) < 0.02 and abs(mean["difference"]) < 0.02
    assert mean["retrieval"] == pytest.approx(mean["chance"], abs=0.01)
    assert 0 < mean["chance"] < 0.1


def test_two_views_by_hand():
    """Voxels 0, 1 seen by both, 2 by the second alone."""
    points = torch.tensor(
        [[[0.5, 0, 0], [1.5, 0, 0], [9, 9, 9]], [[0.2, 0, 0], [1.2, 0, 0], [2.5, 0, 0]]]
    )
    valid = torch.tensor([[True, True, False], [True, True, True]])
    root = 0.5**0.5
    features = torch.tensor(
        [[[2.0, 0], [0, 3], [7, 7]], [[1.0, 0], [1, 1], [0, 1]]]
    )  # second view: voxel 2 looks like the first view's voxel 1
    views = view_voxels(features, points, valid, 1.0, centre=False)
    sums, _ = compare_all(views, [0, 1])
    found = sums.values()
    assert found["cosine"] == pytest.approx((1 + root) / 2)
    assert found["mismatched"] == pytest.approx((root + 0) / 2)
    # There: voxel 0 found, voxel 1 goes to 2. Back: voxel 0 found, voxel 1 ties between both.
    assert found["retrieval"] == pytest.approx(((1 + 0) + (1 + 0.5)) / 4)
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_cells_of_one_voxel_are_averaged_and_made_unit_again():
    points = torch.zeros(1, 2, 3)
    views = view_voxels(
        torch.tensor([[[5.0, 0], [0, 0.1]]]), points, torch.ones(1, 2, dtype=torch.bool), 1.0, False
    )
    torch.testing.assert_close(views[0].features, torch.full((1, 2), 0.5**0.5))


# --- geometry of cells ---------------------------------------------------------------------


def test_cell_points_of_a_frontal_plane_are_the_cells_centres():
    intrinsics = torch.tensor([[50.0, 0, 32], [0, 40, 24], [0, 0, 1]])[None]
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = torch.tensor([0.3, -0.2, 0.5])
    maps = maps_of(torch.zeros(1, 1, 4, 8), (0.0, 0.0, 64.0, 48.0))
    depth = torch.full((1, 48, 64), 2.0)
    points, valid = cell_points(maps.cell_boxes(), depth, None, intrinsics, pose, 0.1)
    boxes = maps.cell_boxes().reshape(1, -1, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    expected = unproject(
        centres, torch.full((1, 32), 2.0).double(), intrinsics.double(), pose.double()
    )
    assert valid.all()
    torch.testing.assert_close(points, expected)


def test_cell_points_lie_on_the_slanted_plane():
    clip = plane_clip()
    points, valid = clip_points(clip, maps_of(torch.zeros(3, 1, 8, 8)))
    normal = torch.nn.functional.normalize(torch.tensor([0.4, -0.2, 1.0]), dim=0).double()
    assert valid.all()
    torch.testing.assert_close(
        points @ normal, torch.full((3, 64), 3.0).double(), atol=1e-4, rtol=0
    )


def test_a_cell_needs_its_share_of_depth_and_ignores_the_rest():
    clip = plane_clip(num_views=2)
    known = torch.zeros_like(clip.depth_valid)
    known[:, 0, :6] = True  # 6 of the 64 pixels of cell (0, 0): 9.4 %
    known[:, 0, 8:15] = True  # 7 of cell (0, 1): 10.9 %
    depth = clip.depth.where(known, float("nan"))
    maps = maps_of(torch.zeros(2, 1, 8, 8))
    points, valid = clip_points(replace(clip, depth=depth, depth_valid=None), maps)
    assert valid.nonzero().tolist() == [[0, 1], [1, 1]]
    assert points.isfinite().all()
    everywhere, _ = clip_points(replace(clip, depth_valid=known), maps)
    torch.testing.assert_close(points, everywhere)


def test_pixels_outside_of_a_crop_belong_to_no_cell():
    boxes = FeatureMaps(torch.zeros(1, 1, 2, 2), (8.0, 4.0, 24.0, 12.0)).cell_boxes()
    cells = pixel_cells(boxes, (16, 32))
    assert cells[3].eq(-1).all() and cells[12].eq(-1).all()
    assert cells[4].tolist() == [-1] * 8 + [0] * 8 + [1] * 8 + [-1] * 8
    assert cells[11, 8] == 2


def test_crop_box_is_respected():
    clip = plane_clip(num_views=3)
    box = (16.0, 8.0, 48.0, 40.0)
    maps = place_features(clip, 16, COARSE.voxel, box)
    cropped = replace(
        clip, depth=clip.depth[:, 8:40, 16:48], depth_valid=None, images=clip.images[..., 8:40, 16:48],
        intrinsics=clip.intrinsics - torch.tensor([[0, 0, 16.0], [0, 0, 8.0], [0, 0, 0]]),
    )  # fmt: skip
    whole = maps_of(maps.values, (0.0, 0.0, 32.0, 32.0))
    torch.testing.assert_close(clip_points(clip, maps)[0], clip_points(cropped, whole)[0])
    torch.testing.assert_close(
        cell_colours(maps.cell_boxes(), clip.images),
        cell_colours(whole.cell_boxes(), cropped.images),
    )
    right, wrong = values_of(maps, clip), values_of(maps_of(maps.values), clip)
    assert right["retrieval"] == pytest.approx(1) and wrong["retrieval"] < 0.8


def test_colours_are_the_means_of_the_cells_pixels():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = cell_colours(maps_of(torch.zeros(2, 1, 8, 8)).cell_boxes(), images)
    expected = torch.nn.functional.avg_pool2d(images.double() / 255, 8)
    torch.testing.assert_close(found.unflatten(1, (8, 8)).permute(0, 3, 1, 2), expected)


def test_views_of_the_plane_share_the_voxels_that_both_see():
    clip = plane_clip(num_views=3)
    maps = maps_of(torch.randn(3, 8, 16, 16, generator=torch.Generator().manual_seed(0)))
    points, _ = clip_points(clip, maps)
    seen = [set(map(tuple, (p / 0.25).floor().long().tolist())) for p in points]
    shared = sum(len(seen[a] & seen[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    sums, _ = score_clip(maps, clip, COARSE)
    assert sums["all"].voxels == shared > 100
    assert sums["all"].pairs == 3 and sums["adjacent"].pairs == 2
    assert sums["adjacent"].voxels == len(seen[0] & seen[1]) + len(seen[1] & seen[2])


def test_adjacent_means_neighbours_in_time():
    clip = plane_clip(num_views=5)
    sums, _ = score_clip(maps_of(torch.randn(5, 8, 16, 16)), clip, COARSE)
    assert (sums["all"].pairs, sums["adjacent"].pairs) == (10, 4)
    order = [3, 0, 4, 1, 2]
    mixed = replace(
        clip, frame_ids=tuple(order), images=clip.images[order], depth=clip.depth[order],
        depth_valid=None, intrinsics=clip.intrinsics[order], world_to_cam=clip.world_to_cam[order],
    )  # fmt: skip
    again, _ = score_clip(maps_of(torch.randn(5, 8, 16, 16)), mixed, COARSE)
    assert again["adjacent"].voxels == sums["adjacent"].voxels
    assert again["all"].voxels == sums["all"].voxels


def test_views_without_overlap_are_skipped():
    clip = plane_clip(num_views=2)
    away = clip.world_to_cam.clone()
    away[1, :3, 3] += 100
    sums, _ = score_clip(
        maps_of(torch.randn(2, 8, 16, 16)), replace(clip, world_to_cam=away), COARSE
    )
    assert sums["all"].skipped == 1 and sums["all"].pairs == 0 and sums["all"].values() is None


# --- encoders ------------------------------------------------------------------------------


@dataclass
class PatchConfig(EncoderConfig):
    noise: float = 0.0
    layer: int = 0


class PatchEncoder(FeatureEncoder):
    """The mean colour of each patch, with noise; random weights mix the colours."""

    Config = PatchConfig
    multiple = 4
    made = 0

    @property
    def channels(self):
        return 3

    @property
    def revision(self):
        return "1"

    def load(self):
        type(self).made += 1
        model = nn.Conv2d(3, 3, 4, 4, bias=False)
        with torch.no_grad():
            model.weight.zero_()
            for channel in range(3):
                model.weight[channel, channel] = 1 / 16
            if self.config.weights == "random":
                generator = torch.Generator().manual_seed(self.config.seed)
                model.weight.copy_(torch.randn(model.weight.shape, generator=generator))
        return model

    def encode_pixels(self, module, pixels, seeds):
        maps = module(pixels)
        noise = [
            torch.randn(maps.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds
        ]
        return maps + self.config.noise * torch.stack(noise)


def patches(**settings) -> PatchEncoder:
    return PatchEncoder(PatchConfig(**settings))


CLIPS = [plane_clip(name, num_views=n) for name, n in (("a", 3), ("b", 2), ("c", 4))]
QUICK = CorrespondenceConfig(voxel=0.2)


def test_scores_stand_beside_their_baselines():
    result = score_encoders(
        {"clean": patches(), "noisy": patches(noise=3)}, CLIPS, QUICK, progress=False
    )
    json.dumps(result, allow_nan=False)
    assert result["clips"] == 3 and result["settings"]["voxel"] == 0.2
    clean = result["encoders"]["clean"]["all"]
    assert clean["encoder"]["pairs"] + clean["encoder"]["skipped"] == 3 + 1 + 6
    # The encoder's patches are mean colours too; only pooled to 14 x 14 from 16 x 16, not from the pixels.
    for metric in ("cosine", "retrieval"):
        assert clean["encoder"][metric]["mean"] == pytest.approx(
            clean["pixels"][metric]["mean"], abs=0.05
        )
    noisy = result["encoders"]["noisy"]["all"]
    assert noisy["pixels"] == clean["pixels"]
    assert noisy["vs_pixels"]["difference"]["mean"] < -0.01
    assert noisy["vs_pixels"]["difference"]["ci95"][1] < 0
    assert clean["random"]["cosine"] != clean["encoder"]["cosine"]
    low, high = clean["encoder"]["retrieval"]["ci95"]
    assert low <= clean["encoder"]["retrieval"]["mean"] <= high
    assert clean["encoder"]["cosine"]["sources"] == 3


def test_clips_weigh_the_same_and_cluster_by_source():
    clips = [dataclasses.replace(clip, source_id="room") for clip in CLIPS]
    found = score_encoders({"x": patches()}, clips, QUICK, progress=False)
    numbers = found["encoders"]["x"]["adjacent"]["encoder"]["cosine"]
    assert numbers["ci95"] is None and numbers["sources"] == 1
    alone = [
        score_clip(patches()(clip.images), clip, QUICK)[0]["adjacent"].values()["cosine"]
        for clip in clips
    ]
    assert numbers["mean"] == pytest.approx(sum(alone) / 3)


def test_random_weights_can_be_left_out_and_are_not_doubled():
    config = replace(QUICK, random_weights=False)
    found = score_encoders({"x": patches()}, CLIPS[:1], config, progress=False)
    assert set(found["encoders"]["x"]["all"]) == {"encoder", "pixels", "vs_pixels"}
    found = score_encoders({"x": patches(weights="random")}, CLIPS[:1], QUICK, progress=False)
    assert "random" not in found["encoders"]["x"]["all"]


def test_coarse_maps_are_never_made_finer():
    maps = maps_of(torch.randn(3, 4, 6, 20))
    own = score_clip(maps, CLIPS[0], replace(QUICK, grid=None))[0]["all"]
    pooled = score_clip(maps.pooled(6, 14), CLIPS[0], replace(QUICK, grid=None))[0]["all"]
    assert score_clip(maps, CLIPS[0], QUICK)[0]["all"] == pooled != own


def test_errors_name_the_clip_and_the_remedy():
    with pytest.raises(ValueError, match=r"clip a: .* depth"):
        score_encoders({"x": patches()}, [replace(CLIPS[0], depth=None)], QUICK, progress=False)
    away = CLIPS[1].world_to_cam.clone()
    away[1, :3, 3] += 100
    with pytest.raises(ValueError, match=r"none of 1 clips .* larger voxel"):
        score_encoders(
            {"x": patches()}, [replace(CLIPS[1], world_to_cam=away)], QUICK, progress=False
        )
    with pytest.raises(ValueError, match="must be positive"):
        CorrespondenceConfig(voxel=0)


# --- sweep ---------------------------------------------------------------------------------

AXES = {"layer": [0, 1], "noise": [0.0, 0.5, 3.0]}


def test_sweep_goes_on_where_it_stopped(tmp_path):
    path, calls = tmp_path / "sweep.json", []

    def failing(**setting):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(setting)
        return patches(**setting)

    with pytest.raises(KeyboardInterrupt):
        sweep(failing, AXES, CLIPS[:2], QUICK, path, progress=False)
    part = json.loads(path.read_text())
    assert len(part["cells"]) == 4
    PatchEncoder.made = 0
    table = sweep(patches, AXES, CLIPS[:2], QUICK, path, progress=False)
    assert PatchEncoder.made == 2 * 2  # two cells, each with its random control
    assert table["cells"][:4] == part["cells"]
    assert [c["setting"] for c in table["cells"]] == [
        {"layer": layer, "noise": noise} for layer in (0, 1) for noise in (0.0, 0.5, 3.0)
    ]
    fresh = sweep(patches, AXES, CLIPS[:2], QUICK, tmp_path / "fresh.json", progress=False)
    assert fresh == table
    assert list(tmp_path.glob(".*")) == []
    # Other settings of the score, or other clips: nothing may be taken over.
    PatchEncoder.made = 0
    one = {"layer": [0], "noise": [0.0]}
    sweep(patches, one, CLIPS[:2], replace(QUICK, voxel=0.3), path, progress=False)
    sweep(patches, one, CLIPS[1:], QUICK, path, progress=False)
    assert PatchEncoder.made == 4
    sweep(patches, AXES, CLIPS[:2], QUICK, path, progress=False)
    assert PatchEncoder.made == 4


def test_sweep_refuses_a_file_of_something_else(tmp_path):
    (tmp_path / "x.json").write_text('{"recipe": 1}')
    with pytest.raises(ValueError, match="holds no sweep"):
        sweep(patches, AXES, CLIPS, QUICK, tmp_path / "x.json", progress=False)


def test_heatmap_shows_every_cell(tmp_path):
    table = sweep(patches, AXES, CLIPS[:1], QUICK, tmp_path / "x.json", progress=False)
    figure = heatmap(table, "difference", "adjacent")
    assert isinstance(figure, Figure)
    drawing = figure.axes[0]
    shown = drawing.images[0].get_array()
    assert shown.shape == (2, 3)
    assert shown[1, 2] == table["cells"][5]["scores"]["adjacent"]["encoder"]["difference"]["mean"]
    assert [label.get_text() for label in drawing.get_xticklabels()] == ["0.0", "0.5", "3.0"]
    assert (drawing.get_ylabel(), drawing.get_xlabel()) == ("layer", "noise")
    figure.savefig(tmp_path / "x.svg")
    single = sweep(
        patches, {"noise": [0.0, 3.0]}, CLIPS[:1], QUICK, tmp_path / "y.json", progress=False
    )
    assert heatmap(single, arm="pixels").axes[0].images[0].get_array().shape == (2, 1)
    with pytest.raises(ValueError, match="metric=beauty"):
        heatmap(table, "beauty")
