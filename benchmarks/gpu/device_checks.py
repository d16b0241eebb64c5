"""The device alone: memory, copies, capture, marks, waiting, sharing with PyTorch, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.child import how_it_ended, last_line, run_child
from benchmarks.gpu.setting import NotRunError, Setting
from edgetalker.engines.engine import DTYPES, Device, TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError
from edgetalker.engines.host import HostDevice

__all__ = ["CHECKS", "driver_rules"]

Figures = dict[str, Any]
_RULES_SECONDS = 90.0
_NO_CONTEXT = 69  # of driver_rules.py
_ROW = TensorSpec("float32", (1, 4))


def _ramp(spec: TensorSpec) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(spec.shape))).astype(spec.dtype).reshape(spec.shape)


def memory_keeps_every_bit(setting: Setting) -> Figures:
    """Every type written and read; fresh memory poisoned as on the host; staging is what copies move."""
    device, host = setting.device(poison=True), HostDevice(poison=True)
    for dtype in DTYPES:
        spec = TensorSpec(dtype, (3, 5))
        buffer = device.allocate(dtype, spec, staged=True)
        np.testing.assert_array_equal(device.read(buffer), host.read(host.allocate(dtype, spec)))
        device.write(buffer, _ramp(spec))
        assert device.read(buffer).tobytes() == _ramp(spec).tobytes()
        device.staging(buffer)[...] = 1
        device.upload(buffer)
        device.synchronize()
        assert (device.read(buffer) == 1).all()
    device.close()
    return {"types": len(DTYPES)}


def shifts_are_the_hosts(setting: Setting) -> Figures:
    """Windows of one and of many talkers, shifted under capture."""
    device = setting.device()
    shapes = [(1, 60, 512), (1, 2, 1), (5, 7, 3), (64, 60, 32)]
    for talkers, rows, size in shapes:
        window, newest = TensorSpec("float32", (talkers, rows, size)), TensorSpec("float32", (talkers, 1, size))
        results = []
        for each in (device, HostDevice()):
            a, b = each.allocate("window", window), each.allocate("newest", newest)
            each.write(a, _ramp(window))
            each.write(b, -1 - _ramp(newest))
            graph = _capture_shift(each, a, b)
            each.launch(graph)
            each.launch(graph)
            results.append(each.read(a))
        np.testing.assert_array_equal(results[0], results[1])
    device.close()
    return {"windows": len(shapes)}


def _capture_shift(device: Device, window: Any, newest: Any) -> Any:
    return device.capture("shift", lambda: device.shift(window, newest))


def graphs_replay_and_time_themselves(setting: Setting) -> Figures:
    """Capture runs nothing, each replay runs it, marks inside are recorded anew, all waits wait."""
    device = setting.device()
    a, b = device.allocate("a", _ROW, staged=True), device.allocate("b", _ROW, staged=True)
    first, last = device.mark("first"), device.mark("last")

    def work() -> None:
        device.record(first)
        device.upload(a)
        device.copy(b, a)
        device.download(b)
        device.record(last)

    graph = device.capture("copies", work)
    times = []
    for value in range(20):
        device.staging(a)[...] = value
        device.launch(graph)
        device.synchronize()
        assert (device.staging(b) == value).all() or setting.dry
        assert (device.read(b) == value).all()
        times.append(device.elapsed(first, last))
        assert times[-1] >= 0
    device.close()
    return {"nodes": graph.nodes, "three copies of 16 bytes, median us": float(np.median(times)) / 1e3}


def waiting_policies(setting: Setting) -> Figures:
    """What each policy takes from an empty launch to the return of synchronize."""
    if setting.dry:
        raise NotRunError("the host has no queue to wait for")
    import time

    from edgetalker.engines.cuda import WAITS, CudaDevice

    found: Figures = {}
    for wait in WAITS:
        device = CudaDevice(wait=wait)
        graph = device.capture("nothing", lambda: None)
        costs = []
        for _ in range(300):
            begin = time.perf_counter_ns()
            device.launch(graph)
            device.synchronize()
            costs.append(time.perf_counter_ns() - begin)
        device.close()
        found[f"{wait}, median us"] = float(np.median(costs[50:])) / 1e3
    return found


def capture_refuses(setting: Setting) -> Figures:
    """Waiting, allocating and launching under capture are refused, and the device goes on."""
    device = setting.device()
    graph = device.capture("inner", lambda: None)
    for call in (lambda: device.capture("nested", lambda: None), lambda: device.launch(graph)):
        try:
            device.capture("outer", call)  # type: ignore[arg-type]
        except EngineError:
            continue
        raise AssertionError("a forbidden call under capture went through")
    assert device.capture("after", lambda: None).name == "after"
    device.close()
    return {}


def out_of_memory_is_told(setting: Setting) -> Figures:
    """An impossible allocation says what was asked for and what is free, and the device goes on."""
    if setting.dry:
        raise NotRunError("the host would swap")
    device = setting.device()
    said = _refusal(device)
    assert "were asked for" in said, said
    assert "are free" in said, said
    assert device.read(device.allocate("small", _ROW)).shape == (1, 4)
    device.close()
    return {}


def _refusal(device: Device) -> str:
    try:
        device.allocate("everything", TensorSpec("uint8", (1 << 50,)))
    except DeviceError as error:
        return str(error)
    raise AssertionError("a petabyte was allocated")


def pytorch_shares_memory_and_stream(setting: Setting) -> Figures:
    """A buffer is a PyTorch tensor without a copy, and a PyTorch stream is worked on."""
    if setting.dry:
        raise NotRunError("needs a GPU")
    torch: Any = import_module("torch")
    from edgetalker.engines.cuda import CudaDevice

    stream = torch.cuda.Stream()
    device = CudaDevice(stream=stream)
    assert device.stream == stream.cuda_stream
    buffer = device.allocate("motion", TensorSpec("float32", (2, 52)))
    device.write(buffer, _ramp(buffer.spec))
    for tensor in (torch.as_tensor(buffer, device="cuda:0"), torch.from_dlpack(buffer)):
        assert tensor.data_ptr() == buffer.address
        with torch.cuda.stream(stream):
            tensor.mul_(2)
        device.synchronize()
    np.testing.assert_array_equal(device.read(buffer), 4 * _ramp(buffer.spec))
    device.close()
    return {}


def driver_rules(setting: Setting) -> Figures:
    """What this driver answers otherwise than the stand-in of the tests. A difference is news, and no failure."""
    if setting.dry:
        raise NotRunError("needs a GPU")
    folder = Path(__file__).resolve().parents[2] / "tests" / "cuda"
    if not (folder / "driver_rules.py").exists():
        raise NotRunError("this checkout has no tests/cuda")
    try:
        done = run_child([sys.executable, str(folder / "driver_rules.py")], _RULES_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"the questions took longer than {_RULES_SECONDS:g} s") from None
    if done.returncode == _NO_CONTEXT:
        raise NotRunError(f"a second process cannot ask: {last_line(done.stderr)}")
    assert not done.returncode, f"driver_rules.py {how_it_ended(done)}"
    here, double = json.loads(done.stdout), json.loads((folder / "driver_rules_double.json").read_text())
    wrong = [name for name, answer in here.items() if answer != double.get(name)]
    differ = {name: f"{here[name]} (the stand-in: {double.get(name)})" for name in wrong}
    return {"rules": len(here), "answered otherwise": len(differ), **differ}


CHECKS = (
    memory_keeps_every_bit,
    shifts_are_the_hosts,
    graphs_replay_and_time_themselves,
    waiting_policies,
    capture_refuses,
    out_of_memory_is_told,
    pytorch_shares_memory_and_stream,
)
