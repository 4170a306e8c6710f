"""What ``viewer.js`` draws: point clouds and camera frusta of one clip, as base64 typed arrays.

The viewer's frame is upright and metric: x right, y up, -z the way the cameras look, origin in the middle of
the scene.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialprior.report.geometry import Scene

MAX_POINTS = 30_000
"""Of each cloud; more make the page large and slow on a phone."""

COLOURS = {"predicted": (224, 120, 42), "true": (47, 143, 216)}
"""Of frusta and tinted points: legible on light and dark ground, and apart for colour-blind readers."""

_STEPS = 65535  # unsigned 16-bit
_REACH = 3.0  # points further than so many scene radii from its middle are strays
_SNAP = np.cos(np.deg2rad(30))


@dataclass(frozen=True)
class ViewerFrame:
    """From the scene's common frame into the viewer's: ``rotation @ (p - centre)``.

    Attributes:
        rotation: ``3 3``, rows are the viewer's axes.
        centre: Middle of the true scene, ``3``.
        radius: Half the longest side of the true scene, metres.
    """

    rotation: NDArray[Any]
    centre: NDArray[Any]
    radius: float

    def apply(self, points: NDArray[Any]) -> NDArray[Any]:
        """Points ``... 3`` in the viewer's frame."""
        moved: NDArray[Any] = (points - self.centre) @ self.rotation.T
        return moved


def upright(cam_to_world: NDArray[Any]) -> NDArray[Any]:
    """Rotation ``3 3`` into the viewer's axes, from cameras ``V 4 4`` (OpenCV: y down, z ahead).

    Up is what is up in the views on average. A coordinate axis within 30° of it is taken for it: in worlds with
    a level floor that is the vertical, however the cameras are pitched.
    """
    up = -cam_to_world[:, :3, 1].mean(0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 0.1 else np.array([0.0, -1.0, 0.0])
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) > _SNAP:
        up = np.sign(up[axis]) * np.eye(3)[axis]
    # Cameras that look all around have no mean direction; then the first one's, or any that is level, serves.
    for ahead in (cam_to_world[:, :3, 2].mean(0), cam_to_world[0, :3, 2], *np.eye(3)):
        level = ahead - (ahead @ up) * up
        if np.linalg.norm(level) > 0.1:
            break
    back = -level / np.linalg.norm(level)
    return np.stack([np.cross(up, back), up, back])


def viewer_frame(scene: Scene) -> ViewerFrame:
    """The frame in which a scene is shown; the truth decides it where there is any, so that arms look alike."""
    cameras = scene["true_cam_to_world"].astype(float)
    rotation = upright(cameras)
    known = _known(scene, "true" if scene["valid"].any() else "predicted")[0]
    points = np.concatenate([known, cameras[:, :3, 3]]) @ rotation.T
    low, high = np.percentile(points, (1, 99), axis=0)
    radius = float(max((high - low).max() / 2, 1e-3))
    return ViewerFrame(rotation, rotation.T @ ((low + high) / 2), radius)


def viewer_data(scene: Scene, max_points: int = MAX_POINTS) -> dict[str, Any]:
    """JSON-able content for ``viewer.js``.

    Positions are unsigned 16-bit, little-endian, ``0 ... 65535`` over ``[-extent, extent]`` on each axis (error
    at most ``extent / 65535``); colours 8-bit RGB; segments of frusta 32-bit floats, pairs of ends.
    """
    frame = viewer_frame(scene)
    chosen = {kind: _choose(scene, kind, frame, max_points) for kind in COLOURS}
    extent = max([frame.radius, *(float(np.abs(c.points).max(initial=0)) for c in chosen.values())])
    layers: list[dict[str, Any]] = []
    for kind, cloud in chosen.items():
        steps = np.round((cloud.points / extent + 1) / 2 * _STEPS).astype("<u2")
        layers.append(
            {
                "kind": "points",
                "name": f"{kind} points",
                "on": kind == "predicted",
                "tint": COLOURS[kind],
                "count": len(steps),
                "of": cloud.known,
                "strays": cloud.strays,
                "positions": _base64(steps),
                "colours": _base64(cloud.colours),
            }
        )
    for kind in COLOURS:
        segments = frusta(scene, kind, frame).astype("<f4")
        layers.append(
            {
                "kind": "lines",
                "name": f"{kind} cameras",
                "on": True,
                "tint": COLOURS[kind],
                "count": len(segments) // 2,
                "positions": _base64(segments),
            }
        )
    return {"extent": extent, "radius": frame.radius, "layers": layers}


def caption(data: Mapping[str, Any]) -> str:
    """What was left out of the clouds, in words; empty where all is there."""
    parts = []
    for layer in data["layers"]:
        if layer["kind"] != "points":
            continue
        if layer["count"] + layer["strays"] < layer["of"]:
            parts.append(f"Thinned: {layer['count']:,} of {layer['of']:,} {layer['name']}.")
        if layer["strays"]:
            parts.append(f"Left out as too far away: {layer['strays']:,} {layer['name']}.")
    return " ".join(parts)


@dataclass(frozen=True)
class _Cloud:
    points: NDArray[Any]
    colours: NDArray[Any]
    known: int
    strays: int


def _known(scene: Scene, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points ``N 3`` and colours ``N 3``; of the truth only where it is valid."""
    points = scene["true_points" if kind == "true" else "pred_points"].astype(float)
    known = np.isfinite(points).all(-1)
    if kind == "true":
        known &= scene["valid"].astype(bool)
    return points[known], scene["images"][known]


def _choose(scene: Scene, kind: str, frame: ViewerFrame, limit: int) -> _Cloud:
    points, colours = _known(scene, kind)
    known, moved = len(points), frame.apply(points)
    near = np.flatnonzero((np.abs(moved) <= _REACH * frame.radius).all(-1))
    # At random, with a fixed seed: every n-th pixel would show as stripes.
    kept = np.random.default_rng(0).permutation(near)[:limit]
    return _Cloud(moved[kept], colours[kept].astype(np.uint8), known, known - len(near))


def frusta(scene: Scene, kind: str, frame: ViewerFrame) -> NDArray[Any]:
    """Ends of line segments ``(V 10 2) 3``: each camera's frustum, with a mark on its view's upper side.

    Predictions have no intrinsics here; both kinds are drawn with the true ones.
    """
    cameras = scene["true_cam_to_world" if kind == "true" else "pred_cam_to_world"].astype(float)
    height, width = scene["images"].shape[1:3]
    ends = []
    for camera, intrinsics in zip(cameras, scene["intrinsics"].astype(float), strict=True):
        if not np.isfinite(camera).all():
            continue
        pixels = [(0, 0), (width, 0), (width, height), (0, height), (width / 2, -height / 3)]
        rays = np.array([(u, v, 1.0) for u, v in pixels]) @ np.linalg.inv(intrinsics).T
        *corners, mark = frame.apply(0.2 * frame.radius * rays @ camera[:3, :3].T + camera[:3, 3])
        eye = frame.apply(camera[:3, 3])
        ends += [end for corner in corners for end in (eye, corner)]
        ends += [corners[i] for side in range(4) for i in (side, (side + 1) % 4)]
        ends += [corners[0], mark, mark, corners[1]]
    return np.array(ends).reshape(-1, 3)


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
