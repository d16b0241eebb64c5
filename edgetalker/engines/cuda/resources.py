"""Everything that a device must give back, in which order, and when it may no longer be used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgetalker.engines.cuda.buffers import Block
from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.cuda.errors import CudaError
from edgetalker.engines.errors import DeviceError, EngineError

__all__ = ["Resources"]


class Resources:
    """The driver's objects of one device. `release` works once, whatever state the GPU is in."""

    def __init__(self, driver: Driver, wait: str) -> None:
        self.driver = driver
        self.wait = wait
        self.stream = 0
        self.owns_stream = False
        self.capturing = False
        self.closed = False
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.executables: list[int] = []
        self.lost: CudaError | None = None
        self._woken = 0
        self._thread = threading.get_ident()

    # Guards

    @contextmanager
    def watched(self, what: str = "") -> Iterator[None]:
        """Refuse work on a closed or lost GPU; name `what` in errors; remember the error that lost the GPU."""
        if self.closed:
            raise DeviceError("the device is closed")
        if self.lost is not None:
            raise self.lost
        try:
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

    def new_event(self, *, timed: bool) -> int:
        """Return a new event that is given back with the rest."""
        event = self.driver.make_event(timed=timed)
        self.events.append(event)
        return event

    def open_stream(self, stream: object | None) -> None:
        """Make a stream, or take somebody else's; and what the wait policy needs."""
        if stream is None:
            self.stream, self.owns_stream = self.driver.make_stream(), True
        else:
            self.stream = self.driver.adopt_stream(stream)
        if self.wait == "block":
            self._woken = self.new_event(timed=False)

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
        errors = [error for step in self._steps() if (error := _try(step)) is not None]
        if self.lost is not None or any(error.sticky for error in errors):
            return None
        return errors[0] if errors else None

    def release_forgotten(self) -> None:
        """Give everything back when a device was dropped without `close`. Another thread lacks the context."""
        if threading.get_ident() == self._thread:
            self.release()

    def _steps(self) -> list[Callable[[], Any]]:
        """List the calls; nothing that can still be in use goes before the queue is empty."""
        driver, stream = self.driver, self.stream
        steps: list[Callable[[], Any]] = []
        if self.capturing:
            steps.append(lambda: driver.drop_graph(driver.end_capture(stream)))
        if stream:
            steps.append(lambda: driver.synchronize(stream))
        steps += [_bound(driver.drop_executable, item) for item in self.executables]
        steps += [_bound(driver.drop_event, item) for item in self.events]
        for block in self.blocks:
            steps += self._block_steps(block)
        if self.owns_stream:
            steps.append(lambda: driver.drop_stream(stream))
        return [*steps, driver.leave]

    def _block_steps(self, block: Block) -> list[Callable[[], Any]]:
        steps = [] if block.host is None else [_bound(self.driver.unpin, block.host)]
        return steps if block.shared else [_bound(self.driver.free, block.address), *steps]


def _bound(function: Callable[[Any], None], item: Any) -> Callable[[], None]:
    return lambda: function(item)


def _try(step: Callable[[], Any]) -> CudaError | None:
    try:
        step()
    except CudaError as error:
        return error
    return None
