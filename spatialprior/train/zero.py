"""DeepSpeed's ZeRO: gradients and moments (stage 2), parameters too (stage 3) shared out over the processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spatialprior.core.batch import ClipBatch
from spatialprior.core.terms import LossTerm
from spatialprior.model import SpatialModel
from spatialprior.train.config import TrainerConfig
from spatialprior.train.engine import Engine
from spatialprior.train.optim import make_optimizer, set_rate

_PIXELS = ("pixel_values", "pixel_values_videos")


class ZeroOrderError(ValueError):
    """A batch would make ZeRO-3's processes gather weights in different orders."""


class Zero(Engine):
    """ZeRO, stage 2 or 3, with our AdamW on DeepSpeed's partitions.

    DeepSpeed is initialised here rather than by accelerate, whose wrapper makes the optimiser step inside the
    backward pass. It knows the gradient's norm only after that step, so a gradient that is not finite does
    reach the weights: go on from the last checkpoint.
    """

    def __init__(
        self, model: SpatialModel, config: TrainerConfig, accelerator: Accelerator, *, stage: int
    ) -> None:
        self._stage = stage
        super().__init__(model, config, accelerator)

    def _distribute(self, config: TrainerConfig) -> None:
        if self.accelerator.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        self.model.set_lockstep(True)
        # Stage 3 gathers a module's weights at each call: all processes must call it equally often.
        self.model.chunked_logits = self._stage == 2
        optimizer = make_optimizer(self.model, config)
        set_rate(optimizer, 0.0)  # stage 3 takes a step with zero gradients to make the moments
        self._module, self.optimizer, _, _ = deepspeed.initialize(
            model=self.model,
            optimizer=optimizer,
            config=self._settings(config),
            dist_init_required=False,
        )
        self._make_moments()

    def _make_moments(self) -> None:
        """AdamW's state of each flat partition, before the first step.

        Stage 2 makes it during that step and then links the parameters of *all* groups to it when only the
        first group has any (DeepSpeed 0.19); besides, a resumed run must fill it in before.
        """
        zero, inner = self.optimizer, self._inner
        stage_2 = self._stage == 2
        flat = (
            zero.single_partition_of_fp32_groups if stage_2 else zero.fp32_partitioned_groups_flat
        )
        for partition in flat:
            inner.state[partition] = {
                "step": torch.zeros(()),
                **{key: torch.zeros_like(partition) for key in ("exp_avg", "exp_avg_sq")},
            }
        if stage_2:
            zero._lazy_init_hp_params_optimizer_state()

    def _settings(self, config: TrainerConfig) -> dict[str, object]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # for its throughput figures only
            "gradient_accumulation_steps": 1,
            "gradient_clipping": config.grad_clip,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": self._stage, "overlap_comm": False},
        }

    @property
    def _inner(self) -> Any:
        """Our AdamW inside DeepSpeed's optimiser."""
        return self.optimizer.optimizer

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self._module.set_gradient_accumulation_boundary(last)
        yield

    def forward(self, batch: ClipBatch, context: Mapping[str, Any]) -> list[LossTerm]:
        video = self.model.backbone.frames == "video"
        usual = {"pixel_values_videos" if video else "pixel_values"}
        if self._stage == 3 and {key for key in batch.inputs if key in _PIXELS} != usual:
            raise ZeroOrderError(
                f"clips {', '.join(batch.clip_ids)} have no {'video' if video else 'image'}, or both kinds: "
                "under scale.sharding=zero3 processes would gather weights in different orders and hang; use "
                "scale.sharding=fsdp2, which takes such clips"
            )
        return super().forward(batch, context)

    def backward(self, loss: Tensor) -> None:
        self._module.backward(loss * self.accelerator.num_processes)

    def update(self, limit: float) -> float:
        self._module.step()
        return float(self._module.get_global_grad_norm())

    def drop_untouched(self) -> None:
        """Nothing: DeepSpeed's partitions mix weights, so decay reaches those that no clip met."""

    def read(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        step = next(iter(self._inner.state.values()))["step"]
        return {
            "value": safe_get_full_fp32_param(parameter).to(parameter.dtype),
            "exp_avg": safe_get_full_optimizer_state(parameter, "exp_avg"),
            "exp_avg_sq": safe_get_full_optimizer_state(parameter, "exp_avg_sq"),
            "step": step.clone(),
        }

    def write(self, parameter: nn.Parameter, tensors: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if "value" in tensors:
            safe_set_full_fp32_param(parameter, tensors["value"].float())
        for key in ("exp_avg", "exp_avg_sq"):
            if key in tensors:
                safe_set_full_optimizer_state(parameter, tensors[key], key)
        if "step" in tensors:
            for state in self._inner.state.values():
                state["step"].copy_(tensors["step"])
