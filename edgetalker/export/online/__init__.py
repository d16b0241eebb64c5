"""The project's own talker to a bundle."""

from __future__ import annotations

from edgetalker.export.online.exporter import export_talker, lookahead_samples

__all__ = ["export_talker", "lookahead_samples"]
