"""How alike a frozen encoder's features of the same 3D place are across views (VEGA-3D's 3D awareness)."""

from spatialprior.diagnostics.correspondence.config import CorrespondenceConfig
from spatialprior.diagnostics.correspondence.heatmap import heatmap
from spatialprior.diagnostics.correspondence.score import score_encoders
from spatialprior.diagnostics.correspondence.sweep import sweep

__all__ = ["CorrespondenceConfig", "heatmap", "score_encoders", "sweep"]
