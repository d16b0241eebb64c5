"""What does this libcuda answer? The same questions to the driver double and to a GPU's driver, as JSON on stdout.

    python3 tests/cuda/driver_rules.py > gpu.json          # on a machine with a GPU: some seconds, needs cuda-bindings
    diff tests/cuda/driver_rules_double.json gpu.json      # each line is a rule that the double has wrong

`driver_rules_double.json` is what the double answers: its specification, which a test holds it to. What a GPU answers
belongs beside it once there is one. Each question is put in a process of its own, so that one that destroys the context
spoils no other.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

NO_CONTEXT = 69
"""Exit code when GPU 0 gives no context, as it does to a second process in exclusive mode; stderr says why."""

_PATIENCE = 20.0  # seconds that a question may take

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
BLOCKING, NON_BLOCKING = range(2)
EXTERNAL = 1

Answer = Any
QUESTIONS: dict[str, Callable[[], Answer]] = {}


def question(ask: Callable[[], Answer]) -> Callable[[], Answer]:
    """Note a question under its function's name."""
    QUESTIONS[ask.__name__] = ask
    return ask


def named(result: Any) -> str:
    """Return the name of a call's code, without CUDA's prefix."""
    code = result[0] if isinstance(result, tuple) else result
    return str(getattr(code, "name", code)).replace("CUDA_ERROR_", "").replace("CUDA_", "")


def context_of(driver: Any) -> Any:
    """Return GPU 0's primary context. Without one every answer would be wrong: says so and ends the process."""
    try:
        result = driver.cuInit(0)
        if not int(result[0]):
            result = driver.cuDevicePrimaryCtxRetain(0)
            if not int(result[0]):
                return result[1]
        reason = named(result)
    except Exception as error:  # cuda-bindings finds no driver
        reason = str(error).splitlines()[0]
    print(f"GPU 0 gives no context: {reason}", file=sys.stderr)
    raise SystemExit(NO_CONTEXT)


class Asked:
    """cuda-bindings' driver module with one stream in the primary context of GPU 0."""

    def __init__(self, flags: int = NON_BLOCKING) -> None:
        from cuda.bindings import driver

        self.cuda: Any = driver
        self.context = context_of(driver)
        driver.cuCtxPushCurrent(self.context)
        self.stream = driver.cuStreamCreate(flags)[1]

    def begin(self, mode: int = THREAD_LOCAL) -> str:
        """Begin a capture."""
        return named(self.cuda.cuStreamBeginCapture(self.stream, self.cuda.CUstreamCaptureMode(mode)))

    def end(self) -> tuple[str, Any]:
        """End it; return the code and the graph."""
        result = self.cuda.cuStreamEndCapture(self.stream)
        return named(result), (result[1] if int(result[0]) == 0 else None)

    def executable(self) -> Any:
        """End the capture and return what can be launched."""
        return self.cuda.cuGraphInstantiate(self.end()[1], 0)[1]

    def memory(self, nbytes: int = 64) -> Any:
        """Return new memory of the GPU."""
        return self.cuda.cuMemAlloc(nbytes)[1]

    def pinned(self, nbytes: int = 64) -> Any:
        """Return new page-locked memory."""
        return self.cuda.cuMemHostAlloc(nbytes, 0)[1]

    def event(self) -> Any:
        """Return a new event."""
        return self.cuda.cuEventCreate(0)[1]

    def under_capture(self, call: Callable[[], Any]) -> str:
        """Return what a call answers while the stream captures, and how the capture then ends."""
        self.begin()
        answer = named(call())
        return f"{answer}; end: {self.end()[0]}"


