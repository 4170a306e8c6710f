from typing import Any, ClassVar

from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import InjectorContract


class TestGasp(InjectorContract):
    injector_class = Gasp
    config_kwargs: ClassVar[dict[str, Any]] = {"embedding_dim": 16, "anchors": [4, 6]}


class TestGaspAllFramesRandomSubset(InjectorContract):
    injector_class = Gasp
    config_kwargs: ClassVar[dict[str, Any]] = {
        "embedding_dim": 16,
        "layers": [1, 2],
        "anchors": [6],
        "max_anchors": 9,
        "negatives": "all_other_frames",
        "initialization": "random",
        "depth_weight": 0.0,
        "chunk_pairs": 2,
        "recompute": False,
    }
