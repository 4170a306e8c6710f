"""Nano twins: a family's stock class, tokenizer and processor, with small numbers and weights drawn at random.

The twins of most families are written where they are first asked for, in the cache; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from spatialprior.core.cache import cache_root

_HERE = Path(__file__).parent
TWINS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_next_video", "llava_onevision")
"""Families with a nano twin; ``<name>_nano.py`` holds its ``MODEL`` (the stock class), ``processor()`` and
``config(tokenizer)``."""


def processor(kind: str) -> Any:
    """A fresh stock processor of the twin."""
    return _module(kind).processor()


def model(kind: str, tokenizer: Any, seed: int = 0) -> Any:
    """A fresh stock model of the twin; the same weights for the same seed, the caller's generator untouched."""
    config = _module(kind).config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _module(kind).MODEL(config)
    made.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return made


def build(kind: str, folder: Path, seed: int = 0) -> None:
    """Write an untrained twin as a plain Hugging Face folder."""
    made = processor(kind)
    model(kind, made.tokenizer, seed).save_pretrained(folder)
    made.save_pretrained(folder)


def cached_twin(kind: str) -> Path:
    """Folder of the twin, written now if it is not there yet.

    Its name hashes the sources of this package and the release of transformers. It is written beside its final
    name and moved into place, so that a reader sees all of it or nothing.
    """
    folder = cache_root() / "nano" / f"{kind}-{_digest()}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=folder.parent))
        try:
            build(kind, fresh)
            os.rename(fresh, folder)
        except OSError:
            if not folder.exists():  # else another process was first
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _module(kind: str) -> Any:
    return import_module(f"spatialprior.backbones.nano.{kind}_nano")


@cache
def _digest() -> str:
    digest = hashlib.sha256(transformers.__version__.encode())
    for path in sorted((*_HERE.glob("*.py"), *_HERE.glob("*.txt"), *_HERE.glob("*.jinja"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
