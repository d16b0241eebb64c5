"""Modules of other packages, imported when they are first used, so that engines load with numpy alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgetalker.engines.errors import MissingPackageError

__all__ = ["LazyModule", "helper", "numpy_helper", "onnx", "packages_for", "required"]


class LazyModule:
    """Stands for a module; any attribute imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Import the module and keep what was asked for."""
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


onnx: Any = LazyModule("onnx")
helper: Any = LazyModule("onnx.helper")
numpy_helper: Any = LazyModule("onnx.numpy_helper")


def required(module: str, purpose: str, *, extra: str, package: str = "") -> Any:
    """Import a module that `purpose` needs. package: what brings it, where that has another name.

    Raises MissingPackageError, which names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPackageError(package or module.partition(".")[0], purpose, extra=extra) from None


@contextmanager
def packages_for(purpose: str, *, extra: str) -> Iterator[None]:
    """Around imports that `purpose` needs: `with packages_for("exporting a model", extra="export"): import ...`.

    Raises MissingPackageError for the package that is missing, whichever of the imports wanted it.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(str(error.name), purpose, extra=extra) from None
