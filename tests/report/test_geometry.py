from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_room import box_room, camera
from page_links import Links

from spatialprior.report.depth_figure import depth_picture, relative_error
from spatialprior.report.geometry import (
    LABEL,
    beats_trivial,
    geometry_statements,
    metric_label,
    tables,
)
from spatialprior.report.html import render, write_html
from spatialprior.report.scene_viewer import caption, upright, viewer_data, viewer_frame
from spatialprior.report.summary import summary


def figure(value: float, half: float, baseline: float | None, higher: bool) -> dict[str, Any]:
    ci95 = [value - half, value + half]
    return {"value": value, "ci95": ci95, "n": 48, "higher_is_better": higher, "baseline": baseline}


def result(abs_rel: float, auc: float) -> dict[str, Any]:
    figures = {
        "depth.median.abs_rel": figure(abs_rel, 0.02, 0.31, False),
        "depth.median.delta1": figure(0.9, 0.02, 0.45, True),
        "pose.vggt.auc30": figure(auc, 0.05, 0.12, True),
        "points.acc_mean": figure(0.08, 0.01, None, False),
    }
    return {"figures": figures, "settings": {"views": 3, "icp": False}}


@pytest.fixture()
def report() -> dict[str, Any]:
    return {
        "schema_version": "1.0",
        "recipe": "g2vlm_qwen",
        "seed": 0,
        "geometry": {"after": result(0.13, 0.55), "geometry": result(0.101, 0.71)},
    }


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for seed, arm in enumerate(("geometry", "after")):
        scene = box_room(seed=seed)
        scene["images"] = scene["images"].transpose(0, 3, 1, 2)  # as clips hold them
        np.savez(tmp_path / "pictures" / f"geometry_{arm}.npz", **scene)
    return tmp_path


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_table_has_each_figure_beside_the_trivial_predictor(
    report: dict[str, Any], folder: Path
) -> None:
    groups = {group["title"]: group for group in tables(report)}
    assert list(groups) == ["Depth", "Camera pose", "Points"]
    row = groups["Depth"]["rows"][0]
    assert (row["name"], row["better"], row["trivial"]) == (
        "AbsRel, median aligned",
        "lower",
        "0.310",
    )
    assert [cell["text"] for cell in row["cells"]] == [  # the phase first, whatever the order
        "0.101 [0.081, 0.121]",
        "0.130 [0.110, 0.150]",
    ]
    assert row["n"] == "48" and all(cell["beats"] for cell in row["cells"])
    points = groups["Points"]["rows"][0]
    assert points["trivial"] == "–" and points["cells"][0]["beats"] is None
    shown = text_of(render(report, folder))
    for wanted in (LABEL, "0.101 [0.081, 0.121]", "AUC@30°, VGGT's protocol", "Camera pose"):
        assert wanted in shown
    assert shown.index("after the geometry phase [95 %]") < shown.index("after training [95 %]")


def test_arms_that_differ_in_their_floor_or_lack_a_figure_say_so(report: dict[str, Any]) -> None:
    report["geometry"]["after"]["figures"]["depth.median.abs_rel"]["baseline"] = 0.4
    del report["geometry"]["after"]["figures"]["pose.vggt.auc30"]
    depth, pose, _ = tables(report)
    assert depth["rows"][0]["trivial"] == "0.310 / 0.400"
    assert [cell["text"] for cell in pose["rows"][0]["cells"]] == ["0.710 [0.660, 0.760]", "–"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("depth.scale_shift.delta1", "δ < 1.25, scale and shift aligned"),
        ("pose.pi3.rta15", "RTA@15°, π³'s protocol"),
        ("pose.ate", "ATE, m"),
        ("points.chamfer", "chamfer"),
    ],
)
def test_metric_names(name: str, label: str) -> None:
    assert metric_label(name) == label


@pytest.mark.parametrize(
    ("abs_rel", "auc", "tone"), [(0.1, 0.7, "good"), (0.1, 0.15, "bad"), (0.35, 0.1, "bad")]
)
def test_verdict_needs_the_interval_on_the_better_side(
    report: dict[str, Any], abs_rel: float, auc: float, tone: str
) -> None:
    report["geometry"] = {"after": result(abs_rel, auc)}
    (statement,) = geometry_statements(report)
    assert statement.tone == tone and "re-implementation" in statement.lead
    assert "best constant 0.310" in statement.text and "one place 0.120" in statement.text


