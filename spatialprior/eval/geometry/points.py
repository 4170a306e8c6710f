"""Point-map scores: Sim(3) on paired pixels, then ICP, then nearest neighbours (benchmarks.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.icp import register
from spatialprior.eval.geometry.normals import estimate_normals
from spatialprior.eval.geometry.samples import Samples
from spatialprior.eval.geometry.similarity import Array, Similarity, fit_similarity
from spatialprior.eval.geometry.truth import Geometry, Truth

METRICS = ("acc_mean", "acc_median", "comp_mean", "comp_median", "nc")
_FEWEST = 3  # points that a similarity needs


@dataclass(frozen=True)
class Cloud:
    """Points to be compared.

    Attributes:
        points: ``N 3``, metres.
        tree: Of them.
        normals: ``N 3``, up to sign.
    """

    points: Array
    tree: cKDTree
    normals: Array

    @classmethod
    def of(cls, points: Array, neighbours: int) -> Cloud:
        tree = cKDTree(points)
        return cls(points, tree, estimate_normals(points, tree, neighbours))


def pick_pixels(valid: NDArray[np.bool_], config: GeometryEvalConfig) -> NDArray[np.int64]:
    """Flat indices of the valid pixels that ICP and the distances look at: ``max_points`` at most."""
    pixels = np.flatnonzero(valid)
    if len(pixels) <= config.max_points:
        return pixels
    rng = np.random.Generator(np.random.PCG64(config.seed))
    return np.sort(rng.choice(pixels, config.max_points, replace=False))


def align_points(
    predicted: Geometry, truth: Truth, config: GeometryEvalConfig
) -> Similarity | None:
    """From the prediction's world to the true one, as the Pi3 suite does it: Umeyama's similarity over
    all valid pixels (pixel to same pixel), then a rigid point-to-point ICP. ``None`` with fewer than
    three valid pixels.
    """
    valid = truth.valid
    if valid.sum() < _FEWEST:
        return None
    coarse = fit_similarity(predicted.points_world[valid], truth.points_world[valid])
    pixels = pick_pixels(valid, config)
    source, target = (g.points_world.reshape(-1, 3)[pixels] for g in (predicted, truth))
    fine = register(
        coarse.apply(source),
        target,
        threshold=config.icp_threshold,
        iterations=config.icp_iterations,
    )
    return fine.after(coarse)


def compare_clouds(predicted: Cloud, truth: Cloud) -> dict[str, float]:
    """Acc: distances from predicted points to the nearest true one; Comp: the other way; metres, mean and
    median. NC: mean |dot| of the two normals at these pairs, averaged over both directions.
    """
    accuracy, to_truth = truth.tree.query(predicted.points)
    completeness, to_predicted = predicted.tree.query(truth.points)
    forward = np.abs((predicted.normals * truth.normals[to_truth]).sum(-1)).mean()
    backward = np.abs((truth.normals * predicted.normals[to_predicted]).sum(-1)).mean()
    return {
        "acc_mean": float(np.mean(accuracy)),
        "acc_median": float(np.median(accuracy)),
        "comp_mean": float(np.mean(completeness)),
        "comp_median": float(np.median(completeness)),
        "nc": float((forward + backward) / 2),
    }


def true_cloud(truth: Truth, config: GeometryEvalConfig) -> Cloud | None:
    """What predictions of this clip are compared with; ``None`` with fewer than three valid pixels."""
    if truth.valid.sum() < _FEWEST:
        return None
    points = truth.points_world.reshape(-1, 3)[pick_pixels(truth.valid, config)]
    return Cloud.of(points, config.normal_neighbours)


def score_points(
    predicted: Geometry, truth: Truth, cloud: Cloud | None, config: GeometryEvalConfig
) -> dict[str, Samples]:
    """Every point figure of one clip, which is one sample ("scene means"); ``cloud``: of :func:`true_cloud`."""
    fit = align_points(predicted, truth, config)
    if fit is None or cloud is None:
        return {f"points.{metric}": Samples.even([]) for metric in METRICS}
    points = predicted.points_world.reshape(-1, 3)[pick_pixels(truth.valid, config)]
    found = compare_clouds(Cloud.of(fit.apply(points), config.normal_neighbours), cloud)
    return {f"points.{metric}": Samples.even([found[metric]]) for metric in METRICS}
