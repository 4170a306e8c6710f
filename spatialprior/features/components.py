"""A model in diffusers' layout: a folder for each component (``vae/``, ...), here or on the hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from torch import nn

from spatialprior.features.digest import digest
from spatialprior.features.encoder import EncoderConfig, EncoderError
from spatialprior.features.sources import drawn_from

NANO = Path(__file__).parent / "nano"
"""Where embedded models lie."""

HUB = "https://huggingface.co"

_OTHER_WEIGHTS = ["*.fp16.*", "*.non_ema.*"]
"""The same weights once more, in half precision or before averaging; never read."""


class ComponentFolder:
    """The folder or hub repository that ``config`` names.

    Args:
        config: Of the encoder.
        nano: Name of the embedded model, or ``None`` where there is none.
        example: A hub id that would do, for messages.
    """

    def __init__(self, config: EncoderConfig, nano: str | None, example: str) -> None:
        self.config = config
        self.example = example
        self.nano = nano

    @cached_property
    def root(self) -> Path:
        """The folder itself, or the hub's snapshot with the configurations of all components.

        Raises:
            EncoderError: No such folder or repository, gated, no such revision, or no network.
        """
        if (local := self._local()) is not None:
            return local
        return self._snapshot(["*/config.json", "scheduler/*.json"], self.config.revision)

    @cached_property
    def from_hub(self) -> bool:
        return self._local() is None

    def has(self, name: str) -> bool:
        """Whether there is such a component."""
        return (self.root / name / "config.json").is_file()

    def settings(self, name: str, model_class: Any) -> dict[str, Any]:
        """The component's ``config.json``, with the class's own defaults where it is silent. Reads no weight.

        Raises:
            EncoderError: The component is missing, or another class's.
        """
        if not self.has(name):
            raise EncoderError(
                f"path={self.config.path} holds no {name}/config.json; give a folder in diffusers' layout or a "
                f"hub id such as {self.example}"
            )
        found = json.loads((self.root / name / "config.json").read_text(encoding="utf-8"))
        wanted = model_class.__name__
        if (there := found.get("_class_name", wanted)) != wanted:
            raise EncoderError(
                f"path={self.config.path}: {name} is of {there}, and this encoder loads {wanted}; "
                f"give a model such as {self.example}"
            )
        parameters = inspect.signature(model_class.__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {**defaults, **found}

    def check_weights(self, name: str) -> None:
        """Raise :class:`EncoderError` where a local folder has no weights of the component."""
        if not self.from_hub and not any((self.root / name).glob("*.safetensors")):
            raise EncoderError(
                f"path={self.config.path} holds no {name}/*.safetensors: the download is incomplete "
                "(other formats can run code and are not read)"
            )

    def build(self, name: str, model_class: Any) -> nn.Module:
        """The component, on the CPU, in the config's dtype. The global random state stays as it is.

        Raises:
            EncoderError: A weight is missing, left over or of another shape.
        """
        with drawn_from(self.config.seed):
            if self.config.weights == "random":
                return self._drawn(name, model_class)
            return self._loaded(name, model_class)

    def revision(self, names: Sequence[str]) -> str:
        """Identifies the weights of components: the hub's commit, or a digest of the files.

        With random weights the digest is over the configurations alone (the seed is a setting of its own).
        """
        if self.config.weights == "random":
            return digest(self.root, [self.root / name / "config.json" for name in names])
        if self.from_hub:
            return self.root.name
        files = [file for name in names for file in (self.root / name).rglob("*")]
        return digest(self.root, [file for file in files if file.is_file()])

    def fetch(self, name: str) -> Path:
        """The folder of a component with all of its files."""
        if self.from_hub:
            # By the commit that the configurations came with.
            patterns = [f"{name}/*.{end}" for end in ("safetensors", "json", "txt", "model")]
            self._snapshot(patterns, self.root.name)
            self._complete(name)
        return self.root / name

    # --- inside ---------------------------------------------------------------------------

    def _local(self) -> Path | None:
        path, revision = self.config.path, self.config.revision
        if path == "nano":
            if self.nano is None:
                raise EncoderError(
                    f"path=nano: this encoder has no embedded model; set path to a folder in diffusers' layout "
                    f"or to a hub id such as {self.example}"
                )
            path = str(NANO / self.nano)
        local = Path(path).expanduser()
        if local.is_dir():
            if revision is not None:
                raise EncoderError(
                    f"revision={revision} is of a hub id, and path={self.config.path} is here; drop it"
                )
            return local
        if path.startswith(("/", "./", "../", "~")):
            raise EncoderError(
                f"path={path} does not exist; give a folder in diffusers' layout or a hub id such as "
                f"{self.example}"
            )
        return None

    def _snapshot(self, patterns: list[str], revision: str | None) -> Path:
        path = self.config.path
        try:
            found = snapshot_download(
                path, revision=revision, allow_patterns=patterns, ignore_patterns=_OTHER_WEIGHTS
            )
        except GatedRepoError as error:
            raise EncoderError(
                f"path={path} is gated: accept its terms at {HUB}/{path}, then log in here with "
                "'hf auth login' (or set HF_TOKEN)"
            ) from error
        except RevisionNotFoundError as error:
            raise EncoderError(
                f"revision={revision}: {path} has no such revision; see {HUB}/{path}/commits"
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise EncoderError(
                f"path={path}: no such folder here and no such model on {HUB} "
                "(or it is private: 'hf auth login')"
            ) from error
        except OSError as error:
            raise EncoderError(
                f"path={path} is not in the local cache and the hub cannot be reached: where there is a "
                f"network, 'hf download {path} --local-dir DIR', then path=DIR here"
            ) from error
        return Path(found)

    def _complete(self, name: str) -> None:
        # Without a network the hub's library returns what it has, which may be configurations only.
        if name != "tokenizer" and not any((self.root / name).glob("*.safetensors")):
            raise EncoderError(
                f"path={self.config.path}: no {name}/*.safetensors in the local cache, and the hub gave none"
            )

    def _drawn(self, name: str, model_class: Any) -> nn.Module:
        folder, dtype = self.root / name, getattr(torch, self.config.dtype)
        if hasattr(model_class, "load_config"):
            model = model_class.from_config(model_class.load_config(folder))
        else:
            model = model_class(model_class.config_class.from_pretrained(folder))
        # As loading does: modules that the class keeps in float32 stay so.
        kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
        for key, parameter in model.named_parameters():
            if not kept & set(key.split(".")):
                parameter.data = parameter.data.to(dtype)
        return model  # type: ignore[no-any-return]

    def _loaded(self, name: str, model_class: Any) -> nn.Module:
        folder = self.fetch(name)
        word = "torch_dtype" if hasattr(model_class, "load_config") else "dtype"
        try:
            model, info = model_class.from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                **{word: getattr(torch, self.config.dtype)},
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            why = " ".join(str(error).split())[:240]
            raise EncoderError(
                f"path={self.config.path}: {name} cannot be loaded: {why}"
            ) from error
        for state in ("missing", "unexpected", "mismatched"):
            keys = sorted(str(key) for key in info[f"{state}_keys"])
            # A table of numbers 0, 1, 2, ... that older checkpoints of CLIP stored.
            keys = [key for key in keys if not key.endswith("position_ids")]
            if keys:
                raise EncoderError(
                    f"path={self.config.path}: {name} has {len(keys)} {state} weights of "
                    f"{model_class.__name__}, such as {keys[0]}: the download is incomplete, or another model's"
                )
        return model  # type: ignore[no-any-return]
