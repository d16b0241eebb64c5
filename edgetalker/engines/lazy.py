"""Modules that are imported when first used, so that engines load with numpy alone."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["LazyModule"]


class LazyModule:
    """Stands for a module; any attribute imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Import the module and keep what was asked for."""
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value
