"""A stock model of transformers: its configuration, its weights, and what identifies them."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from spatialprior.features.digest import digest
from spatialprior.features.encoder import EncoderConfig, EncoderError
from spatialprior.features.sources import drawn_from, open_source, revision_of, weight_files


def stock_configuration(config: EncoderConfig, stock: Any) -> Any:
    """The configuration of ``config.path`` as an instance of ``stock``; no weight is read.

    Args:
        config: Of the encoder.
        stock: A configuration class of transformers.

    Raises:
        EncoderError: There is none, or it is another family's.
    """
    folder = open_source(config)
    if not (folder / "config.json").is_file():
        raise EncoderError(f"{folder} holds no config.json; give a folder of transformers")
    values = stock.get_config_dict(str(folder))[0]
    if (found := values.get("model_type")) != stock.model_type:
        raise EncoderError(f"path={config.path} is a {found}, not {stock.model_type}")
    return stock.from_dict(values)


def stock_revision(config: EncoderConfig) -> str:
    """Commit or digest; with random weights the digest of the architecture's configuration."""
    if config.weights == "random":
        source = open_source(config)
        return "random, " + digest(source, [source / "config.json"])
    return revision_of(config)


def stock_model(config: EncoderConfig, architecture: Any, model_class: Any) -> nn.Module:
    """The model on the CPU, in the config's dtype; the global random state stays as it is.

    Args:
        config: Of the encoder.
        architecture: What :func:`stock_configuration` returned.
        model_class: A model class of transformers.

    Raises:
        EncoderError: There are no safetensors, they cannot be read, or a weight is missing or of another shape.
    """
    dtype = getattr(torch, config.dtype)
    if config.weights == "random":
        with drawn_from(config.seed):
            drawn: nn.Module = model_class(architecture).to(dtype)
        return drawn
    folder = open_source(config)
    weight_files(folder)
    try:
        with drawn_from(0):
            model, info = model_class.from_pretrained(
                str(folder), config=architecture, dtype=dtype, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise EncoderError(f"path={config.path} cannot be loaded: {why}") from error
    if missing := sorted(info["missing_keys"]):
        raise EncoderError(
            f"path={config.path} lacks {len(missing)} weights, such as {missing[0]}, which would be "
            "drawn at random"
        )
    found: nn.Module = model
    return found
