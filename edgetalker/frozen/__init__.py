"""What a frozen program needs: PyInstaller asks the entry point `pyinstaller40` where this package's hook lies."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Return the folders that hold hooks for PyInstaller."""
    return [str(Path(__file__).parent)]
