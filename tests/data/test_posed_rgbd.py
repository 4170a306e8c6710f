"""Every layout, written to a temporary folder and read back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spatialprior.data.posed_rgbd import PosedRgbd
from spatialprior.data.sequence import BadFrameError
from spatialprior.geometry.matching import EXACT, grid_points, match

H, W, FRAMES = 36, 48, 12
K = (60.0, 60.0, (W - 1) / 2, (H - 1) / 2)  # as files give it: pixel centres at integers
STEP = 0.04
YAW = 0.02


def cam_to_world(i: int) -> np.ndarray:
    """A sideways walk with a slow turn, before a wall at z = 2."""
    cos, sin = math.cos(YAW * i), math.sin(YAW * i)
    pose = np.eye(4)
    pose[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    pose[0, 3] = STEP * i
    return pose


def wall(i: int) -> tuple[np.ndarray, np.ndarray]:
    """(depth in metres, texture) of frame i, ``H W``."""
    y, x = np.mgrid[:H, :W]
    ray = (
        np.stack([(x - K[2]) / K[0], (y - K[3]) / K[1], np.ones((H, W))], -1)
        @ cam_to_world(i)[:3, :3].T
    )
    depth = 2 / ray[..., 2]
    hit = ray * depth[..., None] + cam_to_world(i)[:3, 3]
    return depth, 127 + 100 * np.sin(3 * hit[..., 0]) * np.cos(4 * hit[..., 1])


def pictures(i: int, scale: float, color: Path, depth: Path) -> None:
    metres, texture = wall(i)
    color.parent.mkdir(exist_ok=True, parents=True)
    depth.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.repeat(texture[..., None], 3, -1).astype(np.uint8)).save(color)
    units = np.round(metres * scale).astype(np.uint16)
    units[0, 0], units[0, 1] = 0, 65535
    Image.fromarray(units).save(depth)


def write_seven_scenes(root: Path) -> None:
    root.mkdir(parents=True)
    np.savetxt(root / "camera-intrinsics.txt", [[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]])
    for i in range(FRAMES):
        stem = f"frame-{2 * i:06d}"
        pictures(i, 1000, root / f"{stem}.color.png", root / f"{stem}.depth.png")
        np.savetxt(root / f"{stem}.pose.txt", cam_to_world(i))


def write_tum(root: Path) -> None:
    rgb, depth, poses = ["# color images"], ["# depth maps"], ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(FRAMES):
        pictures(i, 5000, root / f"rgb/{i}.png", root / f"depth/{i}.png")
        time = 1305031452.79 + i / 30
        rgb.append(f"{time:.6f} rgb/{i}.png")
        depth.append(f"{time + 0.011:.6f} depth/{i}.png")
        half = YAW * i / 2
        quaternion = (
            f"0 {2 * math.sin(half):.8f} 0 {2 * math.cos(half):.8f}"  # deliberately of length 2
        )
        poses.append(f"{time - 0.004:.4f} {STEP * i} 0 0 {quaternion}")
        poses.append(
            f"{time + 0.016:.4f} 9 9 9 0 0 0 1"
        )  # farther from the frame: must not be taken
    for name, rows in (("rgb", rgb), ("depth", depth), ("groundtruth", poses)):
        (root / f"{name}.txt").write_text("\n".join(rows) + "\n")


def write_open3d(root: Path) -> None:
    rows = []
    for i in range(FRAMES):
        pictures(i, 1000, root / f"image/{i}.png", root / f"depth/{i}.png")  # 2 before 10, unpadded
        rough = cam_to_world(i)
        rough[:3, :3] = np.round(rough[:3, :3], 3)  # non-orthonormal by rounding
        rows += [f"{i} {i} {i + 1}", *(" ".join(map(str, row)) for row in rough)]
    (root / "trajectory.log").write_text("\n".join(rows) + "\n")


def write_hololens(root: Path) -> None:
    for i in range(FRAMES):
        pictures(i, 1000, root / f"images/{3 * i + 3:05d}.png", root / f"depth/{3 * i + 3:05d}.png")
    np.savetxt(root / "poses.txt", np.stack([cam_to_world(i).reshape(-1) for i in range(FRAMES)]))
    np.savetxt(root / "K.txt", [[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]])


WRITERS = {
    "seven_scenes": write_seven_scenes,
    "tum": write_tum,
    "open3d_log": write_open3d,
    "hololens": write_hololens,
}


@pytest.fixture(params=WRITERS)
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    WRITERS[request.param](tmp_path / "scan")
    return request.param, tmp_path / "scan"


def open_it(root: Path, **settings: object) -> PosedRgbd:
    defaults: dict = {
        "intrinsics": K, "depth_to_color": (0.0, 0.0, 0.0), "parts": (0.5, 0.2, 0.3), "min_frames": 2,
        "max_frames": 3, "window": 8, "size_multiple": 1, "gap": 0.0,
    }  # fmt: skip
    return PosedRgbd(PosedRgbd.Config(root=str(root), **{**defaults, **settings}))


def test_reads_frames_that_match_each_other(recording: tuple[str, Path]) -> None:
    layout, root = recording
    (sequence,) = open_it(root).sequences
    step = 2 if layout == "seven_scenes" else 1
    assert list(sequence.frame_ids) == list(range(0, FRAMES * step, step))
    a, b = sequence.frame(1), sequence.frame(11)
    assert a.depth is not None and a.depth_valid is not None and a.intrinsics is not None
    torch.testing.assert_close(
        a.depth[1:], torch.from_numpy(wall(1)[0]).float()[1:], atol=2e-3, rtol=0
    )
    assert not bool(a.depth_valid[0, :2].any())
    assert a.intrinsics[0, 2] == W / 2 and a.intrinsics[1, 2] == H / 2
    assert b.world_to_cam is not None
    rotation = b.world_to_cam[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)

    fields = ("depth", "depth_valid", "intrinsics", "world_to_cam")
    pair = [torch.stack([getattr(frame, name) for frame in (a, b)]) for name in fields]
    points = grid_points(9, 12, H, W)
    found = match(points, torch.tensor([[0, 1]]), *pair, tolerance=EXACT)
    # Closed form: the wall point's place in b.
    ray = np.c_[(points[:, 0] - W / 2) / 60, (points[:, 1] - H / 2) / 60, np.ones(len(points))]
    world = ray @ cam_to_world(1)[:3, :3].T
    world = world * (2 / world[:, 2:]) + cam_to_world(1)[:3, 3]
    local = (world - cam_to_world(11)[:3, 3]) @ cam_to_world(11)[:3, :3]
    expected = torch.from_numpy(local[:, :2] / local[:, 2:] * 60 + [W / 2, H / 2]).float()
    inside = ((expected > 1) & (expected < torch.tensor([W, H]) - 1)).all(-1)
    assert 30 < int(inside.sum()) < 108
    assert float((found.visible[0] == inside).float().mean()) > 0.9
    error = (found.points_b[0] - expected).norm(dim=-1)[found.visible[0]]
    assert float(error.max()) < 0.1


def test_splits_share_no_frame_and_leave_a_gap(recording: tuple[str, Path]) -> None:
    layout, root = recording
    dataset = open_it(root, parts=(0.5, 0.25, 0.25), gap=0.08)
    frames = {}
    for name in ("train", "val", "test"):
        split = dataset.split(name, seed=3)  # type: ignore[arg-type]
        assert len(split) > 0
        frames[name] = {t for i in range(60) for t in split.clip(i).frame_ids}
    step = 2 if layout == "seven_scenes" else 1
    assert max(frames["train"]) + step < min(frames["val"])
    assert max(frames["val"]) + step < min(frames["test"])
    assert frames["train"] == set(range(0, 6 * step, step))


def test_clips_are_deterministic_and_complete(recording: tuple[str, Path]) -> None:
    _, root = recording
    one, two = (open_it(root).split("train", seed=5).clip(17) for _ in range(2))
    assert one.clip_id == two.clip_id and torch.equal(one.images, two.images)
    assert one.has_geometry and one.depth_valid is not None
    assert one.source_id == "scan/train"


def test_shrinking_keeps_geometry(tmp_path: Path) -> None:
    write_hololens(tmp_path)
    (full,) = open_it(tmp_path).sequences
    (small,) = open_it(tmp_path, max_side=20, size_multiple=4).sequences
    a, b = full.frame(5), small.frame(5)
    assert b.image.shape == (3, 16, 20) and b.depth is not None and b.depth.shape == (16, 20)
    expected = a.intrinsics * torch.tensor([[20 / W], [16 / H], [1]])  # type: ignore[operator]
    torch.testing.assert_close(b.intrinsics, expected)
    centres = grid_points(16, 20, H, W).numpy() - 0.5
    ray = np.c_[(centres[:, 0] - K[2]) / 60, (centres[:, 1] - K[3]) / 60, np.ones(320)]
    true = 2 / (ray @ cam_to_world(5)[:3, :3].T)[:, 2]
    valid = b.depth_valid.reshape(-1)  # type: ignore[union-attr]
    torch.testing.assert_close(
        b.depth.reshape(-1)[valid], torch.from_numpy(true).float()[valid], atol=2e-3, rtol=0
    )
    assert valid.float().mean() > 0.98


def test_several_recordings_below_the_root(tmp_path: Path) -> None:
    write_hololens(tmp_path / "b")
    write_open3d(tmp_path / "a")
    assert [s.sequence_id for s in open_it(tmp_path).sequences] == ["a", "b"]


def test_a_recording_can_be_held_out_as_a_whole(tmp_path: Path) -> None:
    write_open3d(tmp_path / "a")
    write_hololens(tmp_path / "b")  # another layout, keyframes
    data = open_it(tmp_path, held_out=["b"])
    for split, wanted in (("train", {"a/train"}), ("val", {"a/val"}), ("test", {"b/test"})):
        clips = data.split(split, seed=0)
        assert {clips.clip(i).source_id for i in range(8)} == wanted
    whole = data.split("test", seed=0)
    assert len({i for k in range(40) for i in whole.clip(k).frame_ids}) == len(data.sequences[1])
    for wrong, message in ((["c"], "c is no recording"), (["a", "b"], "no recording to train")):
        with pytest.raises(ValueError, match=message):
            open_it(tmp_path, held_out=wrong)


def test_every_recording_keeps_the_window_of_its_layout(tmp_path: Path) -> None:
    write_open3d(tmp_path / "a")
    write_hololens(tmp_path / "b")
    clips = PosedRgbd(PosedRgbd.Config(root=str(tmp_path), parts=(1, 0, 0))).split("train", 0)
    reach = {"a/train": 0, "b/train": 0}
    for index in range(60):
        clip = clips.clip(index)
        ids = clip.frame_ids
        reach[clip.source_id] = max(reach[clip.source_id], max(ids) - min(ids))
    assert reach["b/train"] <= 2 * 4 < reach["a/train"]


def test_layouts_know_their_window(tmp_path: Path) -> None:
    write_hololens(tmp_path / "walk")
    write_open3d(tmp_path / "scan")
    assert open_it(tmp_path / "walk", window=None).split("train", 0).sampling.window == (4,)
    assert open_it(tmp_path / "scan", window=None).split("train", 0).sampling.window == (48,)


# --- what can go wrong ---------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damage_seven_scenes(root: Path) -> dict[str, str]:
    _truncate(root / "frame-000000.color.png")
    (root / "frame-000002.depth.png").unlink()
    (root / "frame-000004.pose.txt").unlink()
    np.savetxt(root / "frame-000006.pose.txt", np.full((4, 4), np.nan))
    (root / "frame-000008.pose.txt").write_text("1 0 0")
    np.savetxt(root / "frame-000010.pose.txt", np.diag([1, 1, -1, 1]))
    Image.new("RGB", (W, H)).save(root / "frame-000012.depth.png")
    Image.fromarray(np.zeros((H, W), np.uint16)).save(root / "frame-000014.depth.png")
    Image.new("RGB", (W // 2, H)).save(root / "frame-000016.color.png")
    return {
        "frame-000000.color.png": "cannot be decoded",
        "frame-000002.depth.png": "missing",
        "frame-000004.pose.txt": "missing",
        "frame-000006.pose.txt": "NaN",
        "frame-000008.pose.txt": "3 numbers",
        "frame-000010.pose.txt": "no rigid transform",
        "frame-000012.depth.png": "not a 16-bit depth",
        "frame-000014.depth.png": "no valid depth",
        "frame-000016.color.png": "24x36",
    }


def _damage_tum(root: Path) -> dict[str, str]:
    _truncate(root / "depth/1.png")
    lines = (root / "groundtruth.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("1305031452.7860", "1305031452.8060"))]
    second = next(i for i, line in enumerate(kept) if f" {STEP * 3} " in line)
    kept[second] = " ".join([kept[second].split()[0], "0 0 0 0 0 0 0"])
    (root / "groundtruth.txt").write_text("\n".join(kept))
    return {
        "rgb/0.png": "no pose within",
        "depth/1.png": "cannot be decoded",
        "groundtruth.txt at": "zero or NaN",
    }


def _damage_open3d(root: Path) -> dict[str, str]:
    (root / "image/3.png").unlink()
    _truncate(root / "depth/4.png")
    text = (root / "trajectory.log").read_text().splitlines()
    text[5 * 6 + 1] = "nan nan nan nan"
    (root / "trajectory.log").write_text("\n".join(text))
    return {
        "image/3": "missing",
        "depth/4.png": "cannot be decoded",
        "trajectory.log line 31": "NaN",
    }


def _damage_hololens(root: Path) -> dict[str, str]:
    (root / "depth/00006.png").unlink()
    _truncate(root / "images/00009.png")
    lines = (root / "poses.txt").read_text().splitlines()
    lines[5] = "1 2 oops"
    (root / "poses.txt").write_text("\n".join(lines))
    return {
        "depth/00006.png": "missing",
        "images/00009.png": "cannot be decoded",
        "poses.txt line 6": "oops",
    }


DAMAGE = {
    "seven_scenes": _damage_seven_scenes,
    "tum": _damage_tum,
    "open3d_log": _damage_open3d,
    "hololens": _damage_hololens,
}


def test_damage_is_counted_and_named(recording: tuple[str, Path]) -> None:
    layout, root = recording
    expected = DAMAGE[layout](root)
    bad = open_it(root).check()
    assert len(bad) == len(expected)
    for (path, reason), (name, why) in zip(
        sorted(bad.items()), sorted(expected.items()), strict=True
    ):
        assert name in path and why in reason, (path, reason)

    # Skipping goes on and says what it met; failing stops at the first.
    settings = {"parts": (1.0, 0.0, 0.0), "window": 40}
    skipping = open_it(root, **settings).split("train", seed=0)
    for i in range(40):
        assert skipping.clip(i).num_views >= 2
    assert skipping.bad_frames == bad
    failing = open_it(root, on_bad="fail", **settings).split("train", seed=0)
    with pytest.raises(BadFrameError):
        for i in range(40):
            failing.clip(i)


def test_listed_files_stay_inside_the_folder(tmp_path: Path) -> None:
    write_tum(tmp_path)
    (tmp_path / "rgb.txt").write_text("1305031452.79 ../../etc/passwd\n")
    with pytest.raises(ValueError, match="outside the folder"):
        open_it(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": ""}, "needs data.root=PATH"),
        ({"root": "/nowhere/at/all"}, "no such folder"),
        ({"layout": "seven_scene"}, "did you mean seven_scenes"),
        ({"parts": (0.9, 0.9, 0.0)}, "sum to at most 1"),
    ],
)
def test_wrong_settings_get_one_clear_line(settings: dict, message: str, tmp_path: Path) -> None:
    write_hololens(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        PosedRgbd(PosedRgbd.Config(**{"root": str(tmp_path), **settings}))
    assert "\n" not in str(caught.value)


def test_an_unknown_folder_lists_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        ValueError, match=r"seven_scenes: frame-000000.*tum: rgb.txt.*open3d_log.*hololens"
    ):
        open_it(tmp_path)


def test_lost_association_is_refused(tmp_path: Path) -> None:
    write_hololens(tmp_path / "walk")
    for kind in ("images", "depth"):
        (tmp_path / "walk" / kind / "00006.png").unlink()
    with pytest.raises(ValueError, match="12 poses for 11 pictures"):
        open_it(tmp_path / "walk")
