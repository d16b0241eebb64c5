"""Captured graphs and timed points in the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetalker.engines.cuda.errors import CudaError
from edgetalker.engines.cuda.resources import Resources
from edgetalker.engines.errors import DeviceError

__all__ = ["CudaGraph", "CudaMark", "capture", "elapsed"]

_INVALID_HANDLE, _NOT_READY = 400, 600


@dataclass(frozen=True)
class CudaGraph:
    """An executable graph, uploaded and ready. `nodes`: operations that were captured."""

    name: str
    nodes: int
    executable: int


@dataclass(frozen=True)
class CudaMark:
    """A timed event; recorded anew by every replay of a graph that holds it."""

    name: str
    event: int


def capture(resources: Resources, name: str, work: Callable[[], None]) -> CudaGraph:
    """Capture what `work` enqueues, instantiate it and upload it to the GPU."""
    resources.refuse_capture(f"graph `{name}` cannot be captured")
    driver = resources.driver
    with resources.watched(f"graph `{name}`"):
        graph = _captured(resources, work)
        try:
            nodes = driver.nodes(graph)
            executable = driver.instantiate(graph)
            resources.executables.append(executable)
        finally:
            driver.drop_graph(graph)
        driver.upload_graph(executable, resources.stream)
        driver.synchronize(resources.stream)
    return CudaGraph(name, nodes, executable)


def _captured(resources: Resources, work: Callable[[], None]) -> int:
    resources.driver.begin_capture(resources.stream)
    resources.capturing = True
    try:
        work()
        graph = resources.driver.end_capture(resources.stream)
    except BaseException:
        _abandon(resources)
        raise
    resources.capturing = False
    return graph


def _abandon(resources: Resources) -> None:
    """End a capture whose work failed, so that the stream can be used again; the work's own error is the news."""
    resources.capturing = False
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
        if error.code not in (_INVALID_HANDLE, _NOT_READY):
            raise
        state = "has not been reached yet" if error.code == _NOT_READY else "was never reached by the queue"
        raise DeviceError(
            f"mark `{first.name}` or `{last.name}` {state}", hint="synchronize() after the work that records both"
        ) from None
