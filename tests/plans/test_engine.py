"""The run-time half: addresses once, a context a binding, shared scratch, every refusal an error."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetalker.engines.cuda.engines import runtime_cache_path
from edgetalker.engines.engine import Buffer, TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.machine import Gpu, NoGpu
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.engine import RuntimeCache, TensorRTEngine, share_scratch
from tests.plans.conftest import refuse_folders
from tests.plans.runtime_double import (
    GPU,
    CudaLike,
    DataType,
    Engine,
    ExecutionContextAllocationStrategy,
    RtxEngine,
    TensorIOMode,
    module_with,
)

X, Y = TensorSpec("float32", (1, 8)), TensorSpec("float16", (1, 4))
BORDER = {
    "x": (TensorIOMode.INPUT, DataType.FLOAT, (1, 8)),
    "y": (TensorIOMode.OUTPUT, DataType.HALF, (1, 4)),
}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: GPU)


@pytest.fixture
def device() -> CudaLike:
    return CudaLike()


@pytest.fixture
def plan() -> Engine:
    return Engine(BORDER)


def opened(plan: Engine | None, device: HostDevice, **changes: Any) -> TensorRTEngine:
    arguments: dict[str, Any] = {"inputs": {"x": X}, "outputs": {"y": Y}, **changes}
    return TensorRTEngine("stage", Api("tensorrt", module_with(plan)), b"plan", device, **arguments)


def buffers(device: HostDevice) -> dict[str, Buffer]:
    return {"x": device.allocate("x", X), "y": device.allocate("y", Y)}


def test_binding_sets_every_address_and_warms_up_on_the_device_s_stream(plan: Engine, device: CudaLike) -> None:
    given = buffers(device)
    opened(plan, device).bind(given)
    (context,) = plan.contexts
    assert context.addresses == {name: buffer.address for name, buffer in given.items()}
    assert context.streams == [device.stream] * 2  # the warm run, and one that is captured and never launched
    assert context.memory is not None


def test_each_binding_has_its_own_context_and_all_share_one_scratch(plan: Engine, device: CudaLike) -> None:
    engine = opened(plan, device)
    first, second = engine.bind(buffers(device)), engine.bind(buffers(device))
    for binding in (first, second, first):
        binding.enqueue(device)
    assert [len(context.streams) for context in plan.contexts] == [4, 2]
    assert plan.contexts[0].addresses != plan.contexts[1].addresses
    assert plan.contexts[0].memory == plan.contexts[1].memory


def test_stages_share_the_scratch_of_the_hungriest(device: CudaLike) -> None:
    small, large = Engine(BORDER), Engine(BORDER)
    large.device_memory_size_v2 = 5000
    engines = [opened(small, device), opened(large, device)]
    share_scratch(engines, device)
    for engine in engines:
        engine.bind(buffers(device))
    assert small.contexts[0].memory == large.contexts[0].memory
    assert large.contexts[0].memory is not None
    assert large.contexts[0].memory[1] == 5000


def test_scratch_that_is_too_small_is_refused(plan: Engine, device: CudaLike) -> None:
    engine = opened(plan, device)
    small = device.allocate("small", TensorSpec("uint8", (plan.device_memory_size_v2 - 1,)))
    with pytest.raises(EngineError, match="needs 1000 bytes of scratch"):
        engine.use_scratch(small)


def test_compiled_kernels_that_want_more_scratch_than_the_plan_said_get_it(plan: Engine, device: CudaLike) -> None:
    engine = opened(plan, device)
    first = engine.bind(buffers(device))
    plan.wanted = 3000
    second = engine.bind(buffers(device))
    memories = [context.memory for context in plan.contexts]
    assert memories[0] is not None and memories[0][1] == 1000
    assert memories[1] is not None and memories[1][1] == 3000
    first.enqueue(device)
    second.enqueue(device)


def rtx_opened(plan: Engine, device: CudaLike) -> TensorRTEngine:
    plan.__class__ = RtxEngine
    return TensorRTEngine("stage", Api("rtx", module_with(plan, rtx=True)), b"plan", device, {"x": X}, {"y": Y})


def test_rtx_compiles_all_kernels_before_the_first_run_and_leaves_graphs_to_us(plan: Engine, device: CudaLike) -> None:
    rtx_opened(plan, device).bind(buffers(device))
    assert plan.config.cuda_graph_strategy == "no graphs"
    assert plan.config.dynamic_shapes_kernel_specialization_strategy == "none"


@pytest.mark.parametrize(
    ("answers", "said"),
    [((True, True), ""), ((False, True), ""), ((True, False), "once it has run"), ((False, False), "neither before")],
)
def test_a_plan_that_cannot_be_captured_is_refused(
    plan: Engine, device: CudaLike, answers: tuple[bool, bool], said: str
) -> None:
    plan.capturable = answers
    engine = rtx_opened(plan, device)
    if not said:
        engine.bind(buffers(device)).enqueue(device)
        return
    with pytest.raises(EngineError, match="cannot be captured into a graph") as caught:
        engine.bind(buffers(device))
    assert said in caught.value.message


def test_a_run_that_enqueues_nothing_is_refused(plan: Engine, device: CudaLike) -> None:
    plan.work = lambda context, stream: None
    with pytest.raises(EngineError, match="enqueued nothing on the stream"):
        opened(plan, device).bind(buffers(device))


def test_bindings_that_nobody_holds_let_their_buffers_go(plan: Engine, device: CudaLike) -> None:
    engine = opened(plan, device)
    engine.bind(buffers(device))
    plan.contexts.clear()
    gc.collect()
    assert len(engine._bindings) == 0


def test_an_old_driver_is_told_from_no_driver(plan: Engine, device: CudaLike, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Gpu("Test GPU", "sm86", 8 << 30, "12.4")
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: old)
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 13)
    with pytest.raises(DeviceError, match=r"for CUDA 12\.4; the installed tensorrt_rtx wheels want CUDA 13") as caught:
        rtx_opened(plan, device)
    assert "580 or newer" in str(caught.value.hint)
    assert "edgetalker[rtx-cu12]" in str(caught.value.hint)
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 12)
    rtx_opened(plan, device)


def test_a_stage_without_intermediate_results_needs_no_scratch(plan: Engine, device: CudaLike) -> None:
    plan.device_memory_size_v2 = 0
    opened(plan, device).bind(buffers(device))
    assert plan.contexts[0].memory is None


def test_enqueue_that_fails_is_an_error(plan: Engine, device: CudaLike) -> None:
    binding = opened(plan, device).bind(buffers(device))
    plan.healthy = False
    with pytest.raises(EngineError, match="stage `stage` cannot be enqueued"):
        binding.enqueue(device)
    with pytest.raises(EngineError, match="another device"):
        binding.enqueue(CudaLike())


def test_closing_destroys_contexts_before_their_engine(plan: Engine, device: CudaLike) -> None:
    engine = opened(plan, device)
    binding = engine.bind(buffers(device))
    context = weakref.ref(plan.contexts.pop())
    engine.close()
    gc.collect()
    assert context() is None
    with pytest.raises(EngineError, match="stage `stage` is closed"):
        binding.enqueue(device)
    engine.close()


def misaligned(device: CudaLike) -> dict[str, Buffer]:
    block = device.allocate("block", TensorSpec("uint8", (512,)))
    return {**buffers(device), "x": block.view("x", 32, X)}


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (misaligned, "tensor `x` lies at"),
        (lambda device: {"x": buffers(device)["x"]}, "`y` has no buffer"),
        (lambda device: {**buffers(device), "y": device.allocate("odd", X)}, "`y` wants float16"),
        (lambda device: {**buffers(device), "z": device.allocate("z", X)}, "`z` is no tensor"),
    ],
)
def test_buffers_that_do_not_fit_are_named(
    plan: Engine, device: CudaLike, make: Callable[[CudaLike], dict[str, Buffer]], part: str
) -> None:
    with pytest.raises(EngineError, match=part):
        opened(plan, device).bind(make(device))


def test_the_double_takes_no_address_that_the_library_does_not_take(plan: Engine) -> None:
    context = plan.create_execution_context(ExecutionContextAllocationStrategy.USER_MANAGED)
    assert context.set_tensor_address("x", 512)
    assert not context.set_tensor_address("x", 512 + 108)
    assert not context.set_tensor_address("z", 512)


def test_what_tensorrt_refuses_while_binding_is_an_error(plan: Engine, device: CudaLike) -> None:
    plan.refused = {"y"}
    with pytest.raises(EngineError, match="takes no address for tensor `y`"):
        opened(plan, device).bind(buffers(device))
    plan.refused, plan.open_shapes = set(), ["x"]
    with pytest.raises(EngineError, match="leaves x open"):
        opened(plan, device).bind(buffers(device))


def test_a_plan_that_the_library_refuses_is_explained(device: CudaLike) -> None:
    with pytest.raises(EngineError, match="another version of the library") as caught:
        opened(None, device)
    assert "edgetalker build" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"inputs": {"x": Y}}, "input `x` is float32"),
        ({"outputs": {}}, "output `y` is float16"),
    ],
)
def test_a_border_that_is_not_the_manifest_s_is_refused(
    plan: Engine, device: CudaLike, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(EngineError, match=part):
        opened(plan, device, **changes)


@pytest.mark.parametrize("odd", [(DataType.FP8, (1, 8)), (DataType.FLOAT, (-1, 8))], ids=["type", "free size"])
def test_a_tensor_that_no_buffer_can_hold_is_refused(device: CudaLike, odd: tuple[DataType, tuple[int, ...]]) -> None:
    plan = Engine({**BORDER, "x": (TensorIOMode.INPUT, *odd)})
    with pytest.raises(EngineError, match="tensor `x` is"):
        opened(plan, device)


def test_plans_that_want_more_streams_are_refused(plan: Engine, device: CudaLike) -> None:
    plan.num_aux_streams = 2
    with pytest.raises(EngineError, match="more streams than one"):
        opened(plan, device)


def test_plans_do_not_run_on_the_host_or_on_the_default_stream(plan: Engine, device: CudaLike) -> None:
    with pytest.raises(EngineError, match="plans run on a GPU"):
        opened(plan, HostDevice())
    device.stream = 0
    with pytest.raises(EngineError, match="default stream"):
        opened(plan, device)


def test_without_a_driver_no_runtime_is_ever_made(
    plan: Engine, device: CudaLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: NoGpu("there is no NVIDIA driver"))
    module = module_with(plan)
    module.Runtime = None  # calling it would raise TypeError
    with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
        TensorRTEngine("stage", Api("tensorrt", module), b"", device, {"x": X}, {"y": Y})


class FakeCache:
    """TensorRT-RTX's cache object: takes one blob, grows when kernels are compiled."""

    def __init__(self, accepts: bytes) -> None:
        self.accepts, self.held = accepts, b""

    def deserialize(self, blob: bytes) -> bool:
        self.held = blob if blob == self.accepts else b""
        return bool(self.held)

    def serialize(self) -> bytes:
        return self.held or b"compiled"


def config_with(cache: FakeCache) -> Any:
    return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=lambda given: given is cache)


def test_compiled_kernels_are_kept_and_loaded(tmp_path: Path) -> None:
    cache = RuntimeCache(tmp_path / "new" / "stage.cache")
    cache.attach(config_with(FakeCache(b"")))
    cache.save()
    assert cache.path.read_bytes() == b"compiled"
    later = RuntimeCache(cache.path)
    later.attach(config_with(FakeCache(b"compiled")))
    before = cache.path.stat().st_mtime_ns
    later.save()
    assert not later.rejected
    assert cache.path.stat().st_mtime_ns == before


def test_a_rejected_cache_is_deleted_and_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "stage.cache"
    path.write_bytes(b"from another driver")
    cache = RuntimeCache(path)
    cache.attach(config_with(FakeCache(b"")))
    assert cache.rejected
    assert not path.exists()
    cache.save()
    assert path.read_bytes() == b"compiled"


def test_a_cache_is_named_after_gpu_and_driver_and_moves_out_of_read_only_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plans" / "rtx-1.7" / "sm86" / "fp16" / "decode.plan"
    plan.parent.mkdir(parents=True)
    assert runtime_cache_path(plan, GPU, tmp_path / "user") == plan.parent / "decode.Test_GPU_13_0.cache"
    refuse_folders(plan.parent, monkeypatch)
    moved = runtime_cache_path(plan, GPU, tmp_path / "user")
    assert moved == tmp_path / "user" / "rtx-1.7" / "sm86" / "fp16" / "decode.Test_GPU_13_0.cache"
