"""What a device owns: who gives it back and when, captures, events, and when the GPU may no longer be used.

Everything that a device makes (memory, events, executable graphs) belongs to the Python object that stands for it and
goes with its last reference, or with the device's `close`, whichever comes first and in whatever order. Nothing is
given back while this thread captures: that would break the capture, so it waits until the capture has ended.
"""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.cuda.errors import INVALID_HANDLE, NOT_READY, CudaError
from edgetalker.engines.errors import DeviceError, EngineError

__all__ = ["BLOCKS", "CudaGraph", "CudaMark", "Resources", "capture", "elapsed"]

_log = logging.getLogger("edgetalker.engines.cuda")

_EXECUTABLES, _EVENTS, BLOCKS = range(3)
"""Ranks, in the order in which `close` gives them back: a graph goes before what it records and touches."""

_here = threading.local()
"""`_here.captures`: whether a device captures on this thread."""

_waiting: list[Callable[[], object]] = []
"""What shall be given back as soon as this thread's capture has ended."""

_spare_streams: dict[int, list[int]] = {}
"""GPU -> streams of closed devices, for the next ones: PyTorch keeps 32 MiB of cuBLAS workspace for each stream that
it ever saw, so that a program that opens and closes sessions would lose them each time."""


@dataclass(frozen=True)
class CudaMark:
    """A timed event; recorded anew by every replay of a graph that holds it."""

    name: str
    event: int


@dataclass(frozen=True)
class CudaGraph:
    """An executable graph, uploaded and ready. `nodes`: operations that were captured. marks: those it records."""

    name: str
    nodes: int
    executable: int
    marks: tuple[CudaMark, ...] = field(default=(), repr=False, compare=False)


class Resources:
    """The driver's objects of one device. `release` works once, whatever state the GPU is in, on any thread."""

    def __init__(self, driver: Driver, gpu: int, wait: str) -> None:
        self.driver = driver
        self.gpu = gpu
        self.wait = wait
        self.stream = 0
        self.owns_stream = False
        self._adopted: object = None  # somebody else's stream: most libraries destroy it with its last reference
        self.capturing = False
        self.closed = False
        self.lost: CudaError | None = None
        self.recorded: list[CudaMark] = []
        self._owned: dict[tuple[int, int], weakref.finalize[..., Any]] = {}
        self._pinned: list[weakref.finalize[..., Any]] = []
        self._numbers = itertools.count()
        self._woken = 0

    # Guards

    @contextmanager
    def watched(self, what: str = "") -> Iterator[None]:
        """Refuse work on a closed or lost GPU, make its context current on this thread, name `what` in errors."""
        if self.closed:
            raise DeviceError("the device is closed")
        if self.lost is not None:
            raise self.lost
        try:
            self.driver.enter(self.gpu)
            yield
        except CudaError as error:
            self.note(error)
            raise (error.during(what) if what else error) from error.__cause__

    def note(self, error: CudaError) -> None:
        """Remember the first error that lost the GPU."""
        if error.sticky and self.lost is None:
            self.lost = error

    def refuse_capture(self, what: str) -> None:
        """Raise DeviceError when closed, EngineError under capture."""
        if self.closed:
            raise DeviceError(f"{what}: the device is closed")
        if self.capturing:
            raise EngineError(f"{what} while the device captures", hint="do it before capture()")

    # What is owned

    def own(self, thing: object, undo: Callable[[int], None], handle: int, rank: int) -> None:
        """Give `handle` back with `undo` when `thing` goes, or the device, which gives back rank after rank."""
        number = (rank, next(self._numbers))
        finalizer = weakref.finalize(thing, _give_back, self.driver, self.gpu, self._owned, number, undo, handle)
        finalizer.atexit = False  # the process's end gives everything back, and arrays may still be read until then
        self._owned[number] = finalizer

    def own_pinned(self, thing: object, address: int) -> None:
        """Free page-locked memory when the last array over it goes, which may be long after the device was closed."""
        finalizer = weakref.finalize(thing, _give_back, self.driver, self.gpu, {}, (0, 0), self.driver.unpin, address)
        finalizer.atexit = False
        self._pinned = [each for each in self._pinned if each.alive] + [finalizer]

    def new_mark(self, name: str) -> CudaMark:
        """Return a new timed event with a name."""
        mark = CudaMark(name, self.driver.make_event(timed=True))
        self.own(mark, self.driver.drop_event, mark.event, _EVENTS)
        return mark

    def open_stream(self, stream: object | None) -> None:
        """Take a spare stream, make one, or take somebody else's; and what the wait policy needs."""
        if stream is None:
            spare = _spare_streams.setdefault(self.gpu, [])
            self.stream, self.owns_stream = spare.pop() if spare else self.driver.make_stream(), True
        else:
            self.stream, self._adopted = self.driver.adopt_stream(stream, self.gpu), stream
        if self.wait == "block":
            self._woken = self.driver.make_event(timed=False)

    def synchronize(self) -> None:
        """Wait by the wait policy until the stream is empty. Raises CudaError when work on it failed."""
        self.refuse_capture("the queue cannot be waited for")
        with self.watched():
            if self.wait == "spin":
                self.driver.synchronize(self.stream)
            elif self.wait == "yield":
                while not self.driver.idle(self.stream):
                    time.sleep(0)
            else:
                self.driver.record(self._woken, self.stream, capturing=False)
                self.driver.wait(self._woken)

    # The end

    def release(self) -> CudaError | None:
        """Give everything back and return the first error that is news; a lost GPU gives none."""
        if self.closed:
            return None
        self.closed = True
        if not self.capturing and _captures():
            _waiting.append(self._end)
            return None
        return self._end()

    def _end(self) -> CudaError | None:
        with self.driver.visiting(self.gpu) as errors:
            errors += [error for step in self._steps() if (error := _try(step)) is not None]
            if self.owns_stream and self.lost is None and not errors:
                _spare_streams.setdefault(self.gpu, []).append(self.stream)
            elif self.owns_stream:
                errors += filter(None, [_try(lambda: self.driver.drop_stream(self.stream))])
        self.owns_stream, self._adopted = False, None
        if self.lost is not None or any(error.sticky for error in errors):
            for finalizer in self._pinned:
                finalizer.detach()  # it went with the context
            return None
        return errors[0] if errors else None

    def _steps(self) -> Iterator[Callable[[], Any]]:
        """Yield the calls; nothing that can still be in use goes before the queue is empty."""
        driver, stream = self.driver, self.stream
        if self.capturing:
            yield lambda: driver.drop_graph(driver.end_capture(stream))
            self.capturing = False
            _here.captures = False
        if stream:
            yield lambda: driver.synchronize(stream)
        for number in sorted(self._owned):
            finalizer = self._owned.pop(number, None)
            alive = finalizer.detach() if finalizer is not None else None
            if alive is not None:
                undo, handle = alive[2][-2:]
                yield partial(undo, handle)
        if self._woken:
            yield lambda: driver.drop_event(self._woken)


