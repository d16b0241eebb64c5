"""Bundles without their weights: the graphs of a large network, small enough to be kept beside the code.

`strip` takes the large weights out of a bundle's ONNX files and keeps their shape, mean and deviation; `fill` puts
random ones of the same shape, mean and deviation back. Sizes and times are the network's; its motion is noise.

    python -m benchmarks.gpu.skeleton BUNDLE FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgetalker.engines.bundle import MANIFEST, Bundle, pack

__all__ = ["fill", "strip"]

_SMALL = 2048  # elements; such weights (axes, indices, scales) stay as they are
_FEW = 100  # values; a mask has fewer
_KEY = "random"


def strip(bundle: Bundle, folder: Path) -> None:
    """Write a bundle's skeleton to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    stages = {stage.file for stage in bundle.manifest.stages.values()}
    arrays = {}
    for name in bundle.manifest.files:
        if name in stages:
            (folder / name).write_bytes(_stripped(bundle.path / name))
        else:
            arrays[name] = _described(bundle.array(name))
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    for key in ("format", "version", "files"):
        del manifest[key]
    (folder / "skeleton.json").write_text(json.dumps({"manifest": manifest, "arrays": arrays}, indent=1) + "\n")


def _stripped(path: Path) -> bytes:
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if _is_weight(values):
            item.ClearField("raw_data")
            item.ClearField("float_data")
            item.doc_string = json.dumps({_KEY: [float(values.mean()), float(values.std())]})
    model.graph.ClearField("value_info")  # inferred again where it is needed
    for node in model.graph.node:
        node.ClearField("metadata_props")
    data: bytes = model.SerializeToString()
    return data


def _is_weight(values: np.ndarray[Any, Any]) -> bool:
    """Tell large learned weights from masks (infinities, few values), which must stay as they are."""
    if values.dtype != np.float32 or values.size <= _SMALL or not np.isfinite(values).all():
        return False
    return len(np.unique(values.reshape(-1)[: 1 << 16])) > _FEW


def _described(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Small arrays (schedules) are kept; of large ones (templates, first latents) mean and deviation."""
    if values.size <= _SMALL:
        return {"dtype": values.dtype.name, "values": values.tolist()}
    return {"dtype": values.dtype.name, "shape": values.shape, _KEY: [float(values.mean()), float(values.std())]}


def fill(folder: Path, target: Path, seed: int = 0) -> Bundle:
    """Write the bundle of a skeleton to `target` with random weights."""
    random = np.random.default_rng(seed)
    described = json.loads((folder / "skeleton.json").read_text())
    files: dict[str, Any] = {name: _array(found, random) for name, found in described["arrays"].items()}
    for path in sorted(folder.glob("*.onnx")):
        files[path.name] = _filled(path, random)
    return pack(target, described["manifest"], files, replace=True)


def _array(described: dict[str, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    if "values" in described:
        return np.array(described["values"], described["dtype"])
    mean, deviation = described[_KEY]
    values = mean + deviation * random.standard_normal(described["shape"], np.float32)
    return np.asarray(values, described["dtype"])


def _filled(path: Path, random: np.random.Generator) -> bytes:
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        if item.doc_string.startswith(f'{{"{_KEY}"'):
            mean, deviation = json.loads(item.doc_string)[_KEY]
            values = random.standard_normal(tuple(item.dims), np.float32)
            item.raw_data = (np.float32(mean) + np.float32(deviation) * values).tobytes()
            item.ClearField("doc_string")
    data: bytes = model.SerializeToString()
    return data


if __name__ == "__main__":
    strip(Bundle.open(sys.argv[1]), Path(sys.argv[2]))
