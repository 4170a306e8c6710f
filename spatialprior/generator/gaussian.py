"""The best guess from mean and covariance of latents alone: what a prior of images must beat."""

from __future__ import annotations

import torch
from torch import Tensor


class GaussianDenoiser:
    """Posterior mean under a Gaussian with the covariance of all entries of single-frame latents.

    The best linear predictor there is: of a level t it knows everything but what is not Gaussian.

    Args:
        latents: ``N C 1 h w``, single frames of the training split.
    """

    def __init__(self, latents: Tensor) -> None:
        flat = latents.flatten(1).double()
        self.mean = flat.mean(0)
        centred = flat - self.mean
        values, self.vectors = torch.linalg.eigh(centred.T @ centred / (len(flat) - 1))
        self.values = values.clamp(min=0)

    def velocity(self, noisy: Tensor, level: float) -> Tensor:
        """``eps - z_0`` of ``N C 1 h w`` at one level t."""
        t = level
        offset = (noisy.flatten(1).double() - (1 - t) * self.mean) @ self.vectors
        gain = (1 - t) * self.values / ((1 - t) ** 2 * self.values + t**2)
        clean = self.mean + (offset * gain) @ self.vectors.T
        return ((noisy.flatten(1).double() - clean) / t).view_as(noisy).to(noisy.dtype)