def in_a_thread(calls: list[Callable[[], Any]]) -> list[str]:
    """Return what calls answer on a thread that has no context."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.extend(named(call()) for call in calls))
    thread.start()
    thread.join()
    return answers


@question
def launch_from_thread_without_context() -> Answer:
    a = Asked()
    a.begin()
    graph, stream, cuda = a.executable(), a.stream, a.cuda
    return in_a_thread(
        [
            lambda: cuda.cuGraphLaunch(graph, stream),
            lambda: cuda.cuStreamSynchronize(stream),
            lambda: cuda.cuStreamQuery(stream),
        ]
    )


@question
def copy_from_thread_without_context() -> Answer:
    a = Asked()
    target, source = a.memory(), a.pinned()
    return in_a_thread([lambda: a.cuda.cuMemcpyHtoDAsync(target, source, 64, a.stream)])


@question
def record_from_thread_without_context() -> Answer:
    a = Asked()
    event = a.event()
    return in_a_thread([lambda: a.cuda.cuEventRecordWithFlags(event, a.stream, 0)])


@question
def after_last_release() -> Answer:
    a = Asked()
    memory = a.memory()
    a.cuda.cuCtxPopCurrent()
    released = named(a.cuda.cuDevicePrimaryCtxRelease(0))
    a.cuda.cuCtxPushCurrent(a.cuda.cuDevicePrimaryCtxRetain(0)[1])
    stream = named(a.cuda.cuStreamSynchronize(a.stream))
    filled = named(a.cuda.cuMemsetD8Async(memory, 0, 64, 0))
    return [released, "stream:", stream, "memory:", filled, named(a.cuda.cuCtxSynchronize())]


@question
def mem_alloc_in_thread_local_capture() -> Answer:
    a = Asked()
    return a.under_capture(lambda: a.cuda.cuMemAlloc(64))


@question
def mem_alloc_in_capture_after_relaxing() -> Answer:
    a = Asked()
    a.begin()
    a.cuda.cuThreadExchangeStreamCaptureMode(a.cuda.CUstreamCaptureMode(RELAXED))
    answer = named(a.cuda.cuMemAlloc(64))
    return f"{answer}; end: {a.end()[0]}"


@question
def mem_free_in_capture() -> Answer:
    a = Asked()
    memory = a.memory()
    return a.under_capture(lambda: a.cuda.cuMemFree(memory))


@question
def free_host_in_capture() -> Answer:
    a = Asked()
    memory = a.pinned()
    return a.under_capture(lambda: a.cuda.cuMemFreeHost(memory))


def _event_of_another_stream(call: str) -> Answer:
    a = Asked()
    event = a.event()
    a.cuda.cuEventRecordWithFlags(event, a.cuda.cuStreamCreate(NON_BLOCKING)[1], 0)
    return a.under_capture(lambda: getattr(a.cuda, call)(event))


@question
def event_query_of_another_stream_in_capture() -> Answer:
    return _event_of_another_stream("cuEventQuery")


@question
def event_synchronize_of_another_stream_in_capture() -> Answer:
    return _event_of_another_stream("cuEventSynchronize")


@question
def event_destroy_in_capture() -> Answer:
    a = Asked()
    event = a.event()
    return a.under_capture(lambda: a.cuda.cuEventDestroy(event))


@question
def event_create_in_capture() -> Answer:
    a = Asked()
    return a.under_capture(lambda: a.cuda.cuEventCreate(0))


@question
def stream_create_in_capture() -> Answer:
    a = Asked()
    return a.under_capture(lambda: a.cuda.cuStreamCreate(NON_BLOCKING))


def _other_stream(call: str) -> Answer:
    a = Asked()
    other = a.cuda.cuStreamCreate(NON_BLOCKING)[1]
    return a.under_capture(lambda: getattr(a.cuda, call)(other))


@question
def stream_destroy_of_another_in_capture() -> Answer:
    return _other_stream("cuStreamDestroy")


@question
def synchronize_another_stream_in_capture() -> Answer:
    return _other_stream("cuStreamSynchronize")


@question
def query_another_stream_in_capture() -> Answer:
    return _other_stream("cuStreamQuery")


@question
def context_synchronize_in_capture() -> Answer:
    a = Asked()
    return a.under_capture(lambda: a.cuda.cuCtxSynchronize())


@question
def wait_for_an_uncaptured_event_in_capture() -> Answer:
    a = Asked()
    event = a.event()
    a.cuda.cuEventRecordWithFlags(event, a.cuda.cuStreamCreate(NON_BLOCKING)[1], 0)
    return a.under_capture(lambda: a.cuda.cuStreamWaitEvent(a.stream, event, 0))


@question
def second_stream_that_is_not_joined_again() -> Answer:
    a = Asked()
    event, other, memory = a.event(), a.cuda.cuStreamCreate(NON_BLOCKING)[1], a.memory()
    a.begin()
    a.cuda.cuEventRecordWithFlags(event, a.stream, 0)
    answers = [named(a.cuda.cuStreamWaitEvent(other, event, 0))]
    answers.append(named(a.cuda.cuMemsetD8Async(memory, 0, 64, other)))
    return [*answers, a.end()[0]]


def _legacy_work(flags: int) -> Answer:
    a = Asked(flags)
    memory = a.memory()
    return a.under_capture(lambda: a.cuda.cuMemsetD8Async(memory, 0, 64, 0))


@question
def legacy_stream_work_in_capture_of_nonblocking_stream() -> Answer:
    return _legacy_work(NON_BLOCKING)


@question
def legacy_stream_work_in_capture_of_blocking_stream() -> Answer:
    return _legacy_work(BLOCKING)


@question
def pageable_upload_in_capture() -> Answer:
    a = Asked()
    block, target = ctypes.create_string_buffer(64), a.memory()
    return a.under_capture(lambda: a.cuda.cuMemcpyHtoDAsync(target, ctypes.addressof(block), 64, a.stream))


@question
def external_record_outside_capture() -> Answer:
    a = Asked()
    return named(a.cuda.cuEventRecordWithFlags(a.event(), a.stream, EXTERNAL))


@question
def elapsed_between_external_events_of_a_graph() -> Answer:
    a = Asked()
    first, last, memory = a.event(), a.event(), a.memory(1 << 20)
    a.begin()
    a.cuda.cuEventRecordWithFlags(first, a.stream, EXTERNAL)
    a.cuda.cuMemsetD8Async(memory, 0, 1 << 20, a.stream)
    a.cuda.cuEventRecordWithFlags(last, a.stream, EXTERNAL)
    graph = a.executable()
    a.cuda.cuGraphUpload(graph, a.stream)
    answers: list[Any] = [named(a.cuda.cuEventElapsedTime(first, last))]
    for _ in range(2):
        a.cuda.cuGraphLaunch(graph, a.stream)
        a.cuda.cuStreamSynchronize(a.stream)
        result = a.cuda.cuEventElapsedTime(first, last)
        answers.append([named(result), "positive" if int(result[0]) == 0 and result[1] > 0 else "not positive"])
    return answers


@question
def launch_of_an_empty_graph() -> Answer:
    a = Asked()
    a.begin()
    graph = a.executable()
    calls = (a.cuda.cuGraphUpload, a.cuda.cuGraphLaunch)
    return [*(named(call(graph, a.stream)) for call in calls), named(a.cuda.cuStreamSynchronize(a.stream))]


@question
def launch_of_a_graph_in_capture() -> Answer:
    a = Asked()
    a.begin()
    graph = a.executable()
    return a.under_capture(lambda: a.cuda.cuGraphLaunch(graph, a.stream))


@question
def odd_pitches_in_2d_copies() -> Answer:
    a = Asked()
    target, source, answers = a.memory(4096), a.memory(4096), []
    for width, to, of in ((72, 72, 84), (12, 84, 12), (3, 7, 5)):
        plan = a.cuda.CUDA_MEMCPY2D()
        plan.srcMemoryType = plan.dstMemoryType = a.cuda.CUmemorytype(2)
        plan.srcDevice, plan.srcPitch, plan.dstDevice, plan.dstPitch = source, of, target, to
        plan.WidthInBytes, plan.Height = width, 5
        answers.append(named(a.cuda.cuMemcpy2DAsync(plan, a.stream)))
    return [*answers, named(a.cuda.cuStreamSynchronize(a.stream))]


@question
def a_petabyte() -> Answer:
    return named(Asked().cuda.cuMemAlloc(1 << 50))


@question
def zero_bytes() -> Answer:
    a = Asked()
    return [named(a.cuda.cuMemAlloc(0)), named(a.cuda.cuMemHostAlloc(0, 0))]


@question
def use_after_free_of_a_graphs_memory() -> Answer:
    a = Asked()
    memory = a.memory()
    a.begin()
    a.cuda.cuMemsetD8Async(memory, 0, 64, a.stream)
    graph = a.executable()
    a.cuda.cuGraphUpload(graph, a.stream)
    a.cuda.cuMemFree(memory)
    return [named(a.cuda.cuGraphLaunch(graph, a.stream)), named(a.cuda.cuStreamSynchronize(a.stream))]


@question
def use_after_free_of_a_graphs_pinned_memory() -> Answer:
    a = Asked()
    target, source = a.memory(), a.pinned()
    a.begin()
    a.cuda.cuMemcpyHtoDAsync(target, source, 64, a.stream)
    graph = a.executable()
    a.cuda.cuGraphUpload(graph, a.stream)
    a.cuda.cuMemFreeHost(source)
    return [named(a.cuda.cuGraphLaunch(graph, a.stream)), named(a.cuda.cuStreamSynchronize(a.stream))]


@question
def end_capture_twice() -> Answer:
    a = Asked()
    a.begin()
    a.end()
    return a.end()[0]


@question
def begin_capture_twice() -> Answer:
    a = Asked()
    a.begin()
    return a.begin()


@question
def cuda_in_a_forked_child() -> Answer:
    a = Asked()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, named(a.cuda.cuMemGetInfo()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(read, 64).decode()


@question
def elapsed_of_never_recorded_events() -> Answer:
    a = Asked()
    return named(a.cuda.cuEventElapsedTime(a.event(), a.event()))


@question
def destroyed_event_in_a_live_graph() -> Answer:
    a = Asked()
    event = a.event()
    a.begin()
    a.cuda.cuEventRecordWithFlags(event, a.stream, EXTERNAL)
    graph = a.executable()
    a.cuda.cuGraphUpload(graph, a.stream)
    destroyed = named(a.cuda.cuEventDestroy(event))
    return [destroyed, named(a.cuda.cuGraphLaunch(graph, a.stream)), named(a.cuda.cuStreamSynchronize(a.stream))]


@question
def foreign_context_of_the_same_gpu() -> Answer:
    """Whether the runtime library's context and one of cuCtxCreate share memory and streams."""
    a = Asked()
    memory = a.memory()
    try:
        made = a.cuda.cuCtxCreate(None, 0, 0)
    except TypeError:  # before CUDA 13
        made = a.cuda.cuCtxCreate(0, 0)
    return [named(made), named(a.cuda.cuMemsetD8Async(memory, 0, 64, a.stream))]


def answers() -> dict[str, Answer]:
    """Put every question, each in a child. Where one gets no context there are no answers: ends the process."""
    found: dict[str, Answer] = {}
    for name in QUESTIONS:
        command = [sys.executable, __file__, name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            found[name] = f"took longer than {_PATIENCE:g} s"
            continue
        if done.returncode == NO_CONTEXT:
            print(done.stderr.strip(), file=sys.stderr)
            raise SystemExit(NO_CONTEXT)
        if done.returncode == 0 and done.stdout.strip():
            found[name] = json.loads(done.stdout)
        else:
            found[name] = f"died {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    return found


if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]]() if sys.argv[1:] else answers(), indent=1))
