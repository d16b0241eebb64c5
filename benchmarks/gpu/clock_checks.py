"""Frames on their deadlines: minutes on the clock, with other work on the processor."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.setting import Setting
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.machine import usable_cores
from edgetalker.measure.report import Summary
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.loop import Loop, Options
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["on_the_clock"]

_BURN_SECONDS = 0.02
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class NoiseSource:
    """A live source: noise that arrives by the clock in packets of 10 ms, as a microphone's would."""

    live = True

    def __init__(self, rate: int, seconds: float) -> None:
        self.rate = rate
        self._total = int(rate * seconds)
        self._given = 0
        self._start: float | None = None
        self._noise = (0.1 * np.random.default_rng(5).standard_normal(rate)).astype(np.float32)

    @property
    def ended(self) -> bool:
        """Whether all of it was given."""
        return self._given >= self._total

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return what has arrived by now, waiting up to `timeout` for the next packet."""
        now = time.perf_counter()
        self._start = now if self._start is None else self._start
        packet = self.rate // 100
        deadline = now + timeout
        while (ready := self._arrived(packet)) <= 0 and time.perf_counter() < deadline and not self.ended:
            time.sleep(0.0005)
        count = min(ready, samples, self._total - self._given, self.rate)
        start = self._given % self.rate
        self._given += max(count, 0)
        return np.take(self._noise, range(start, start + max(count, 0)), mode="wrap")

    def _arrived(self, packet: int) -> int:
        assert self._start is not None
        heard = int((time.perf_counter() - self._start) * self.rate)
        return heard // packet * packet - self._given

    def warnings(self) -> list[str]:
        """Return nothing: noise is never wrong."""
        return []

    def close(self) -> None:
        """Do nothing."""


class Costs(Sink):
    """A sink that keeps each frame's cost."""

    def __init__(self) -> None:
        self.cost_ns: list[int] = []

    def open(self, layout: MotionLayout) -> None:
        """Begin."""

    def send(self, frame: Frame) -> None:
        """Keep the cost of a frame that was made."""
        if frame.cost_ns:
            self.cost_ns.append(frame.cost_ns)

    def close(self) -> None:
        """End."""


def _burn(stop: Any) -> None:
    """Keep a core busy the way numpy programs do."""
    values = np.random.default_rng(0).standard_normal((128, 128))
    while not stop.is_set():
        end = time.perf_counter() + _BURN_SECONDS
        while time.perf_counter() < end:
            values = np.tanh(values @ values / 128)


@contextmanager
def load(processes: int) -> Iterator[list[int]]:
    """Run busy processes beside the block, one core each: OpenBLAS would start a thread a core in every one."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = [context.Process(target=_burn, args=(stop,), daemon=True) for _ in range(processes)]
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    for worker in workers:
        worker.start()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    try:
        yield [worker.pid or 0 for worker in workers]
    finally:
        stop.set()
        for worker in workers:
            worker.join(5)


def at_rate(bundle: Bundle, fps: int) -> Bundle:
    """Return the bundle as if it had been made for another frame rate: the same work, more often."""
    return replace(bundle, manifest=replace(bundle.manifest, motion=replace(bundle.manifest.motion, fps=Fraction(fps))))


def on_the_clock(
    setting: Setting, name: str, fps: int, seconds: int, *, processes: int | None = None
) -> dict[str, Any]:
    """Play noise in real time and count what became of each frame; misses fail the check."""
    cores = usable_cores()
    busy = max(cores // 2, 1) if processes is None else processes
    bundle = setting.bundle(name)
    talker = setting.talker(at_rate(bundle, fps))
    costs = Costs()
    with load(busy):
        time.sleep(1.0 if not setting.dry else 0.0)  # the workers import numpy
        ladder = rehearse(talker, (talker.schedules[0],))
        source = NoiseSource(bundle.manifest.audio.rate, seconds)
        options = Options(realtime=True, schedule=talker.schedules[0])
        tally = Loop(talker, source, [costs], options=options, ladder=ladder).run()
    talker.close()
    summary = Summary.of(costs.cost_ns)
    outcomes = {outcome.value: count for outcome, count in tally.outcomes.items()}
    missed = tally.due - outcomes["on_time"]
    figures = {
        "bundle": name,
        "fps": fps,
        "seconds": seconds,
        "cores usable": cores,
        "busy processes": busy,
        "frames due": tally.due,
        **outcomes,
        "missed": missed,
        "stalls": tally.stalls,
        "frame median us": summary.median / 1e3,
        "frame p99 us": summary.p99 / 1e3,
        "frame max us": summary.max / 1e3,
    }
    if missed and not setting.dry:
        raise AssertionError(f"{missed} of {tally.due} frames missed: {figures}")
    return figures
