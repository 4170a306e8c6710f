"""Take the embedded twin of DINOv2 out of a finished run: ``python -m spatialprior.features.pack_nano_dino
RUN``.

``RUN`` is a run folder of ``recipe=nano_dino``. Weights go into the package in float16, beside the
configuration that is there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spatialprior.features.components import NANO

FOLDER = NANO / "dinov2_reg"
_PREFIX = "vision."


def pack(run: Path, folder: Path = FOLDER) -> None:
    """Write ``model.safetensors`` and ``trained.json`` (the run's recipe hash and figures) into ``folder``.

    Raises:
        ValueError: The run has no expert with an encoder of its own, or one of another shape.
    """
    file = run / "export" / "priors" / "geometry_expert.safetensors"
    if not file.is_file():
        raise ValueError(f"{run} has no {file.relative_to(run)}; finish recipe=nano_dino first")
    tensors = {
        name.removeprefix(_PREFIX): tensor.to(torch.float16).contiguous()
        for name, tensor in load_file(file).items()
        if name.startswith(_PREFIX)
    }
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_pretrained(folder))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise ValueError(
            f"{file} holds no encoder of the shape that {folder}/config.json describes"
        )
    report = json.loads((run / "report.json").read_text())
    trained = {key: report[key] for key in ("recipe", "seed", "commit", "geometry", "config")}
    for result in trained["geometry"].values():
        result.pop("clips", None)
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    os.replace(part, folder / "model.safetensors")
    (folder / "trained.json").write_text(json.dumps(trained, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which run: python -m spatialprior.features.pack_nano_dino RUN_FOLDER")
    try:
        pack(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"spatialprior: {error}")
