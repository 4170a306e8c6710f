"""What a user did wrong, as one line on stderr."""

from __future__ import annotations

import os
import sys

DEBUG = "SPATIALPRIOR_DEBUG"
"""Set this environment variable to see tracebacks behind one-line errors."""

EXIT_USAGE = 2
EXIT_FAILED = 1

_EXPECTED = (
    ("spatialprior.backbones.branches", "ContextLengthError"),
    ("spatialprior.backbones.loading", "BackboneError"),
    ("spatialprior.backbones.lora", "LoraTargetError"),
    ("spatialprior.core.injector", "MissingClipFieldError"),
    ("spatialprior.core.sites", "SiteError"),
    ("spatialprior.core.terms", "NonFiniteLossError"),
    ("spatialprior.data.sequence", "BadFrameError"),
    ("spatialprior.eval.cards.card", "CardError"),
    ("spatialprior.eval.failures", "EvaluationError"),
    ("spatialprior.eval.published.prompt_texts", "PromptError"),
    ("spatialprior.eval.published.reading", "RecordsError"),
    ("spatialprior.eval.published.spec", "SpecError"),
    ("spatialprior.export.manifest", "ExportError"),
    ("spatialprior.features.encoder", "EncoderError"),
    ("spatialprior.data.media.errors", "MediaPathError"),
    ("spatialprior.model", "PriorNameError"),
    ("spatialprior.plan.published", "PlanError"),
    ("spatialprior.priors.vega3d.sources", "OtherSceneError"),
    ("spatialprior.train.zero", "ZeroOrderError"),
    ("spatialprior.train.tracking", "TrackingError"),
    ("spatialprior.train.fsdp", "FullyShardedModelError"),
    ("spatialprior.train.checkpoint", "CheckpointError"),
    ("spatialprior.train.accelerator", "HardwareError"),
)
"""Errors of the packages below that speak to the user in one line. Named, not imported: none of these
modules needs to be loaded to tell that a name is misspelt."""


class ConfigError(ValueError):
    """The command line or a recipe asks for something that does not exist. The message is one line."""


class RunError(RuntimeError):
    """A run cannot go on for a reason that the user can mend. The message is one line."""


def one_line(message: object) -> str:
    """Any message on one line; of an error that torch brings from a loader process, what was said there."""
    text = str(message).strip()
    if text.startswith("Caught ") and "DataLoader worker process" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def is_expected(error: BaseException) -> bool:
    """Whether ``error`` is meant for the user (one line), rather than a defect (traceback)."""
    if isinstance(error, (ConfigError, RunError)):
        return True
    classes = (getattr(sys.modules.get(module), name, None) for module, name in _EXPECTED)
    return isinstance(error, tuple(cls for cls in classes if isinstance(cls, type)))


def report(error: BaseException) -> int:
    """Print one line for ``error`` and return the exit code; re-raise it where a traceback is wanted."""
    if os.environ.get(DEBUG):
        raise error
    usage = isinstance(error, ConfigError)
    if not usage or os.environ.get("RANK", "0") == "0":  # all processes read the same command line
        print(f"spatialprior: {one_line(error)}", file=sys.stderr)
    return EXIT_USAGE if usage else EXIT_FAILED
