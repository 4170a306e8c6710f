"""Camera scores over all frame pairs, and the trajectory's error (benchmarks.md section 6, "Pose").

Two published conventions, for poses i < j (both read in source, the second in copies of the Pi3 suite):

* ``vggt`` (facebookresearch/vggt, evaluation/test_co3d.py): ``T_i T_j^-1`` of world-to-camera poses. The
  translation is the centre of camera j in the frame of camera i.
* ``pi3`` (relpose/metric.py): ``T_j T_i^-1``, the centre of camera i in the frame of camera j.

The rotation's error is the same in both. The translation's is not, since each is seen from another camera,
whose own rotation is wrong in its own way; so RTA and AUC differ.

VGGT averages over CO3D's categories; Pi3 pools all pairs, as is done here (a clip has no category).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from spatialprior.eval.geometry.samples import Samples
from spatialprior.eval.geometry.similarity import Array, fit_similarity

CONVENTIONS = ("vggt", "pi3")
THRESHOLDS = (5, 15, 30)  # degrees
AUC_LIMIT = 30  # degrees
_EPS = 1e-15  # metres, of the published code


def relative_poses(cam_to_world: Array, convention: str) -> Array:
    """Relative pose of every pair i < j: ``V 4 4`` to ``P 4 4``, pairs in lexical order.

    Raises:
        ValueError: No such convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"no pose convention {convention!r}: choose vggt or pi3")
    pairs = np.array(list(combinations(range(len(cam_to_world)), 2)), dtype=np.int64).reshape(-1, 2)
    base, other = pairs.T if convention == "vggt" else pairs.T[::-1]
    rotation_t = cam_to_world[base, :3, :3].transpose(0, 2, 1)
    relative = np.tile(np.eye(4), (len(pairs), 1, 1))
    relative[:, :3, :3] = rotation_t @ cam_to_world[other, :3, :3]
    offset = cam_to_world[other, :3, 3] - cam_to_world[base, :3, 3]
    relative[:, :3, 3] = (rotation_t @ offset[..., None])[..., 0]
    return relative


def rotation_error(predicted: Array, truth: Array) -> Array:
    """Geodesic angle between rotations ``... 3 3``, degrees in [0, 180]."""
    turn = np.swapaxes(predicted, -1, -2) @ truth
    skew = turn - np.swapaxes(turn, -1, -2)
    sine = np.sqrt(skew[..., 0, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 2] ** 2) / 2
    cosine = (np.trace(turn, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arctan2(sine, cosine))


def translation_error(predicted: Array, truth: Array) -> Array:
    """Angle between directions ``... 3`` modulo sign, degrees in [0, 90].

    A translation of zero has no direction. Both suites divide by its length plus 1e-15, which leaves
    zero, whose product with anything is zero: they count such a pair as 90 degrees, whichever side it is
    on. So does this.
    """
    a = predicted / (np.linalg.norm(predicted, axis=-1, keepdims=True) + _EPS)
    b = truth / (np.linalg.norm(truth, axis=-1, keepdims=True) + _EPS)
    return np.degrees(np.arccos(np.clip(np.abs((a * b).sum(-1)), 0.0, 1.0)))


def auc_credit(error: Array, limit: int = AUC_LIMIT) -> Array:
    """What each pair adds to the AUC, whose value is the mean of these.

    The suites take a histogram of ``error`` (``max(R, T)``, degrees) with edges 0, 1 ... ``limit``, the
    last bin closed, and average its cumulative sums. A pair of bin k stands in the sums k ... limit-1, a
    share ``(limit - k) / limit`` of them.
    """
    bins = np.minimum(np.floor(error), limit - 1)
    return np.where(error <= limit, (limit - bins) / limit, 0.0)


def trajectory_error(predicted: Array, truth: Array) -> float | None:
    """Root mean square distance of the camera centres after a Sim(3) fit (ATE as evo computes it), metres.

    ``None`` with fewer than three cameras, which a similarity fits without error.
    """
    if len(truth) < 3:
        return None
    centres, wanted = predicted[:, :3, 3], truth[:, :3, 3]
    rest = fit_similarity(centres, wanted).apply(centres) - wanted
    return float(np.sqrt(np.square(rest).sum(-1).mean()))


def score_poses(predicted: Array, truth: Array) -> dict[str, Samples]:
    """Every pose figure of one clip, from ``V 4 4`` cam-to-world each.

    Frame pairs are the samples; for the ATE, the clip is.
    """
    scores: dict[str, Samples] = {}
    for convention in CONVENTIONS:
        found, wanted = (relative_poses(poses, convention) for poses in (predicted, truth))
        turn = rotation_error(found[:, :3, :3], wanted[:, :3, :3])
        direction = translation_error(found[:, :3, 3], wanted[:, :3, 3])
        for letter, error in (("r", turn), ("t", direction)):
            for limit in THRESHOLDS:
                scores[f"pose.{convention}.r{letter}a{limit}"] = Samples.even(error < limit)
        scores[f"pose.{convention}.auc{AUC_LIMIT}"] = Samples.even(
            auc_credit(np.maximum(turn, direction))
        )
    ate = trajectory_error(predicted, truth)
    scores["pose.ate"] = Samples.even([] if ate is None else [ate])
    return scores
