"""Opening a checkpoint, with one line for whatever is wrong: where it is, whose it is, what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig
from transformers.utils import is_flash_attn_2_available

from spatialprior.backbones.settings import HFConfig

HUB = "https://huggingface.co"


class BackboneError(ValueError):
    """A backbone cannot be had as the recipe asks. The message is one line."""


def read_config(model_class: Any, path: str, revision: str | None) -> Any:
    """The stock configuration at ``path``, known to be one of ``model_class``. Reads no weight.

    Raises:
        BackboneError: No such folder, no such model, a gated one, no network, or another family's.
    """
    if _is_local(path) and not (Path(path).expanduser() / "config.json").is_file():
        state = "holds no config.json" if Path(path).expanduser().is_dir() else "does not exist"
        raise BackboneError(
            f"backbone.path={path} {state}; give a Hugging Face folder, a hub id such as "
            "Qwen/Qwen2.5-VL-7B-Instruct, or nano"
        )
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise BackboneError(_why(error, path, revision)) from error
    wanted = model_class.config_class.model_type
    if config.model_type != wanted:
        raise BackboneError(
            f"backbone.path={path} is a {config.model_type} model, and this backbone loads {wanted}; choose "
            "the backbone of its family, or another checkpoint"
        )
    return config


def load_weights(model_class: Any, path: str, config: HFConfig) -> Any:
    """The stock model with the weights at ``path``.

    Raises:
        BackboneError: As :func:`read_config`; or a weight is missing, which transformers would draw at random.
    """
    read_config(model_class, path, config.revision)
    check_attention(config.attention)
    try:
        model, info = model_class.from_pretrained(
            path,
            revision=config.revision,
            attn_implementation=config.attention,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
        )
    except OSError as error:
        raise BackboneError(_why(error, path, config.revision)) from error
    if missing := sorted(info["missing_keys"]):
        raise BackboneError(
            f"backbone.path={path} lacks {len(missing)} weights of {model_class.__name__}, such as "
            f"{missing[0]}, which would start at random: the download is incomplete, or another model's"
        )
    return model


def check_attention(attention: str) -> None:
    """Raise :class:`BackboneError` for an attention kernel that is not installed here."""
    if attention != "flash_attention_2":
        return
    if not torch.cuda.is_available():
        raise BackboneError(
            "backbone.attention=flash_attention_2 runs on CUDA devices only, and none is visible; use sdpa"
        )
    if not is_flash_attn_2_available():
        raise BackboneError(
            "backbone.attention=flash_attention_2 needs the package flash-attn: pip install flash-attn "
            "--no-build-isolation, or use sdpa"
        )


def _is_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~")) or Path(path).exists()


def _why(error: BaseException, path: str, revision: str | None) -> str:
    """The cause that the hub's library found, somewhere below what transformers says."""
    causes: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in causes:
        causes.append(found)
        found = found.__cause__ or found.__context__

    def met(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if met(GatedRepoError):
        return (
            f"backbone.path={path} is gated: accept its terms at {HUB}/{path}, then log in here with "
            "'hf auth login' (or set HF_TOKEN)"
        )
    if met(RevisionNotFoundError):
        return (
            f"backbone.revision={revision}: {path} has no such revision; see {HUB}/{path}/commits"
        )
    if met(RepositoryNotFoundError) or met(HFValidationError):
        return (
            f"backbone.path={path}: no such folder here and no such model on {HUB} (or it is private: "
            "'hf auth login')"
        )
    if met(LocalEntryNotFoundError):
        return (
            f"backbone.path={path} is not in the local cache and the hub cannot be reached: where there is a "
            f"network, 'hf download {path} --local-dir DIR', then backbone.path=DIR here; or backbone.path=nano"
        )
    return f"backbone.path={path} cannot be read: {error}"
