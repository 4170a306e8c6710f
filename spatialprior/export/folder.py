"""Writing the folder, and proving by a stock load that it holds the trained model and nothing else.

Only priors that leave nothing behind can be exported so far (``ExportMode.DISCARD``, GASP): keys, parameter
count and FLOPs are those of the stock model. Nothing in memory changes, so a run can export and go on training.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.core.injector import ExportMode, PriorInjector
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
    """

    folder: Path
    identical_logits: bool
    max_difference: float
    adapter_difference: float | None
    extra_keys: tuple[str, ...]
    parameters: int
    stock_parameters: int

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
        check: Batch on which logits are compared; by default two images of noise and a word.

    Raises:
        ExportError: A prior cannot be exported yet, ``folder`` holds something else, or the stock load does
            not find every tensor.
    """
    folder = Path(folder)
    about = _described(model.priors)
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
        report = _verify(model.backbone, aside, folder, check)
    write_manifest(
        aside,
        recipe_hash=recipe_hash,
        priors=about,
        parameters=report.parameters,
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


def _described(priors: nn.ModuleDict) -> dict[str, dict[str, str]]:
    """Each prior's class and export mode, as the manifest names them; refuses modes that are not available."""
    about = {}
    for name, prior in priors.items():
        assert isinstance(prior, PriorInjector)
        mode = prior.export_mode
        if mode is not ExportMode.DISCARD:
            raise ExportError(
                f"prior {name!r} needs {mode.name} export, which is not available yet; "
                f"only {ExportMode.DISCARD.name} priors (such as gasp) can be exported"
            )
        about[name] = {"kind": type(prior).__qualname__, "export": mode.value}
    return about


def _stock_load(folder: Path, **options: Any) -> tuple[nn.Module, Any, dict[str, Any]]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **options
    )
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True), info


def _verify(
    backbone: Backbone, written: Path, folder: Path, check: ClipBatch | None
) -> ExportReport:
    hf: Any = backbone.hf
    stock, _, info = _stock_load(written, attn_implementation=hf.config._attn_implementation)
    if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ExportError(f"the export of {folder} lacks {lacking[0]}; nothing was published")
    device = next(hf.parameters()).device
    inputs = (_noise(backbone) if check is None else check).to(device).inputs
    merged = _merging(backbone)
    with _evaluating(hf), torch.no_grad():
        exported = stock.to(device)(**inputs, use_cache=False).logits
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
