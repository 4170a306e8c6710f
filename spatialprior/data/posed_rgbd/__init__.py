"""Posed RGB-D recordings: 7-Scenes, TUM RGB-D, Open3D ``.log``, HoloLens keyframes."""

from spatialprior.data.posed_rgbd.dataset import PosedRgbd

__all__ = ["PosedRgbd"]
