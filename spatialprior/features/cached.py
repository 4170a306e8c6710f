"""An encoder that remembers what it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from spatialprior.features.cache import EntryKey, FeatureCache
from spatialprior.features.encoder import FeatureEncoder
from spatialprior.features.maps import FeatureMaps


class CachedEncoder:
    """Maps from the cache where they are there, from the encoder where not; a warm call loads no weight.

    An encoder that sees each frame alone (``joint=False``) has an entry for each frame. Its key is the frame's
    pixels and the settings: noise is drawn from the pixels, so that the place in the clip changes no value, and
    the same frame is found in any clip. What is missing is encoded in one call, each different frame once. A
    joint encoder has an entry for each clip, whose key holds the time indices of its frames too.

    What is read equals what was written, byte for byte. A frame encoded anew beside other frames may differ in
    its last bits from what another clip would have stored, as matrix products do with the size of the batch.

    Args:
        encoder: Its settings are read once, when first needed.
        cache: Where entries are kept.
    """

    def __init__(self, encoder: FeatureEncoder, cache: FeatureCache) -> None:
        self.encoder = encoder
        self.cache = cache

    @cached_property
    def _settings(self) -> dict[str, Any]:
        # The revision may be a digest of gigabytes of local weights.
        return self.encoder.settings()

    def __call__(self, images: Tensor, frame_ids: Sequence[int]) -> FeatureMaps:
        """Features of the frames of one clip, on the encoder's device.

        Args:
            images: ``V 3 H W`` uint8, the original frames.
            frame_ids: Time index of each.

        Raises:
            ValueError: Not as many time indices as frames.
        """
        if len(frame_ids) != len(images):
            raise ValueError(f"{len(frame_ids)} frame ids for {len(images)} frames")
        if not self.cache.enabled or len(images) == 0:
            return self.encoder(images)
        if self.encoder.joint:
            return self._clip(images, frame_ids)
        return self._frames(images)

    def _clip(self, images: Tensor, frame_ids: Sequence[int]) -> FeatureMaps:
        key = EntryKey.of(images, frame_ids, self._settings)
        maps = self.cache.get(key)
        if maps is None:
            maps = self.encoder(images)
            self.cache.put(key, maps)
        return FeatureMaps(maps.values.to(self.encoder.device), maps.box)

    def _frames(self, images: Tensor) -> FeatureMaps:
        keys = [EntryKey.of(image, None, self._settings) for image in images]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        known = {key: maps for key in first if (maps := self.cache.get(key)) is not None}
        missing = [key for key in first if key not in known]
        if missing:
            made = self.encoder(images[[first[key] for key in missing]])
            for key, values in zip(missing, made.values, strict=True):
                known[key] = FeatureMaps(values.unsqueeze(0), made.box)
                self.cache.put(key, known[key])
        found = [known[key] for key in keys]
        values = torch.cat([maps.values.to(self.encoder.device) for maps in found])
        return FeatureMaps(values, found[0].box)
