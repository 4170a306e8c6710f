"""``README.md`` of an exported folder: what it is, and what of inference has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(about: Mapping[str, Mapping[str, Any]], costs: Mapping[str, Any] | None) -> str:
    """The text.

    Args:
        about: ``priors`` of the manifest.
        costs: From :func:`~spatialprior.export.folder.export_model` where a prior is kept, else ``None``.
    """
    trained = ", ".join(f"{name} ({entry['kind']})" for name, entry in about.items()) or "no prior"
    head = f"# Trained with spatialprior\n\nPriors: {trained}.\n\n"
    if costs is None:
        return head + (
            "Nothing of a prior remains: this is a stock checkpoint, and inference costs what it did.\n\n"
            "```python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
            "model = AutoModelForImageTextToText.from_pretrained(FOLDER)\n"
            "processor = AutoProcessor.from_pretrained(FOLDER)\n```\n"
        )
    kept = ", ".join(costs["kept"])
    fusion, frozen = costs["fusion_flops"], costs["frozen_flops"]
    return head + (
        f"**Inference has changed.** {kept} changes or adds tokens of the views in every prompt, so the stock "
        "checkpoint in this folder alone gives other answers than the trained model. Load both:\n\n"
        "```python\nfrom spatialprior.export import load_model\n\n"
        "model = load_model(FOLDER)\nencoder = model.backbone.encoder()\n"
        "tokens = model.backbone.generate(encoder.prompts([clip]), max_new_tokens=16)\n"
        "replies = encoder.decode(tokens)\n```\n\n"
        "What it costs, on two views of 128 x 128 pixels and a short question:\n\n"
        "| | |\n|---|---|\n"
        f"| parameters of the checkpoint | {costs['parameters']:,} |\n"
        f"| parameters kept beside it | {costs['kept_parameters']:,} |\n"
        f"| parameters of frozen models it needs | {costs['frozen_parameters']:,} |\n"
        f"| FLOPs of the stock model | {costs['flops']:.3g} |\n"
        f"| more in the model itself | {fusion:.3g} ({fusion / costs['flops']:.1%}) |\n"
        f"| more for frozen models, unless their features are kept | {frozen:.3g} "
        f"({frozen / costs['flops']:.1%}) |\n"
    )
