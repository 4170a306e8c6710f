"""Reads the geometry weights of the published G²VLM checkpoint from a local folder.

The checkpoint is ``InternRobotics/G2VLM-2B-MoT`` on the Hugging Face hub, of a Qwen2-VL-2B. Not run on the real
weights: only on a small folder with the same names. What the expert reads of markers and prompt went through
that checkpoint's own language side, so on a stock backbone its geometry needs a new look (``g2vlm.md``, 8).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Size, Tensor

from spatialprior.features.encoder import EncoderError
from spatialprior.features.sources import open_path
from spatialprior.priors.geometry_expert.upstream_names import UpstreamError, imported_names

REPOSITORY = "InternRobotics/G2VLM-2B-MoT"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OPTIONAL = ("heads.global_points.", "heads.confidence.")


def read_upstream(folder: Path, shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """The checkpoint's geometry weights under the names of this package, in the checkpoint's dtype.

    Nothing is read before every name and shape has been checked. A head that the model has switched off is
    skipped; so is a confidence head that the checkpoint does not have.

    Args:
        folder: Holds ``model.safetensors``, or its shards and their index.
        shapes: Name -> shape of what the model wants: ``layers.I...``, ``norm.weight``, ``projector...``,
            ``heads...``.

    Raises:
        UpstreamError: No such folder or file, a key that is not known, missing or superfluous, a wrong shape.
    """
    files = _open(folder)
    wanted: dict[Path, dict[str, tuple[str, ...]]] = {}
    found: set[str] = set()
    for file, keys in files.items():
        for key, shape in keys.items():
            names = imported_names(key)
            if names is None or _switched_off(names[0], shapes):
                continue
            _check(key, shape, names, shapes)
            wanted.setdefault(file, {})[key] = names
            found.update(names)
    absent = [name for name in shapes if name not in found]
    if not any(name.startswith("heads.confidence.") for name in found):
        absent = [name for name in absent if not name.startswith("heads.confidence.")]
    if absent:
        raise UpstreamError(
            f"G²VLM weights: {folder} has nothing for {absent[0]}"
            + (f" and {len(absent) - 1} more" if absent[1:] else "")
            + f"; is it a complete {REPOSITORY}?"
        )
    weights: dict[str, Tensor] = {}
    for file, chosen in wanted.items():
        with safe_open(file, framework="pt") as opened:
            for key, names in chosen.items():
                parts = opened.get_tensor(key).chunk(len(names))
                weights |= {name: part.clone() for name, part in zip(names, parts, strict=True)}
    return weights


def open_upstream(path: str, revision: str | None) -> Path:
    """The folder of ``start_from``: itself, or the hub's snapshot (fetched where allowed, safetensors only).

    Raises:
        UpstreamError: It does not exist, or the hub does not give it.
    """
    try:
        return open_path(path, revision, ("start_from", "start_revision"))
    except EncoderError as error:
        raise UpstreamError(str(error)) from error


def check_upstream(folder: Path) -> None:
    """Read the names of all tensors and none of their values.

    Raises:
        UpstreamError: The folder does not hold the checkpoint, or one of its keys is not known.
    """
    for keys in _open(folder).values():
        for key in keys:
            imported_names(key)


def _switched_off(name: str, shapes: Mapping[str, Size]) -> bool:
    return any(
        name.startswith(head) and not any(other.startswith(head) for other in shapes)
        for head in _OPTIONAL
    )


def _check(
    key: str, shape: tuple[int, ...], names: tuple[str, ...], shapes: Mapping[str, Size]
) -> None:
    if names[0] not in shapes:
        raise UpstreamError(
            f"G²VLM weights: {key} has no place in this model, which has no {names[0]}; the published "
            "weights fit a Qwen2-VL-2B with heads of its size"
        )
    rows = sum(shapes[name][0] for name in names)
    want = (rows, *shapes[names[0]][1:])
    if shape != want:
        raise UpstreamError(
            f"G²VLM weights: {key} is {list(shape)}, this model's {names[0]} wants {list(want)}"
        )


def _open(folder: Path) -> dict[Path, dict[str, tuple[int, ...]]]:
    """File -> key -> shape, of the keys the folder claims to hold."""
    if (folder / INDEX).is_file():
        claimed = _read_index(folder)
    elif (folder / WEIGHTS).is_file():
        claimed = {folder / WEIGHTS: None}
    else:
        raise UpstreamError(
            f"G²VLM weights: {folder} holds neither {WEIGHTS} nor {INDEX} (other formats can run code and are "
            f"not read); hf download {REPOSITORY} --local-dir DIR, then give DIR"
        )
    shapes: dict[Path, dict[str, tuple[int, ...]]] = {}
    for file, keys in claimed.items():
        if not file.is_file():
            raise UpstreamError(
                f"G²VLM weights: {INDEX} names {file.name}, which is not in {folder}"
            )
        try:
            with safe_open(file, framework="pt") as opened:
                held = set(opened.keys())
                if lost := sorted(set(keys or ()) - held):
                    raise UpstreamError(f"G²VLM weights: {file.name} lacks {lost[0]} of {INDEX}")
                shapes[file] = {
                    key: tuple(opened.get_slice(key).get_shape()) for key in sorted(keys or held)
                }
        except SafetensorError as error:
            raise UpstreamError(
                f"G²VLM weights: {file} is no safetensors file ({error})"
            ) from error
    return shapes


def _read_index(folder: Path) -> dict[Path, set[str] | None]:
    try:
        placed = json.loads((folder / INDEX).read_text())["weight_map"]
        pairs = [(str(key), str(name)) for key, name in placed.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UpstreamError(f"G²VLM weights: {folder / INDEX} has no weight_map") from error
    claimed: dict[Path, set[str] | None] = {}
    for key, name in pairs:
        # A plain name: links inside of the hub's cache are fine, a path that leads elsewhere is not.
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise UpstreamError(
                f"G²VLM weights: {INDEX} puts {key} in {name!r}; only safetensors files of the folder are read"
            )
        keys = claimed.setdefault(folder / name, set())
        assert keys is not None
        keys.add(key)
    return claimed
