"""Writing the folder, and proving by a stock load that it holds the trained model and nothing else.

Of a prior that leaves nothing behind (GASP), keys, parameter count and FLOPs are those of the stock model. One
that stays (VEGA-3D) has its tensors in a folder of their own beside the stock checkpoint, and both are loaded
and compared. Nothing in memory changes, so a run can export and go on training.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.export.card import card
from spatialprior.export.kept import (
    attach_kept,
    describe_backbone,
    describe_priors,
    kept_of,
    save_kept,
)
from spatialprior.export.manifest import MANIFEST, ExportError, verify_manifest, write_manifest
from spatialprior.model import SpatialModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What the stock load of an exported folder showed.

    Attributes:
        folder: Where the export lies.
        identical_logits: Stock logits equal those of the model in memory (adapters merged), bit by bit.
        max_difference: Largest absolute difference of these logits; 0 when identical.
        adapter_difference: The same against the model with its adapters apart, where rounding differs;
            ``None`` without adapters.
        extra_keys: Tensors in the folder that the stock model does not know.
        parameters: Of the loaded model; stock_parameters: of a fresh model of that configuration.
        kept: Only where priors stay: their names (``kept``), whether the model loaded with them computes what
            the one in memory does (``identical_logits``), and what they cost.
    """

    folder: Path
    identical_logits: bool
    max_difference: float
    adapter_difference: float | None
    extra_keys: tuple[str, ...]
    parameters: int
    stock_parameters: int
    kept: dict[str, Any] | None = None

    @property
    def is_stock(self) -> bool:
        """Whether the export is an ordinary checkpoint of the trained model."""
        same_count = self.parameters == self.stock_parameters
        return self.identical_logits and not self.extra_keys and same_count

    def to_dict(self) -> dict[str, Any]:
        """The ``export`` section of ``report.json``."""
        return {**asdict(self), "folder": str(self.folder), "extra_keys": list(self.extra_keys)}


def export_model(
    model: SpatialModel, folder: Path, *, recipe_hash: str, check: ClipBatch | None = None
) -> ExportReport:
    """Write ``model`` as a plain Hugging Face folder with a manifest, and verify it by a stock load.

    The folder appears complete or not at all; an earlier export in its place is replaced.

    Args:
        model: The trained model (unwrapped); not modified.
        folder: Where to write.
        recipe_hash: Identifies the settings of the run.
        check: Prompts on which logits are compared; by default two images of noise and a word.

    Raises:
        ExportError: A prior cannot be exported, ``folder`` holds something else, or the stock load does
            not find every tensor.
    """
    folder = Path(folder)
    about = describe_priors(model.injectors)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ExportError(
            f"{folder} exists and is not an export (no {MANIFEST}); choose another folder or remove it"
        )
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    # Building models draws random numbers; the run must not notice.
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        model.backbone.save(aside)
        batch = _noise(model.backbone) if check is None else check
        batch = batch.to(next(model.backbone.parameters()).device)
        report = _verify(model.backbone, aside, folder, batch)
        if kept_of(about):
            save_kept(model.injectors, about, aside)
            kept = _verify_kept(model, aside, about, batch)
            report = replace(report, kept=kept | {"parameters": report.parameters})
    (aside / "README.md").write_text(card(about, report.kept), encoding="utf-8")
    write_manifest(
        aside,
        recipe_hash=recipe_hash,
        priors=about,
        parameters=report.parameters,
        backbone=describe_backbone(model.backbone),
    )
    _publish(aside, folder)
    if not report.is_stock:
        log.warning("the export in %s is not a stock checkpoint: %s", folder, report)
    return report


def load_export(folder: Path) -> tuple[nn.Module, Any]:
    """Model and processor of an exported folder, through the stock classes, offline, its manifest checked.

    Raises:
        ExportError: The folder is not what its manifest says.
    """
    verify_manifest(folder)
    model, processor, _ = _stock_load(Path(folder))
    return model, processor


def _stock_load(folder: Path, **options: Any) -> tuple[nn.Module, Any, dict[str, Any]]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **options
    )
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True), info