def test_values_that_are_not_known_stay_unknown(report: dict[str, Any], folder: Path) -> None:
    nothing = {"value": None, "ci95": None, "n": 0, "higher_is_better": True, "baseline": None}
    report["geometry"] = {"after": {"figures": {"pose.vggt.auc30": nothing}}}
    (statement,) = geometry_statements(report)
    assert statement.tone == "neutral" and "–" in text_of(render(report, folder))


def test_summary_tells_both_arms(report: dict[str, Any]) -> None:
    lines = [line for line in summary(report).splitlines() if "Geometry" in line]
    assert len(lines) == 2 and all("AbsRel" in line and "AUC@30°" in line for line in lines)


def test_page_requests_nothing_and_allows_its_own_script_alone(
    report: dict[str, Any], folder: Path
) -> None:
    page = write_html(report, folder).read_text()
    links = Links()
    links.feed(page)
    assert not links.open and "iframe" not in links.tags
    assert links.urls and all(url.startswith("data:") for url in links.urls)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.S)
    assert [attributes for attributes, _ in scripts] == [' type="application/json"'] * 2 + [""]
    digest = base64.b64encode(hashlib.sha256(scripts[-1][1].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy and f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1] and "http" not in policy[1]
    for word in ("fetch(", "XMLHttpRequest", "import(", "//cdn", "https:", "http:", "eval("):
        assert word not in scripts[-1][1]
    assert not re.search(
        r'\son\w+="', page
    )  # handlers in attributes would be refused by the policy
    assert len(links.alts) == 2 and all("AbsRel by view" in str(alt) for alt in links.alts)


def test_names_from_outside_are_escaped(report: dict[str, Any], folder: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    report["geometry"] = {
        evil: {
            "figures": {f"depth.{evil}": figure(0.1, 0.1, 0.2, False)},
            "settings": {evil: evil},
        }
    }
    page = render(report, folder)
    assert "onerror" in page and "<img src=x" not in page


def test_other_reports_have_no_script(report: dict[str, Any], folder: Path) -> None:
    del report["geometry"]
    page = render(report, folder)
    for word in ("<script", "<canvas", "Content-Security-Policy", "G²VLM"):
        assert word not in page


def test_table_stands_without_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    page = render(report, tmp_path)
    assert "AbsRel, median aligned" in page and "<script" not in page and "<canvas" not in page


def test_depth_figure_scores_each_view_where_truth_is_known() -> None:
    scene = box_room(noise=0.0)
    scene["pred_depth"] = scene["true_depth"] * np.array([1.0, 1.1, 1.25])[:, None, None]
    scene["pred_depth"][:, :2] = 99.0  # where the truth is not valid
    error = relative_error(scene)
    assert np.isnan(error[:, :2]).all()
    assert np.nanmean(error, (1, 2)) == pytest.approx([0.0, 0.1, 0.25], abs=1e-6)
    picture = depth_picture(scene, "after training")
    assert "0.000, 0.100, 0.250" in picture.alt and picture.src.startswith("data:image/png")


def test_depth_figure_of_a_clip_without_truth() -> None:
    scene = box_room()
    scene["valid"][:] = False
    assert "–, –, –" in depth_picture(scene, "after training").alt


def test_depth_figure_names_the_views_left_out() -> None:
    scene = {name: np.concatenate([array] * 3) for name, array in box_room().items()}
    assert "The first 6 of 9 views" in depth_picture(scene, "after training").caption


def decoded(data: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Points in metres in the viewer's frame, and colours, as ``viewer.js`` reads them."""
    (layer,) = (layer for layer in data["layers"] if layer["name"] == name)
    steps = np.frombuffer(base64.b64decode(layer["positions"]), "<u2").reshape(-1, 3)
    colours = np.frombuffer(base64.b64decode(layer["colours"]), np.uint8).reshape(-1, 3)
    assert len(steps) == len(colours) == layer["count"]
    return (steps / 65535 * 2 - 1) * data["extent"], colours


@pytest.mark.parametrize(("kind", "key"), [("predicted", "pred_points"), ("true", "true_points")])
def test_viewer_has_every_point_in_its_place_and_colour(kind: str, key: str) -> None:
    scene = box_room()
    data = json.loads(json.dumps(viewer_data(scene)))
    places, colours = decoded(data, f"{kind} points")
    known = scene["valid"] if kind == "true" else np.ones_like(scene["valid"])
    wanted = viewer_frame(scene).apply(scene[key][known].astype(float))
    assert len(places) == known.sum() and caption(data) == ""
    order = np.random.default_rng(0).permutation(len(wanted))
    assert np.abs(places - wanted[order]).max() <= data["extent"] / 65535 * 1.001
    assert (colours == scene["images"][known][order]).all()


def test_viewer_thins_and_says_so() -> None:
    scene = box_room()
    data = viewer_data(scene, max_points=500)
    places, _ = decoded(data, "true points")
    assert len(places) == 500 and len(np.unique(places, axis=0)) > 450
    assert f"500 of {scene['valid'].sum():,} true points" in caption(data)


def test_viewer_leaves_strays_and_unknown_points_out() -> None:
    scene = box_room()
    extent = viewer_data(scene)["extent"]
    scene["pred_points"][0, 0, :3] = [[np.nan] * 3, [np.inf] * 3, [0.0, 0.0, 1e6]]
    data = viewer_data(scene)
    places, _ = decoded(data, "predicted points")
    assert len(places) == scene["valid"].size - 3 and data["extent"] == pytest.approx(extent)
    assert caption(data) == "Left out as too far away: 1 predicted points."


def test_viewer_of_a_clip_without_truth_shows_the_prediction() -> None:
    scene = box_room()
    scene["valid"][:] = False
    data = viewer_data(scene)
    assert len(decoded(data, "true points")[0]) == 0
    assert len(decoded(data, "predicted points")[0]) == scene["valid"].size


def test_frusta_start_at_the_cameras() -> None:
    scene = box_room()
    frame, data = viewer_frame(scene), viewer_data(scene)
    for kind, key in (("predicted", "pred_cam_to_world"), ("true", "true_cam_to_world")):
        (layer,) = (layer for layer in data["layers"] if layer["name"] == f"{kind} cameras")
        ends = np.frombuffer(base64.b64decode(layer["positions"]), "<f4").reshape(3, 10, 2, 3)
        eyes = frame.apply(scene[key][:, :3, 3])
        assert np.abs(ends[:, :4, 0] - eyes[:, None]).max() < 1e-5
        corners = ends[:, :4, 1]
        assert (corners[:, :2, 1] > corners[:, 2:, 1]).all()  # the view's upper corners are above
        assert (
            corners[..., 2] < eyes[:, None, 2]
        ).all()  # and the cameras look away from the reader


@pytest.mark.parametrize("pitch", [-0.3, 0.0, 0.4])
def test_scene_stands_upright_in_any_world(pitch: float) -> None:
    cameras = np.stack([camera(yaw, [0, 0, 0], pitch) for yaw in (-0.4, 0.0, 0.4)])
    z_up = np.eye(4)
    z_up[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # y down to z up
    for world in (np.eye(4), z_up):
        turn = upright(world @ cameras)
        assert turn @ turn.T == pytest.approx(np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)
        assert turn @ world[:3, :3] @ [0, -1, 0] == pytest.approx([0, 1, 0])
        assert turn @ world[:3, :3] @ [0, 0, 1] == pytest.approx([0, 0, -1])


def test_cameras_all_around_still_have_a_view() -> None:
    cameras = np.stack([camera(yaw, [0, 0, 0], 0.0) for yaw in (0.0, np.pi)])
    assert np.isfinite(upright(cameras)).all()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser: chromium")
@pytest.mark.parametrize(
    ("flag", "wanted"), [("--enable-unsafe-swiftshader", "webgl"), ("--disable-3d-apis", "2d")]
)
def test_viewer_draws_in_a_browser(
    report: dict[str, Any], folder: Path, flag: str, wanted: str
) -> None:
    page = write_html(report, folder)
    told = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", flag, f"--user-data-dir={folder / 'browser'}",
         "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert re.findall(r'data-viewer="(\w*)"', told) == [wanted] * 2


def test_cameras_that_advance_are_a_floor_too():
    figure = {"value": 0.15, "ci95": [0.11, 0.2], "n": 9, "higher_is_better": True, "baseline": 0.0}
    assert beats_trivial({**figure, "baseline_forward": 0.06}) is True
    assert beats_trivial({**figure, "baseline_forward": 0.12}) is False
    report = {
        "geometry": {
            "after": {"figures": {"pose.vggt.auc30": {**figure, "baseline_forward": 0.06}}}
        }
    }
    (row,) = tables(report)[0]["rows"]
    assert row["trivial"] == "0.000; advancing 0.060"
