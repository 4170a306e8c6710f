"""Whether the settings go with the published weights that they name."""

from __future__ import annotations

from spatialprior.priors.geometry_expert.config import GeometryExpertConfig
from spatialprior.priors.geometry_expert.upstream import check_upstream, open_upstream
from spatialprior.priors.geometry_expert.upstream_names import UpstreamError


def check_start(config: GeometryExpertConfig) -> None:
    """Raise :class:`UpstreamError` where ``start_from`` cannot be read, or its expert is of another build.

    Sizes are compared once the backbone is there; no weight is read.
    """
    if config.start_from is None:
        return
    expert = config.expert
    for name, ok, want in (
        ("form", expert.form == "full", "full"),
        ("qk_norm", expert.qk_norm, "true"),
        ("layer_scale", expert.layer_scale is not None, "0.01, or any number"),
    ):
        if not ok:
            raise UpstreamError(
                f"start_from={config.start_from} has an expert with expert.{name}={want}, and it is "
                f"{str(getattr(expert, name)).lower()} here; set it, or leave start_from out"
            )
    check_upstream(open_upstream(config.start_from, config.start_revision))
