"""Converts a bundle's stages with ModelOpt's AutoCast and with our own pass, on the same recorded inputs.

pip install nvidia-modelopt[onnx] (in an environment of its own; it pins an old onnxruntime-gpu), then
python benchmarks/against_autocast.py edgetalker/bundles/talker

Both are judged by the same rounding in PyTorch's half, node by node, and by the plan that TensorRT-RTX builds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import shape_inference

from edgetalker.calibration.network import HALF
from edgetalker.calibration.onestep import half_error
from edgetalker.calibration.rollout import Inputs, record_inputs
from edgetalker.calibration.sound import made_up_voice
from edgetalker.calibration.stage import convert_stage
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.build import build

DELICATE = (
    "LayerNormalization",
    "Softmax",
    "ReduceSum",
    "ReduceMean",
    "Pow",
    "Sqrt",
    "Div",
    "Sin",
    "Cos",
    "Log",
    "Exp",
)


def main() -> None:
    """Print one row a stage and converter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = Bundle.open(parser.parse_args().bundle)
    sound = made_up_voice(bundle.manifest.audio.rate, 20 * bundle.manifest.audio.rate)
    print("| stage | converter | FP16 nodes | casts | norms, softmax, sums in FP16 | error | plan for sm86 |")
    print("|---|---|---|---|---|---|---|")
    for name, recorded in record_inputs(bundle, sound, 150, 12).items():
        inputs = recorded[:: max(1, len(recorded) // 24)][:24]
        own = convert_stage(name, bundle.onnx(name), inputs, limit=1.0).onnx
        for who, model in (("own", own), ("AutoCast", _autocast(bundle.onnx(name), inputs))):
            print(_row(name, who, bundle.onnx(name).read_bytes(), model, inputs[:3]), flush=True)


def _autocast(path: Path, inputs: Sequence[Inputs]) -> bytes:
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from polygraphy.json import save_json

    with tempfile.TemporaryDirectory() as folder:
        feeds = str(Path(folder) / "feeds.json")
        save_json([dict(values) for values in inputs], feeds)
        model = convert_to_mixed_precision(
            onnx_path=str(path),
            low_precision_type="fp16",
            calibration_data=feeds,
            keep_io_types=True,
            providers=["cpu"],
        )
    return bytes(model.SerializeToString())


def _row(name: str, who: str, full: bytes, model: bytes, inputs: Sequence[Inputs]) -> str:
    graph: Any = shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    types = {item.name: item.type.tensor_type.elem_type for item in [*graph.value_info, *graph.output]}
    half = [node.op_type for node in graph.node if node.op_type != "Cast" and types.get(node.output[0]) == HALF]
    casts = sum(node.op_type == "Cast" for node in graph.node)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.onnx"
        path.write_bytes(model)
        plan = len(build(load("rtx"), path, Target("rtx", ("sm86",))).plan)
    delicate = sum(kind in DELICATE for kind in half)
    error = half_error(full, model, inputs).error
    return f"| {name} | {who} | {len(half)} | {casts} | {delicate} | {error:.1e} | {plan / 1e6:.2f} MB |"


if __name__ == "__main__":
    main()
