"""The cache of feature maps on embedded clips: a warm call and a cold one against encoding without a cache.

The recipe's own encoder (the nano Wan) over clips of three views of the embedded rooms; its weights are loaded
beforehand on all sides. Cold is an empty folder each time: hashing, encoding, writing and syncing to disk.
Models of published size take far longer, so a warm call saves more with them.

    python benchmarks/feature_cache.py [--rounds 40] [--threads 1] [--out benchmarks/results/feature_cache.json]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import paired
import torch
from torch import Tensor

from spatialprior.features.cache import FeatureCache
from spatialprior.features.cached import CachedEncoder
from spatialprior.run.compose import compose_run

CLIPS, MAX_BYTES = 4, 10**9


def main() -> int:
    args = paired.parser(__doc__, rounds=40).parse_args()
    torch.set_num_threads(args.threads)
    run = compose_run(["recipe=vega3d_baseline", f"data.val_rooms={CLIPS}"])
    encoder = run.priors["vega3d"].settings.encoder.build()
    split = run.data.cls(run.data.settings).split("val", run.seed)
    clips = [split.clip(index) for index in range(CLIPS)]

    def through(cache: FeatureCache) -> Tensor:
        cached = CachedEncoder(encoder, cache)
        return torch.cat([cached(clip.images, clip.frame_ids).values for clip in clips])

    with tempfile.TemporaryDirectory() as folder:
        kept = FeatureCache(Path(folder) / "warm", MAX_BYTES)
        expected = through(kept)
        numbers = iter(range(10**9))

        def cold() -> Tensor:
            return through(FeatureCache(Path(folder) / f"cold-{next(numbers)}", MAX_BYTES))

        same = torch.equal(through(kept), expected) and torch.equal(cold(), expected)
        timings = paired.interleave(
            {
                "warm": lambda: through(kept),
                "cold": cold,
                "plain": lambda: [encoder(clip.images) for clip in clips],
            },
            args.rounds,
        )
        setting = {
            "encoder": encoder.settings(),
            "clips": CLIPS,
            "views": sum(clip.num_views for clip in clips),
            "bytes": kept.bytes_written,
            "same_values": same,
        }
    cases = {
        "features: plain / warm": timings.case("plain", "warm", (">=", 10)),
        "features: cold / no cache": timings.case("cold", "plain", ("<=", 1.25)),
    }
    return paired.finish("feature_cache", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
