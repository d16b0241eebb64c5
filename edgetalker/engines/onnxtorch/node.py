"""One ONNX node with its attributes and what is known of its inputs before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import EngineError

__all__ = ["Build", "Node", "Run"]

Run = Callable[..., Any]
"""Takes the node's inputs as tensors (None where absent), returns its output or a tuple of them."""


@dataclass(frozen=True)
class Node:
    """What an operator is built from. constants: values of inputs that never change, by their names."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, tuple[int, ...]]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, place: int) -> bool:
        """Return whether an optional input is there."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def constant(self, place: int) -> NDArray[Any] | None:
        """Return the value of an input that shapes the result (axes, sizes), None when it is absent.

        Raises EngineError when it is computed while the stage runs: shapes are fixed here.
        """
        if not self.has(place):
            return None
        value = self.constants.get(self.inputs[place])
        if value is None:
            raise EngineError(
                f"node `{self.name}` ({self.kind}): input `{self.inputs[place]}` must be a constant",
                hint="export the stage with fixed shapes",
            )
        return value

    def integers(self, place: int) -> list[int] | None:
        """Return a constant input as integers."""
        value = self.constant(place)
        return None if value is None else [int(item) for item in np.atleast_1d(value)]

    def shape(self, place: int = 0) -> tuple[int, ...]:
        """Return the fixed shape of an input."""
        known = self.shapes.get(self.inputs[place])
        if known is None:
            raise EngineError(f"node `{self.name}` ({self.kind}): the shape of `{self.inputs[place]}` is not known")
        return known


Build = Callable[[Node], Run]
