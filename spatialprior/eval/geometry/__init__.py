"""Scores of predicted depth, cameras and points on any posed RGB-D clip.

:func:`score_scene` scores one prediction, :func:`summarise` a set of them, :func:`align_scene` and
:func:`save_scene` put one into the clip's metric frame for the report.
"""

from spatialprior.eval.geometry.aligned import AlignedScene, align_scene, save_scene
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.result import summarise
from spatialprior.eval.geometry.scene import SceneScores, score_scene

__all__ = [
    "AlignedScene",
    "GeometryEvalConfig",
    "SceneScores",
    "align_scene",
    "save_scene",
    "score_scene",
    "summarise",
]
