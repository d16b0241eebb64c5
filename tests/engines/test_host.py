"""The host device records and replays as a GPU does."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.engine import Device, TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError
from edgetalker.engines.host import HostDevice

SPEC = TensorSpec("float32", (2, 3))


def test_it_is_a_device() -> None:
    assert isinstance(HostDevice(), Device)


def test_poison_shows_a_read_before_a_write() -> None:
    device = HostDevice(poison=True)
    assert np.isnan(device.read(device.allocate("a", SPEC))).all()
    assert (device.read(device.allocate("b", TensorSpec("int32", (2,)))) == np.iinfo(np.int32).max).all()


def test_capture_runs_nothing_and_launch_replays_it() -> None:
    device = HostDevice()
    a, b = device.allocate("a", SPEC), device.allocate("b", SPEC)
    graph = device.capture("copy", lambda: device.copy(b, a))
    device.write(a, np.ones(SPEC.shape, np.float32))
    assert not device.read(b).any()
    assert graph.nodes == 1
    device.launch(graph)
    assert device.read(b).all()


def test_captures_do_not_nest_and_graphs_do_not_launch_inside_one() -> None:
    device = HostDevice()
    graph = device.capture("empty", lambda: None)
    with pytest.raises(EngineError, match="under way"):
        device.capture("outer", lambda: device.capture("inner", lambda: None) and None)
    with pytest.raises(EngineError, match="while the device captures"):
        device.capture("outer", lambda: device.launch(graph))
    device.launch(device.capture("after", lambda: None))


def test_a_view_stays_inside_its_buffer() -> None:
    device = HostDevice()
    buffer = device.allocate("a", TensorSpec("float32", (4, 2)))
    row = buffer.view("row", 8, TensorSpec("float32", (1, 2)))
    device.write(row, np.full((1, 2), 7, np.float32))
    assert device.read(buffer)[1].tolist() == [7, 7]
    assert row.address == buffer.address + 8
    for offset in (-4, 28, 32):
        with pytest.raises(ValueError, match="inside"):
            buffer.view("bad", offset, TensorSpec("float32", (1, 2)))


@given(
    talkers=st.integers(1, 3),
    rows=st.integers(2, 5),
    new=st.integers(1, 4),
    width=st.integers(1, 3),
    steps=st.integers(1, 7),
)
def test_shift_keeps_the_newest_rows_of_each_talker(talkers: int, rows: int, new: int, width: int, steps: int) -> None:
    if new >= rows:
        new = rows - 1
    device = HostDevice()
    window = device.allocate("window", TensorSpec("float32", (talkers, rows, width)))
    newest = device.allocate("newest", TensorSpec("float32", (talkers, new, width)))
    fed = np.arange(steps * talkers * new * width, dtype=np.float32).reshape(steps, talkers, new, width)
    graph = device.capture("shift", lambda: device.shift(window, newest))
    for values in fed:
        device.write(newest, values)
        device.launch(graph)
    everything = np.concatenate([np.zeros((talkers, rows, width), np.float32), *fed], axis=1)
    assert np.array_equal(device.read(window), everything[:, -rows:])


def test_what_does_not_fit_is_refused() -> None:
    device = HostDevice()
    a, b = device.allocate("a", SPEC), device.allocate("b", TensorSpec("float32", (2, 2)))
    with pytest.raises(ValueError, match="copy of"):
        device.copy(a, b)
    with pytest.raises(ValueError, match="shift of"):
        device.shift(b, a)
    with pytest.raises(ValueError, match="values are"):
        device.write(a, np.zeros((2, 3), np.float64))


def test_marks_measure_the_queue() -> None:
    device = HostDevice()
    first, last = device.mark("first"), device.mark("last")
    with pytest.raises(DeviceError, match="never reached"):
        device.elapsed(first, last)

    def work() -> None:
        device.record(first)
        device.call(lambda: time.sleep(0.002))
        device.record(last)

    graph = device.capture("timed", work)
    with pytest.raises(DeviceError, match="never reached"):
        device.elapsed(first, last)
    for _ in range(2):  # each launch anew
        begin = time.perf_counter_ns()
        device.launch(graph)
        assert 2_000_000 <= device.elapsed(first, last) <= time.perf_counter_ns() - begin


def test_a_closed_device_gives_no_memory() -> None:
    device = HostDevice()
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.allocate("a", SPEC)
