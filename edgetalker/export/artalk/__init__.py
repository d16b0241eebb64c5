"""ARTalk checkpoints to bundles."""

from __future__ import annotations

from edgetalker.export.artalk.exporter import ExportOptions, export_artalk, export_model

__all__ = ["ExportOptions", "export_artalk", "export_model"]
