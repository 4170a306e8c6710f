"""Where an encoder's weights come from: a local folder or file, a hub id, or a seed. safetensors only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from spatialprior.features.digest import digest
from spatialprior.features.encoder import EncoderConfig, EncoderError

WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def refuse_nano(config: EncoderConfig, encoder: str) -> None:
    """Raise :class:`EncoderError` for ``path=nano`` where the encoder has no embedded model."""
    if config.path == "nano":
        raise EncoderError(
            f"{encoder} has no embedded nano model; give path=FOLDER with {WEIGHTS}, or a hub id"
        )


def open_source(config: EncoderConfig) -> Path:
    """The local file or folder of ``config.path``, see :func:`open_path`."""
    return open_path(config.path, config.revision)


def open_path(
    path: str, revision: str | None, names: tuple[str, str] = ("path", "revision")
) -> Path:
    """A local file or folder: ``path`` itself, or the hub's snapshot (fetched where allowed, safetensors only).

    Args:
        path: Of a file or a folder, or a hub id.
        revision: Of the hub id.
        names: What the two are called where they are set, for messages.

    Raises:
        EncoderError: It does not exist, cannot be fetched, or a local path comes with a revision.
    """
    path, (key, key_of_revision) = path.removeprefix("hf-hub:"), names
    local = Path(path).expanduser()
    if local.exists():
        if revision is not None:
            raise EncoderError(
                f"{key_of_revision}={revision} is of a hub id, and {key}={path} is here; drop the revision"
            )
        return local
    if path.startswith(("/", "./", "../", "~")):
        raise EncoderError(
            f"{key}={path} does not exist; give a folder with {WEIGHTS}, or a hub id"
        )
    try:
        # One snapshot, so that configuration and weights are of one commit.
        wanted = ["config.json", PREPROCESSOR, "model*.safetensors", "model.safetensors.index.json"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise EncoderError(
            f"{key}={path}{at} is no folder here and the hub does not give it ({type(error).__name__}); "
            f"where there is a network: hf download {path} --local-dir DIR, then {key}=DIR"
        ) from error


def weight_files(source: Path) -> list[Path]:
    """The safetensors files of what :func:`open_source` returned, sorted.

    Raises:
        EncoderError: There is none (other formats are not read).
    """
    files = [source] if source.is_file() else sorted(source.glob("model*.safetensors"))
    if not files or any(file.suffix != ".safetensors" for file in files):
        raise EncoderError(
            f"{source} holds no {WEIGHTS}; other formats can run code and are not read"
        )
    return files


def single_file(source: Path) -> Path:
    """The one safetensors file of a source.

    Raises:
        EncoderError: There is none, or there are several.
    """
    files = weight_files(source)
    if len(files) > 1:
        raise EncoderError(f"{source} holds {len(files)} safetensors files; give one as path")
    return files[0]


def revision_of(config: EncoderConfig) -> str:
    """The hub's commit, or the digest of the local files."""
    if _COMMIT.fullmatch(config.revision or "") and not Path(config.path).expanduser().exists():
        return str(config.revision)
    source = open_source(config)
    if source.parent.name == "snapshots" and _COMMIT.fullmatch(source.name):
        return source.name
    extra = [source / "config.json"] if (source / "config.json").is_file() else []
    return digest(source.parent if source.is_file() else source, [*extra, *weight_files(source)])


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights made on the CPU inside of the block are drawn from ``seed``; the global state comes back."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs too.
        torch.default_generator.manual_seed(seed)
        yield
