"""The cache of feature maps: a warm call and a cold one against encoding without a cache.

A tiny ViT (timm, random weights) at 224x224 over 8 frames of 480x640 noise; its weights are loaded beforehand
on all sides. Cold is an empty folder each time: hashing, encoding, writing and syncing to disk. The models that
the cache is for take far longer, so a warm call saves more with them.

    python benchmarks/feature_cache.py [--rounds 40] [--threads 1] [--out benchmarks/results/feature_cache.json]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import paired
import timm
import torch
from torch import Tensor, nn

from spatialprior.features.cache import FeatureCache
from spatialprior.features.cached import CachedEncoder
from spatialprior.features.encoder import EncoderConfig, FeatureEncoder

FRAMES, HEIGHT, WIDTH, MAX_BYTES = 8, 480, 640, 10**9
MODEL = "vit_tiny_patch16_224"


class TinyVit(FeatureEncoder):
    """Patch tokens of the last layer."""

    multiple = 16

    @property
    def channels(self) -> int:
        return 192

    @property
    def revision(self) -> str:
        return f"random, timm {timm.__version__}"

    def load(self) -> nn.Module:
        torch.manual_seed(self.config.seed)
        return timm.create_model(MODEL, num_classes=0)

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        tokens = module.forward_features(pixels)[:, 1:]
        return tokens.transpose(1, 2).unflatten(2, (pixels.shape[2] // 16, pixels.shape[3] // 16))


def main() -> int:
    args = paired.parser(__doc__, rounds=40).parse_args()
    torch.set_num_threads(args.threads)
    encoder = TinyVit(EncoderConfig(weights="random", size=(224, 224), fit="stretch"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (FRAMES, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    ids = range(FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        kept = FeatureCache(Path(folder) / "warm", MAX_BYTES)
        warm = CachedEncoder(encoder, kept)
        expected = warm(images, ids).values
        numbers = iter(range(10**9))

        def cold() -> Tensor:
            fresh = FeatureCache(Path(folder) / f"cold-{next(numbers)}", MAX_BYTES)
            return CachedEncoder(encoder, fresh)(images, ids).values

        same = torch.equal(warm(images, ids).values, cold()) and torch.equal(cold(), expected)
        timings = paired.interleave(
            {"warm": lambda: warm(images, ids), "cold": cold, "plain": lambda: encoder(images)},
            args.rounds,
        )
        setting = {
            "model": MODEL,
            "frames": FRAMES,
            "height": HEIGHT,
            "width": WIDTH,
            "bytes": kept.bytes_written,
            "same_values": same,
        }
    cases = {
        "features: cold / warm": timings.case("cold", "warm", (">=", 5)),
        "features: cold / no cache": timings.case("cold", "plain", ("<=", 1.25)),
    }
    return paired.finish("feature_cache", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
