"""A talker that opens its jaw by loudness: one ONNX stage, ARKit names, one frame of look-ahead or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgetalker.engines.bundle import Bundle, pack
from tests.runtime.sinks_net.tools import NAMES
from tests.support.toy import network, spec

RATE, WINDOW, FRAME = 16000, 1067, 533
BLINK = 0.25
"""The value of EyeBlinkLeft, always: the upper face, which no silence may touch."""
SMILE = 0.125


def meter_bundle(path: Path, *, lookahead: int = 0) -> Bundle:
    """Write the bundle: JawOpen = 4 * root mean square of the window; a constant lid and a constant smile."""
    scale, base = np.zeros((1, 55), np.float32), np.zeros((1, 55), np.float32)
    scale[0, NAMES.index("JawOpen")] = 4
    base[0, NAMES.index("EyeBlinkLeft")], base[0, NAMES.index("MouthSmileLeft")] = BLINK, SMILE
    node = helper.make_node
    stage = network(
        [
            node("Mul", ["wav", "wav"], ["square"]),
            node("ReduceMean", ["square", "axis"], ["mean"]),
            node("Sqrt", ["mean"], ["level"]),
            node("Mul", ["level", "scale"], ["moved"]),
            node("Add", ["moved", "base"], ["motion"]),
        ],
        {"wav": (1, WINDOW)},
        {"motion": (1, 55)},
        {"axis": np.array([1], np.int64), "scale": scale, "base": base},
    )
    description: dict[str, Any] = {
        "name": "meter",
        "family": "meter",
        "origin": "made by a test",
        "audio": {"rate": RATE, "window": WINDOW, "lookahead": lookahead, "block": 1},
        "motion": {"tensor": "motion", "kind": "arkit", "fps": "30", "names": list(NAMES)},
        "tensors": {"wav": {"role": "audio", **spec(1, WINDOW)}, "motion": {"role": "value", **spec(1, 55)}},
        "stages": {
            "meter": {
                "file": "meter.onnx",
                "inputs": {"wav": spec(1, WINDOW)},
                "outputs": {"motion": spec(1, 55)},
            }
        },
        "program": [{"stage": "meter", "inputs": {"wav": "wav"}, "outputs": {"motion": "motion"}}],
        "schedules": {"full": {"rank": 0, "file": "rows.npy"}},
    }
    return pack(path, description, {"meter.onnx": stage, "rows.npy": np.zeros((1, 1), np.float32)})


def tone(seconds: float, level: float = 0.2) -> NDArray[np.float32]:
    """A buzz of 120 Hz with overtones up to 3 kHz, at about `level` root mean square: to a detector, a voice."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * k * time + k * k) for k in range(1, 26))
    return np.asarray(buzz / np.sqrt(np.mean(buzz**2) + 1e-12) * level, dtype=np.float32)


def jaw(motion: NDArray[np.float32]) -> float:
    """The value of JawOpen."""
    return float(motion[NAMES.index("JawOpen")])


def lid(motion: NDArray[np.float32]) -> float:
    """The value of EyeBlinkLeft."""
    return float(motion[NAMES.index("EyeBlinkLeft")])
