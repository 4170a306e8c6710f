"""The text encoder's embedding of the empty prompt: computed once as the stock pipelines do, then kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from spatialprior.core.cache import cache_root
from spatialprior.features.components import ComponentFolder
from spatialprior.features.encoder import EncoderError


def check_prompt(file: Path, channels: int) -> None:
    """Raise :class:`EncoderError` unless ``file`` holds one tensor ``1 L channels``. Reads its header only."""
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = [list(opened.get_slice(key).get_shape()) for key in opened.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise EncoderError(
            f"prompt_embedding={file}: no such safetensors file, or broken"
        ) from error
    if len(shapes) != 1 or len(shapes[0]) != 3 or (shapes[0][0], shapes[0][2]) != (1, channels):
        raise EncoderError(
            f"prompt_embedding={file} holds tensors of {shapes}; one of [1, L, {channels}] is needed"
        )


def empty_prompt(
    folder: ComponentFolder, chosen: Path | None, text_class: Any, tokens: int, masked: bool
) -> Tensor:
    """The embedding ``1 L C`` of the empty prompt.

    Args:
        folder: With ``text_encoder`` and ``tokenizer``, where ``chosen`` is ``None``.
        chosen: A file that holds it.
        text_class: Stock class of the text encoder.
        tokens: L, to which the prompt is padded.
        masked: Padding is not attended to and becomes zeros (T5 in Wan), or is text like any (CLIP).
    """
    if chosen is not None:
        (found,) = load_file(chosen).values()
        return found
    if not (folder.root / "tokenizer").is_dir() and not folder.from_hub:
        raise EncoderError(
            f"path={folder.config.path} holds a text_encoder and no tokenizer; set prompt_embedding=FILE"
        )
    # The commit or the files decide, so that two folders with one text encoder share the result.
    what = (
        f"{folder.revision(['text_encoder', 'tokenizer'])} {folder.config.dtype} {tokens} {masked}"
    )
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    file = cache_root() / "prompts" / f"{name}.safetensors"
    if not file.is_file():
        found = _embed(folder, text_class, tokens, masked)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        save_file({"prompt": found}, partial)
        os.replace(partial, file)
    return load_file(file)["prompt"]


@torch.no_grad()
def _embed(folder: ComponentFolder, text_class: Any, tokens: int, masked: bool) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder.fetch("tokenizer"), local_files_only=True)
    text = tokenizer([""], padding="max_length", max_length=tokens, truncation=True)
    ids, mask = torch.tensor(text["input_ids"]), torch.tensor(text["attention_mask"])
    model: Any = folder.build("text_encoder", text_class)
    model.eval()
    if not masked:
        found: Tensor = model(ids)[0]
        return found.contiguous()
    states: Tensor = model(ids, mask)[0]
    return (states * mask[..., None].to(states.dtype)).contiguous()