def _captures() -> bool:
    return bool(getattr(_here, "captures", False))


def _give_back(
    driver: Driver, gpu: int, owned: dict[Any, Any], number: tuple[int, int], undo: Callable[[int], None], handle: int
) -> None:
    """Undo one thing, now or after this thread's capture. Nobody is there to be told of a failure but the log."""
    owned.pop(number, None)
    if _captures():
        _waiting.append(partial(_give_back, driver, gpu, {}, number, undo, handle))
        return
    with driver.visiting(gpu) as errors:
        errors += filter(None, [_try(partial(undo, handle))])
    for error in errors:
        _log.warning("%#x was not given back: %s", handle, error.message)


def _try(step: Callable[[], Any]) -> CudaError | None:
    try:
        step()
    except CudaError as error:
        return error
    return None


def capture(resources: Resources, name: str, work: Callable[[], None]) -> CudaGraph:
    """Capture what `work` enqueues, instantiate it and upload it to the GPU."""
    resources.refuse_capture(f"graph `{name}` cannot be captured")
    driver = resources.driver
    with resources.watched(f"graph `{name}`"):
        captured = _captured(resources, work)
        try:
            nodes, executable = driver.nodes(captured), driver.instantiate(captured)
            graph = CudaGraph(name, nodes, executable, tuple(resources.recorded))
            resources.own(graph, driver.drop_executable, executable, _EXECUTABLES)
        finally:
            resources.recorded.clear()
            driver.drop_graph(captured)
        driver.upload_graph(graph.executable, resources.stream)
        driver.synchronize(resources.stream)
    return graph


def _captured(resources: Resources, work: Callable[[], None]) -> int:
    with _undisturbed():
        resources.driver.begin_capture(resources.stream)
        resources.capturing = _here.captures = True
        try:
            work()
            graph = resources.driver.end_capture(resources.stream)
        except BaseException:
            _abandon(resources)
            resources.recorded.clear()
            raise
        finally:
            resources.capturing = _here.captures = False
        return graph


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what garbage collection finds out of a capture: a finalizer of any library may free GPU memory."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        while _waiting and not _captures():
            _waiting.pop(0)()


def _abandon(resources: Resources) -> None:
    """End a capture whose work failed, so that the stream can be used again; the work's own error is the news."""
    if not resources.capturing:
        return  # the work closed the device, which ended the capture
    try:
        resources.driver.drop_graph(resources.driver.end_capture(resources.stream))
    except CudaError as error:
        resources.note(error)


def elapsed(resources: Resources, first: CudaMark, last: CudaMark) -> int:
    """Nanoseconds between two marks. Raises DeviceError when one was not reached yet."""
    try:
        with resources.watched():
            return resources.driver.elapsed(first.event, last.event)
    except CudaError as error:
        if error.code not in (INVALID_HANDLE, NOT_READY):
            raise
        state = "has not been reached yet" if error.code == NOT_READY else "was never reached by the queue"
        raise DeviceError(
            f"mark `{first.name}` or `{last.name}` {state}", hint="synchronize() after the work that records both"
        ) from None
