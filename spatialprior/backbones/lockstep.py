"""The vision tower runs in every process, whatever its clips hold.

Processes that exchange gradients or gather each other's weights must run the same modules in the same order.
One whose batch holds no image (or no video, where a family takes both) looks at a blank one, with weight zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.core.clip import MultiViewClip

_PIXELS = {False: "pixel_values", True: "pixel_values_videos"}
_FEATURES = {False: "get_image_features", True: "get_video_features"}


class BlankVisuals:
    """What stands in for the images or the video that a batch does not have.

    Args:
        encoder: The backbone's encoder; it decides whether videos occur.
    """

    def __init__(self, encoder: ChatEncoder) -> None:
        self.inputs: dict[bool, dict[str, Any]] = {}
        for video in (False, True) if encoder.frames == "video" else (False,):
            count = max(2, encoder.min_video_frames) if video else 1
            views = torch.zeros(count, 3, 56, 56, dtype=torch.uint8)
            clip = MultiViewClip("blank", "blank", views, tuple(range(count)))
            # A video-first encoder takes a single view for a video where its family can: ask for the image.
            own = type(encoder)(
                encoder.processor, "video" if video else "images", encoder.max_pixels
            )
            self.inputs[video] = dict(own([clip]).inputs)

    def zero(self, model: Any, inputs: dict[str, Tensor]) -> Tensor | None:
        """Zero, connected to all that missing visuals would have run through; ``None`` if none is missing."""
        parts = []
        for video, blank in self.inputs.items():
            if _PIXELS[video] in inputs:
                continue
            device = inputs["input_ids"].device
            skip = ("input_ids", "attention_mask", "mm_token_type_ids")
            given = {key: value.to(device) for key, value in blank.items() if key not in skip}
            pixels = given.pop(_PIXELS[video])  # by position: its name differs between releases
            features = getattr(model, _FEATURES[video])(pixels, **given)
            # What the decoder gets, and no more: its last state reaches layers that real images do not.
            used = [features.pooler_output, getattr(features, "deepstack_features", None)]
            parts += [0 * x.sum().float() for x in tree_leaves(used) if _trains(x)]
        return torch.stack(parts).sum() if parts else None


def _trains(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad
