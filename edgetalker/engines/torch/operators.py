"""What an ONNX operator is built from, and the operators that move elements and change no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import EngineError
from edgetalker.engines.lazy import LazyModule

__all__ = ["OPERATORS", "Build", "Node", "Run"]

torch: Any = LazyModule("torch")
functional: Any = LazyModule("torch.nn.functional")

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


def _reshape(node: Node) -> Run:
    wanted, shape = node.integers(1) or [], node.shape()
    if not node.get("allowzero", 0):
        wanted = [shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return lambda x, _: x.reshape(wanted)


def _flatten(node: Node) -> Run:
    axis = node.get("axis", 1)
    first = int(np.prod(node.shape()[:axis], dtype=np.int64))
    return lambda x: x.reshape(first, -1)


def _transpose(node: Node) -> Run:
    order = node.get("perm") or list(range(len(node.shape())))[::-1]
    return lambda x: x.permute(order)


def axes_of(node: Node) -> list[int] | None:
    """Return the axes that a node names: an input since opset 18 (13 for some), an attribute before."""
    return node.integers(1) if node.has(1) else node.get("axes")


def _unsqueeze(node: Node) -> Run:
    axes = axes_of(node) or []
    rank = len(node.shape()) + len(axes)
    places = sorted(axis % rank for axis in axes)

    def run(x: Any, *_: Any) -> Any:
        for place in places:
            x = x.unsqueeze(place)
        return x

    return run


def _squeeze(node: Node) -> Run:
    axes = axes_of(node)
    return lambda x, *_: x.squeeze() if axes is None else x.squeeze(axes)


def _concat(node: Node) -> Run:
    axis = node.get("axis")
    return lambda *inputs: torch.cat(inputs, axis)


def _split(node: Node) -> Run:
    axis, sizes = node.get("axis", 0), node.integers(1)
    if sizes is None:
        whole, parts = node.shape()[axis], len(node.outputs)
        size = -(-whole // parts)
        sizes = [min(size, whole - size * part) for part in range(parts)]
    return lambda x, *_: torch.split(x, sizes, axis)


def _slice(node: Node) -> Run:
    starts, ends = node.integers(1), node.integers(2)
    assert starts is not None
    assert ends is not None
    axes = node.integers(3) or list(range(len(starts)))
    steps = node.integers(4) or [1] * len(starts)
    index: list[slice] = [slice(None)] * len(node.shape())
    flips = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(node.shape()[axis])
        if step > 0:
            index[axis] = slice(first, last, stride)
        else:  # torch knows no negative steps: take the same elements upwards, then turn round
            count = len(range(first, last, stride))
            index[axis] = slice(first + (count - 1) * stride, first + 1, -stride) if count else slice(0, 0)
            flips.append(axis)
    places = tuple(index)
    return lambda x, *_: torch.flip(x[places], flips) if flips else x[places]


def _gather(node: Node) -> Run:
    axis = node.get("axis", 0)
    fixed = node.constants.get(node.inputs[1])
    if fixed is not None and fixed.ndim == 0:
        return partial(_select, axis, int(fixed))

    def run(x: Any, indices: Any) -> Any:
        size = x.shape[axis]
        flat = torch.where(indices < 0, indices + size, indices).reshape(-1)
        taken = torch.index_select(x, axis, flat)
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis:][1:])

    return run


def _select(axis: int, place: int, x: Any, _: Any) -> Any:
    return x.select(axis, place)


def _gather_elements(node: Node) -> Run:
    axis = node.get("axis", 0)
    return lambda x, indices: torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _expand(node: Node) -> Run:
    wanted, shape = node.integers(1) or [], node.shape()
    result = np.broadcast_shapes(shape, tuple(wanted))
    return lambda x, _: x.expand(result)


def _tile(node: Node) -> Run:
    repeats = node.integers(1) or []
    return lambda x, _: x.repeat(repeats)


def _pad(node: Node) -> Run:
    """ONNX lists all begins, then all ends; torch pairs them from the last axis backwards."""
    pads = node.integers(1) if node.has(1) else node.get("pads")
    axes = node.integers(3) or list(range(len(pads or ()) // 2))
    rank = len(node.shape())
    pairs = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)} if pads else {}
    flat = [size for axis in reversed(range(rank)) for size in pairs.get(axis, (0, 0))]
    value = node.constant(2)
    fill = 0.0 if value is None else float(value.reshape(-1)[0])
    modes = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}
    mode = modes[node.get("mode", "constant")]
    if mode == "constant":
        return lambda x, *_: functional.pad(x, flat, value=fill)
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    return lambda x, *_: functional.pad(x, flat, mode=mode)


def _constant_of_shape(node: Node) -> Run:
    shape = node.integers(0) or []
    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else value
    return lambda x: torch.from_numpy(fill.copy()).to(x.device).expand(shape).clone()


def _range(node: Node) -> Run:
    bounds = [node.constant(place) for place in range(3)]
    values = np.arange(*[np.asarray(bound).item() for bound in bounds], dtype=np.asarray(bounds[0]).dtype)
    return lambda x, *_: torch.from_numpy(values).to(x.device)


def _trilu(node: Node) -> Run:
    (diagonal,) = node.integers(1) or (0,)
    name = "triu" if node.get("upper", 1) else "tril"
    return lambda x, *_: getattr(torch, name)(x, diagonal)


def _scatter_nd(node: Node) -> Run:
    if node.get("reduction", "none") != "none":
        raise EngineError(f"node `{node.name}` (ScatterND): only the plain form is known")

    def run(x: Any, indices: Any, updates: Any) -> Any:
        return x.index_put(tuple(indices.movedim(-1, 0)), updates)

    return run


OPERATORS: Mapping[str, Build] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
"""ONNX operator -> what builds its run."""
