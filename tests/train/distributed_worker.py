"""What each process of the distributed tests runs: ``torchrun ... distributed_worker.py OUT SCENARIO...``.

Also imported by the tests, for the same scenarios in one process.
"""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.core.injector import PriorInjector
from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.testing import plane_clip, tiny_backbone
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.trainer import Trainer

ANSWERS = ("yes", "a big red chair near the lamp", "2")
STEPS = 20


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One training, apart from how many processes run it."""

    sharding: str = "none"
    clips: str = "unequal"
    lora: bool = False
    checkpointing: str = "none"
    steps: int = STEPS
    kind: str = "qwen2_5_vl"
    micro_batch: int = 1
    layers: tuple[int, ...] = (1, 3)
    max_tokens: int = 0
    fusion: str = ""
    frozen: bool = False
    expert: str = ""
    stage: str = "vg_ce"
    own_encoder: bool = False


ENGINES = {"ddp": "none", "fsdp2": "fsdp2"}
if find_spec("deepspeed"):
    ENGINES |= {"zero2": "zero2", "zero3": "zero3"}

SCENARIOS = {
    f"{name}_{variant}": dataclasses.replace(
        # Long enough for what rounding may do; the first one's are also cut short and gone on with.
        Scenario(**{"steps": STEPS if variant == "unequal" else 8, **changes}),
        sharding=sharding,
    )
    for name, sharding in ENGINES.items()
    for variant, changes in {
        "unequal": {},
        "one_rank_without_geometry": {"clips": "apart"},
        # Processes differ in their number of passes: two clips of two views fit one, two of three do not.
        "lora": {"lora": True, "micro_batch": 2, "max_tokens": 400},
        "checkpointing": {"checkpointing": "nonreentrant", "micro_batch": 2},
        "no_answer_anywhere": {"clips": "mute", "layers": (1,)},
        "one_rank_without_images": {"clips": "text", "kind": "llava_next_video"},
        # Only the prior trains, and no answer is labelled.
        "frozen_backbone": {"clips": "mute", "frozen": True},
        "frozen_backbone_checkpointing": {
            "clips": "apart",
            "frozen": True,
            "checkpointing": "nonreentrant",
            "micro_batch": 2,
        },
    }.items()
    # DeepSpeed's partitions mix weights: decay reaches those that nothing met. ZeRO-3 refuses text alone.
    if (name, variant)
    not in (
        ("zero2", "no_answer_anywhere"),
        ("zero3", "no_answer_anywhere"),
        ("zero3", "one_rank_without_images"),
    )
    and not (name.startswith("zero") and changes.get("frozen"))  # never tried
}

# VEGA-3D in GASP's place.
FUSED = {
    f"{name}_{fusion}": Scenario(sharding=ENGINES[name], clips="text", steps=6, fusion=fusion)
    for name in ("ddp", "fsdp2")
    for fusion in ("token_gate", "cross_attention")
}

WITH_TEXT = {"clips": "text", "steps": 4, "expert": "full"}
# The geometry expert; of two processes one may have a pass of text alone.
ROUTED = {
    f"{name}_expert_{variant}": dataclasses.replace(
        Scenario(**{**WITH_TEXT, **changes}), sharding=ENGINES[name]
    )
    for name in ("ddp", "fsdp2")
    for variant, changes in {
        "vg_ce": {},
        "checkpointing": {"checkpointing": "nonreentrant", "micro_batch": 2},
        "ce_ce": {"stage": "ce_ce"},
        "own_encoder": {"own_encoder": True},
        # Nothing of the backbone trains, and no view goes through it.
        "geometry": {"stage": "geometry", "expert": "lora"},
    }.items()
}


class Clips:
    """Clips with unlike numbers of views, visible anchors and answer tokens.

    With ``apart`` a clip has either geometry or questions: of two processes one sees no geometry, the other
    no answer. With ``text`` every other clip has no view at all, and no two show the same; with ``mute`` none
    has a question.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 12

    def clip(self, index):
        index %= len(self)
        questions = [("How?", ANSWERS[(index + k) % 3]) for k in range(1 + index % 2)]
        clip = plane_clip(f"plane-{index}", num_views=2 + index % 2, questions=questions)
        valid = clip.depth_valid.clone()
        valid[..., : 12 * (index % 4)] = False
        clip = dataclasses.replace(clip, depth_valid=valid)
        if self.kind == "apart" and index % 2:
            return dataclasses.replace(clip, depth=None, depth_valid=None)
        if self.kind == "text" and index % 2:
            bare = dict.fromkeys(("intrinsics", "world_to_cam", "depth", "depth_valid"))
            return dataclasses.replace(clip, images=(), frame_ids=(), **bare)
        if self.kind == "text":
            return dataclasses.replace(clip, images=clip.images.roll(8 * index, -1))
        return clip.with_questions(()) if self.kind in ("apart", "mute") else clip


