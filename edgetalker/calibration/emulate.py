"""An FP16 network as an FP32 one that rounds where a GPU would, so that a CPU shows what FP16 costs.

ONNX Runtime's CPU has no FP16 products: it puts casts around them and then takes out every pair that meets, and
with it the rounding (measured: an FP16 product with the identity returns its FP32 input unchanged). A pair of casts
that stands in the file is kept. So each FP16 node becomes an FP32 node whose inputs were rounded to FP16 and whose
results are rounded to FP16, which is what a tensor core does that accumulates in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from edgetalker.calibration.assign import MOVES
from edgetalker.calibration.network import FLOAT, HALF

__all__ = ["emulated"]


def emulated(model: Any, half: Collection[str]) -> bytes:
    """Return a converted model as an FP32 model with the rounding written out. half: names of its FP16 nodes."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    narrow = {item.name for item in copy.graph.initializer if item.data_type == HALF}
    nodes = [node for item in copy.graph.node for node in _rewritten(item, half, narrow)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    for item in copy.graph.initializer:
        if item.data_type == HALF:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype("float32"), item.name))
    data: bytes = copy.SerializeToString()
    return data


def _rewritten(node: Any, half: Collection[str], narrow: set[str]) -> Iterator[Any]:
    """Yield a node's stand-ins. narrow: tensors that were FP16 so far; grows with the walk."""
    from onnx import helper

    kind = next((item.i for item in node.attribute if item.name == "to"), 0) if node.op_type == "Cast" else 0
    if kind == HALF:
        narrow.add(node.output[0])
        yield from _rounded(node.input[0], node.output[0])
    elif kind == FLOAT and node.input[0] in narrow:
        yield helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)
    elif node.name in half and node.op_type not in MOVES:
        results = list(node.output)
        narrow.update(results)
        for place, name in enumerate(results):
            node.output[place] = f"{name}__wide"
        yield node
        for name in results:
            yield from _rounded(f"{name}__wide", name)
    else:
        narrow.update(node.output if node.name in half else ())
        yield node


def _rounded(source: str, target: str) -> Iterator[Any]:
    from onnx import helper

    yield helper.make_node("Cast", [source], [f"{target}__half"], name=f"narrow_{target}", to=HALF)
    yield helper.make_node("Cast", [f"{target}__half"], [target], name=f"widen_{target}", to=FLOAT)
