"""Changed ONNX stages, their digests put right: what comes of one plays or is a UserError, soon and in little memory.

A graph that is sound and never ends (a loop of 2^63 rounds) is not tried: no program can tell it from one that will.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from edgetalker.engines.bundle import MANIFEST
from tests.fuzz.manifests import DATA, link, play
from tests.fuzz.trying import NUMBERS, Random, cut, flip, splice, tries
from tests.support.toy import toy_bundle

OPERATORS = (
    *("Abs", "Add", "Cast", "Concat", "ConstantOfShape", "Conv", "Expand", "Flatten", "Gather", "Gemm", "Identity"),
    *("MatMul", "NonZero", "Pad", "Range", "ReduceMean", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze", "Where", "Nonsense", "QuantizeLinear", "LSTM", "Attention", "StringNormalizer"),
)
PLACES = ("/etc/passwd", "../../manifest.json", "/dev/zero", "full.npy", "", "\0", "nothing.bin")


def one(things: Any, random: Random) -> Any:
    return things[int(random.integers(len(things)))]


def node(model: Any, random: Random) -> None:
    """Another operator, domain, input, output or attribute; a node twice, or none."""
    if not model.graph.node:
        return
    chosen, what = one(model.graph.node, random), int(random.integers(8))
    if what == 0:
        chosen.op_type = one(OPERATORS, random)
    elif what == 1:
        chosen.domain = one(("", "com.microsoft", "nobody"), random)
    elif what == 2 and chosen.input:
        chosen.input[int(random.integers(len(chosen.input)))] = one(("", "nowhere", *names(model)), random)
    elif what == 3 and chosen.output:
        chosen.output[0] = one(("", "nowhere", *names(model)), random)
    elif what == 4:
        attribute(chosen, random)
    elif what == 5:
        model.graph.node.append(chosen)
    elif what == 6:
        model.graph.node.remove(chosen)
    else:
        chosen.attribute.append(onnx.helper.make_attribute(one(("axis", "to", "keepdims", "perm"), random), 99))


def names(model: Any) -> list[str]:
    made = [name for each in model.graph.node for name in each.output]
    return [*(item.name for item in model.graph.initializer), *made]


def attribute(chosen: Any, random: Random) -> None:
    if not chosen.attribute:
        return
    value = one(chosen.attribute, random)
    if value.ints:
        value.ints[int(random.integers(len(value.ints)))] = one(NUMBERS, random)
    else:
        value.i, value.f = int(one(NUMBERS, random)), float(one((0, 1e38, float("nan"), -1), random))
        value.type = int(random.integers(0, 15))


def weight(model: Any, random: Random) -> None:
    """Another shape, type, length or place of an initializer's values, or whole numbers that are shapes and axes."""
    if not model.graph.initializer:
        return
    chosen, what = one(model.graph.initializer, random), int(random.integers(6))
    if what == 0 and chosen.dims:
        chosen.dims[int(random.integers(len(chosen.dims)))] = one(NUMBERS, random)
    elif what == 1:
        chosen.data_type = int(random.integers(0, 24))
    elif what == 2 and chosen.raw_data:
        chosen.raw_data = cut(chosen.raw_data, random)
    elif what == 3 and chosen.data_type == TensorProto.INT64 and chosen.raw_data:
        number = int(one(NUMBERS, random)).to_bytes(8, "little", signed=True)
        chosen.raw_data = number * (len(chosen.raw_data) // 8)
    elif what == 4:
        chosen.ClearField("raw_data")
        chosen.data_location = TensorProto.EXTERNAL
        for key, value in (("location", one(PLACES, random)), ("offset", "0"), ("length", str(one(NUMBERS, random)))):
            entry = chosen.external_data.add()
            entry.key, entry.value = key, value
    elif chosen.raw_data:
        chosen.raw_data = flip(chosen.raw_data, random)


def border(model: Any, random: Random) -> None:
    """Another shape, type or name of an input or output."""
    chosen = one([*model.graph.input, *model.graph.output], random)
    shape = chosen.type.tensor_type.shape
    what = int(random.integers(5))
    if what == 0 and shape.dim:
        one(shape.dim, random).dim_value = one(NUMBERS, random)
    elif what == 1 and shape.dim:
        one(shape.dim, random).dim_param = one(("n", "", "\u00e9"), random)
    elif what == 2:
        chosen.type.tensor_type.elem_type = int(random.integers(0, 24))
    elif what == 3:
        chosen.name = one(("", "other", *names(model)), random)
    else:
        chosen.type.ClearField("tensor_type")


def head(model: Any, random: Random) -> None:
    """Another version of the format or of an operator set."""
    if random.random() < 0.5:
        model.ir_version = one(NUMBERS, random)
    else:
        one(model.opset_import, random).version = one((*NUMBERS, 7, 13, 21, 99), random)


CHANGES: tuple[Callable[[Any, Random], None], ...] = (node, node, node, weight, weight, border, head)


def changed(content: bytes, random: Random) -> tuple[str, bytes]:
    """Return what was done and the file that came of it."""
    if random.random() < 0.25:
        kind = one((flip, cut, splice), random)
        return kind.__name__, kind(content, random)
    model = onnx.load_from_string(content)
    done = []
    for _ in range(int(random.integers(1, 4))):
        change = one(CHANGES, random)
        try:
            change(model, random)
        except (ValueError, TypeError):  # a number that the field cannot hold
            continue
        done.append(change.__name__)
    return "+".join(done), model.SerializeToString()


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try changed stages of two bundles; return how many. Raises Wrong for anything but a UserError."""
    with tempfile.TemporaryDirectory() as folder:
        toy = toy_bundle(Path(folder) / "toy").path
        tiny = Path(folder) / "tiny"
        link(DATA / "tiny_voca", tiny)
        # Both transformers are left out: an example of theirs takes as long as ten of these.
        stages = [(toy, name) for name in ("audio", "blend", "denoise", "decode")] + [(tiny, "denoise")]
        whole = {path: (path / MANIFEST).read_bytes() for path in (toy, tiny)}

        def make(random: Random, count: int) -> tuple[str, Path]:
            path, stage = stages[count % len(stages)]
            file = path / f"{stage}.onnx"
            content = kept.setdefault(file, file.read_bytes())
            for other, before in kept.items():
                restore(other, before)
            kind, content = changed(content, random)
            restore(file, content)
            document = json.loads(whole[path])
            document["files"][file.name] = hashlib.sha256(content).hexdigest()
            (path / MANIFEST).write_text(json.dumps(document))
            return f"{kind} of {path.name}'s {stage}", path

        kept: dict[Path, bytes] = {}
        return tries(make, play, examples, seconds, seed)


def restore(file: Path, content: bytes) -> None:
    file.unlink()  # it may be a link to the project's own
    file.write_bytes(content)
