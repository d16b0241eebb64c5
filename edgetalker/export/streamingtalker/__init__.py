"""StreamingTalker checkpoints to bundles."""

from __future__ import annotations

from edgetalker.export.draft import ExportReport
from edgetalker.export.streamingtalker.exporter import export_model, export_streamingtalker
from edgetalker.export.streamingtalker.options import ExportOptions

__all__ = ["ExportOptions", "ExportReport", "export_model", "export_streamingtalker"]