def _verify(backbone: Backbone, written: Path, folder: Path, batch: ClipBatch) -> ExportReport:
    hf: Any = backbone.hf
    stock, _, info = _stock_load(written, attn_implementation=hf.config._attn_implementation)
    if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ExportError(f"the export of {folder} lacks {lacking[0]}; nothing was published")
    inputs = batch.inputs
    merged = _merging(backbone)
    with _evaluating(hf), torch.no_grad():
        exported = stock.to(batch.labels.device)(**inputs, use_cache=False).logits
        adapted = hf(**inputs, use_cache=False).logits
        kept = {"use_cache": False, **inputs}
        reference = functional_call(hf, merged, kwargs=kept).logits if merged else adapted
    with torch.device("meta"):
        fresh = type(stock)(stock.config)
    return ExportReport(
        folder=folder,
        identical_logits=torch.equal(exported, reference),
        max_difference=_distance(exported, reference),
        adapter_difference=_distance(exported, adapted) if merged else None,
        extra_keys=tuple(sorted(info["unexpected_keys"])),
        parameters=_count(stock),
        stock_parameters=_count(fresh),
    )


def _verify_kept(
    model: SpatialModel, written: Path, about: Mapping[str, Any], batch: ClipBatch
) -> dict[str, Any]:
    """Load the kept priors again, compare, and count what they add."""
    backbone, kept = model.backbone, kept_of(about)
    # Around the backbone in memory: what the stock weights do has been verified without priors.
    mine = {name: model.injectors[name] for name in kept}
    with _evaluating(model), torch.no_grad():
        wanted, edited_flops = _edited_logits(model, kept, batch)
        with backbone.bare():
            # Stock has no further tokens either; prompts end in the same one.
            stock = backbone.encoder().prompts(batch.clips).to(batch.labels.device)
            plain, flops = _edited_logits(model, (), stock)
            again = attach_kept(backbone, written, about)
            found, _ = _edited_logits(again, kept, batch)
        images = batch.clips[0].images
        assert isinstance(images, Tensor)
        with FlopCounterMode(display=False) as frozen:
            for prior in mine.values():
                prior.run_frozen(images)
    modules = [module for prior in mine.values() for module in prior.frozen_modules()]
    return {
        "kept": sorted(kept),
        "identical_logits": torch.equal(found, wanted),
        "changes_logits": not torch.equal(wanted[:, -1], plain[:, -1]),
        "kept_parameters": sum(entry["parameters"] for entry in kept.values()),
        "frozen_parameters": sum(map(_count, modules)),
        "flops": flops,
        "fusion_flops": edited_flops - flops,
        "frozen_flops": frozen.get_total_flops(),
    }


def _edited_logits(
    model: SpatialModel, priors: Iterable[str], batch: ClipBatch
) -> tuple[Tensor, int]:
    """Logits of a pass with the edits of some of the model's priors, and its FLOPs."""
    edits = model.edits({name: model.injectors[name].prepare(batch) for name in priors})
    backbone = model.backbone
    with FlopCounterMode(display=False) as counter:
        logits = backbone.logits(backbone(batch, edits=edits).hidden)
    return logits, counter.get_total_flops()


def _merging(backbone: Backbone) -> dict[str, Tensor]:
    """Weights to put in place of the adapted ones so that the model in memory computes what was exported.

    Adapted maps get the merged weight and an update of zero, which adds nothing, not even rounding. Empty
    without adapters.
    """
    named = dict(backbone.hf.named_parameters())
    if not any(".lora_B." in name for name in named):
        return {}
    stock: dict[str, Tensor] = backbone.stock_state_dict()  # type: ignore[operator]
    weights = {n: stock[n.replace(".base_layer.", ".")] for n in named if ".base_layer." in n}
    return weights | {n: torch.zeros_like(p) for n, p in named.items() if ".lora_B." in n}


def _noise(backbone: Backbone) -> ClipBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=generator)
    question = Question("export_check", "how many objects are visible in image 1?", "two")
    clip = MultiViewClip("export-check", "noise", images, (0, 1), questions=(question,))
    return backbone.encoder().prompts([clip])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every submodule's own mode afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _publish(aside: Path, folder: Path) -> None:
    """Put the finished folder in place: contents reach the disk before the name does."""
    for path in aside.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
