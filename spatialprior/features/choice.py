"""A feature encoder as a recipe names it: its kind and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from spatialprior.features.encoder import EncoderConfig, FeatureEncoder
from spatialprior.registry import ENCODERS, suggest


@dataclass
class EncoderChoice:
    """An encoder to use.

    Attributes:
        kind: Its name in the registry.
        settings: An instance of its ``Config``.
    """

    group: ClassVar[str] = "encoder"

    kind: str
    settings: EncoderConfig

    @classmethod
    def of(cls, given: object) -> EncoderChoice:
        """A choice from ``{kind, settings...}``, as recipes and manifests hold it.

        Raises:
            ValueError: There is no such encoder or setting.
        """
        if isinstance(given, EncoderChoice):
            return given
        if not isinstance(given, Mapping) or "kind" not in given:
            raise ValueError(f"encoder has no kind; {suggest('', ENCODERS.names())}")
        kind = str(given["kind"])
        rest = {key: value for key, value in given.items() if key != "kind"}
        return cls(kind, ENCODERS.configured(kind, rest, "encoder"))

    def to_dict(self) -> dict[str, Any]:
        """In the shape in which recipes write it."""
        return {"kind": self.kind, **dataclasses.asdict(self.settings)}

    def check(self) -> None:
        """Raise :class:`EncoderError` for what is wrong with the settings or the source, loading no weight."""
        ENCODERS.get(self.kind).check(self.settings)
        encoder = self.build()
        _ = encoder.channels, encoder.revision  # from the source, which must therefore be there

    def build(self) -> FeatureEncoder:
        """The encoder, its weights not yet loaded."""
        return ENCODERS.get(self.kind)(self.settings)
