"""Export: a trained model becomes an ordinary Hugging Face folder, with a manifest that is checked on load."""

from spatialprior.export.folder import ExportReport, export_model, load_export
from spatialprior.export.kept import load_model
from spatialprior.export.manifest import MANIFEST, ExportError, verify_manifest

__all__ = [
    "MANIFEST",
    "ExportError",
    "ExportReport",
    "export_model",
    "load_export",
    "load_model",
    "verify_manifest",
]
