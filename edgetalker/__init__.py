"""Plays trained speech-to-face models on a device, frame by frame, before each frame's deadline."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