def make_trainer(scenario: Scenario, folder: Path) -> Trainer:
    torch.manual_seed(0)
    backbone = tiny_backbone(kind=scenario.kind)
    if scenario.lora:
        inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=4, alpha=8))
    backbone.set_gradient_checkpointing(scenario.checkpointing)
    if scenario.frozen:
        backbone.requires_grad_(False)
    config = TrainerConfig(
        steps=scenario.steps,
        clips_per_step=4,
        learning_rate=1e-3,
        weight_decay=0.5,
        checkpoint_every=5,
    )
    scale = ScaleConfig(
        device="cpu",
        micro_batch=scenario.micro_batch,
        max_tokens=scenario.max_tokens,
        sharding=scenario.sharding,
    )
    return Trainer(
        SpatialModel(backbone, priors(scenario)),
        ClipStream(Clips(scenario.clips), None, config.clips_per_step),
        config,
        scale,
        make_accelerator(scale),
        folder,
        recipe_hash="abc",
        label=folder.name,
    )


def priors(scenario: Scenario) -> dict[str, PriorInjector]:
    if scenario.expert:
        encoder = {"kind": "dinov2_reg", "path": "nano", "weights": "random", "size": [32, 32]}
        heads = {"width": 16, "blocks": 1, "heads": 2, "point_width": 16, "camera_width": 16}
        expert = {"form": scenario.expert, "rank": 4, "alpha": 8}
        settings = {"encoder": encoder, "heads": heads, "expert": expert, "cache_gb": 0.05}
        settings |= {"stage": scenario.stage, "train_encoder": scenario.own_encoder}
        config = GeometryExpert.Config(**settings)
        return {"geometry": GeometryExpert(config)}
    if not scenario.fusion:
        config = Gasp.Config(
            embedding_dim=8, anchors=[4, 8], layers=scenario.layers, max_anchors=20
        )
        return {"gasp": Gasp(config)}
    encoder = {"kind": "wan_t2v", "path": "nano", "size": [32, 32], "layer": 1}
    fusion = {"kind": scenario.fusion}
    return {"vega3d": Vega3d(Vega3d.Config(encoder=encoder, fusion=fusion, cache_gb=0.05))}


def train(scenario: Scenario, folder: Path) -> None:
    """Train; the first process leaves the log, and checkpoints with the weights."""
    make_trainer(scenario, folder).run()


def main() -> None:
    torch.set_num_threads(1)
    out, *names = sys.argv[1:]
    for name in names:
        train({**SCENARIOS, **FUSED, **ROUTED}[name], Path(out) / name)


def passes_with_views(steps: int) -> list[list[bool]]:
    """For each of two processes, pass by pass, whether the clips called ``text`` bring it a view."""
    passes = []
    for rank in range(2):
        found = step_batches(
            ClipStream(Clips("text"), None, 4),
            tiny_backbone().encoder(),
            first_step=0,
            steps=steps,
            micro_batch=1,
            rank=rank,
            ranks=2,
        )
        passes.append([bool(batch.visual.any()) for step in found for batch in step])
    return passes


if __name__ == "__main__":
    main()
