"""Bundles whose stages run once a block: made to be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.engine import Binding, Buffer, Device, Engine
from edgetalker.engines.host import HostDevice
from edgetalker.engines.ort import OrtEngine
from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker
from tests.support.clock import FakeClock
from tests.support.toy import network, spec

WINDOW, SIZE = 1600, 4


def chunk_bundle(
    path: Path,
    *,
    block: int,
    scales: int = 1,
    spread: int = 0,
    fps: str = "30",
    per_frame: bool = True,
    frames_hear: bool = False,
    remembers: bool = False,
    **changes: Any,
) -> Bundle:
    """Write a bundle: scale 0 gives every row of a block the window's mean, each further one adds the mean again to
    what the one before gave; a frame shows its row, through a stage (`per_frame`) or by a copy alone.

    frames_hear: that stage reads the window too. remembers: the first scale adds a tenth of what the last block ended
    with."""
    node, stages, program = helper.make_node, dict[str, Any](), list[dict[str, Any]]()
    files: dict[str, bytes] = {}
    tensors: dict[str, Any] = {"wav": {"role": "audio", **spec(1, WINDOW)}}
    weights: dict[str, Any] = {"axis": np.array([1], np.int64), "ones": np.ones((block, SIZE), np.float32)}
    before = ""
    for k in range(scales):
        inputs: dict[str, tuple[int, ...]] = {"wav": (1, WINDOW)}
        nodes = [node("ReduceMean", ["wav", "axis"], ["m"])]
        reads = {"wav": "wav"}
        more = bool(before) or remembers
        nodes.append(node("Mul", ["m", "ones"], ["a" if more else "y"]))
        if remembers and not before:
            inputs["memory"], reads["memory"] = (block, SIZE), "memory"
            weights["tenth"] = np.full(1, 0.1, np.float32)
            nodes += [node("Mul", ["memory", "tenth"], ["t"]), node("Add", ["a", "t"], ["y"])]
        if before:
            inputs["before"], reads["before"] = (block, SIZE), before
            nodes.append(node("Add", ["a", "before"], ["y"]))
        files[f"s{k}.onnx"] = network(nodes, inputs, {"y": (block, SIZE)}, weights)
        stages[f"s{k}"] = {
            "file": f"s{k}.onnx",
            "inputs": {name: spec(*shape) for name, shape in inputs.items()},
            "outputs": {"y": spec(block, SIZE)},
        }
        before = f"y{k}"
        tensors[before] = {"role": "value", **spec(block, SIZE)}
        program.append({"stage": f"s{k}", "inputs": reads, "outputs": {"y": before}, "every": block})
    if remembers:
        tensors["memory"] = {"role": "state", **spec(block, SIZE)}
        program.append({"carry": "copy", "from": before, "to": "memory", "every": block})
    tensors["motion"] = {"role": "value", **spec(1, SIZE)}
    if frames_hear:
        hears = [
            node("ReduceMean", ["wav", "axis"], ["m"]),
            node("Mul", ["m", "none"], ["z"]),
            node("Add", ["x", "z"], ["y"]),
        ]
        constants: dict[str, Any] = {"axis": np.array([1], np.int64), "none": np.zeros(1, np.float32)}
        both: dict[str, tuple[int, ...]] = {"x": (1, SIZE), "wav": (1, WINDOW)}
        files["id.onnx"] = network(hears, both, {"y": (1, SIZE)}, constants)
        takes = {name: spec(*shape) for name, shape in both.items()}
        stages["id"] = {"file": "id.onnx", "inputs": takes, "outputs": {"y": spec(1, SIZE)}}
        given = {"x": f"{before}[phase]", "wav": "wav"}
        program.append({"stage": "id", "inputs": given, "outputs": {"y": "motion"}})
    elif per_frame:
        files["id.onnx"] = network([node("Identity", ["x"], ["y"])], {"x": (1, SIZE)}, {"y": (1, SIZE)}, {})
        stages["id"] = {"file": "id.onnx", "inputs": {"x": spec(1, SIZE)}, "outputs": {"y": spec(1, SIZE)}}
        program.append({"stage": "id", "inputs": {"x": f"{before}[phase]"}, "outputs": {"y": "motion"}})
    else:
        program.append({"carry": "copy", "from": f"{before}[phase]", "to": "motion"})
    description = {
        "name": "chunk",
        "family": "chunk",
        "origin": "made by a test",
        "audio": {"rate": 16000, "window": WINDOW, "lookahead": 0, "block": block, "spread": spread},
        "motion": {"tensor": "motion", "kind": "other", "fps": fps},
        "tensors": tensors,
        "stages": stages,
        "program": program,
        "schedules": {"full": {"rank": 0}},
        "skipped": "freeze",
    }
    return pack(path, {**description, **changes}, files)


class _Slow:
    def __init__(self, inner: Binding, work: Callable[[], None]) -> None:
        self._inner, self._work = inner, work

    def enqueue(self, device: Device) -> None:
        assert isinstance(device, HostDevice)
        device.call(self._work)
        self._inner.enqueue(device)


class SlowEngine(OrtEngine):
    """A stage that also does `work` whenever it runs."""

    work: Callable[[], None]

    def bind(self, buffers: Mapping[str, Buffer]) -> Any:
        """Put the work before the run."""
        return _Slow(super().bind(buffers), self.work)


def slow_model(bundle: Bundle, works: Mapping[str, Callable[[], None]]) -> Model:
    """Return a model whose stages do `works` (by stage) whenever they run."""
    engines: dict[str, Engine] = {}
    for name, stage in bundle.manifest.stages.items():
        engine = SlowEngine(name, bundle.onnx(name), stage.inputs, stage.outputs)
        engine.work = works.get(name, lambda: None)
        engines[name] = engine
    return Model(bundle, engines=engines)


def costs(clock: FakeClock, seconds: Mapping[str, float]) -> dict[str, Callable[[], None]]:
    """Return works that take so many seconds of a fake clock."""
    return {name: partial(clock.advance, int(s * 1e9)) for name, s in seconds.items()}


class FakeAside:
    """Stands in for the thread beside the frames on a fake clock: a piece that costs time there costs the frames none.

    The work runs at once with the clock stopped; it is over when the time that it took has passed.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self._until = clock, 0
        self.started = 0

    def busy(self) -> bool:
        return self._clock.now_ns() < self._until

    def start(self, work: Callable[[], None]) -> None:
        self.join()
        begun = self._clock.now_ns()
        work()
        self._until = self._clock.now_ns()
        self._clock._now = begun
        self.started += 1

    def join(self) -> None:
        self._clock.sleep_until_ns(self._until)

    def close(self) -> None:
        pass


def on_fake_time(talker: Talker, clock: FakeClock) -> FakeAside:
    """Let the talker's long pieces run beside its frames on a fake clock."""
    assert talker.spread is not None
    aside = FakeAside(clock)
    talker.spread.aside = aside  # type: ignore[assignment]
    return aside
