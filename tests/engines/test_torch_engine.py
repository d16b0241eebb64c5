"""Whole bundles with PyTorch's engine on the host: the same frames as with ONNX Runtime."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.ort import OrtEngine
from edgetalker.runtime.model import Model
from tests.support.toy import toy_bundle

torch = pytest.importorskip("torch")
from edgetalker.engines.torch import TorchEngine, TorchPool  # noqa: E402

TINY = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"


def play(bundle: Bundle, engine: str, frames: int) -> np.ndarray:
    device = HostDevice(poison=True)
    pool = TorchPool(device)
    engines = {
        name: TorchEngine.from_onnx(name, bundle.onnx(name), pool, stage.inputs, stage.outputs)
        if engine == "torch"
        else OrtEngine(name, bundle.onnx(name), stage.inputs, stage.outputs)
        for name, stage in bundle.manifest.stages.items()
    }
    session = Model(bundle, engines=engines, device=device).talker(seed=4)
    rng = np.random.default_rng(0)
    assert session.audio is not None
    sound = (0.1 * rng.standard_normal((frames, *session.audio.shape))).astype(np.float32)
    return np.stack([session.make(window=window).motion.copy() for window in sound])


@pytest.mark.parametrize("which", ["toy", "tiny_voca"])
def test_frames_are_onnx_runtimes_frames(tmp_path: Path, which: str) -> None:
    bundle = toy_bundle(tmp_path / "toy") if which == "toy" else Bundle.open(TINY)
    wanted = play(bundle, "ort", 6)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(play(bundle, "torch", 6), wanted, atol=1e-4)


def test_a_border_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy")
    stage = bundle.manifest.stages["decode"]
    wrong = {**stage.inputs, "x": TensorSpec("float32", (1, 5))}
    with pytest.raises(EngineError, match=r"input `x` is float32\[1,4\] in the network"):
        TorchEngine.from_onnx("decode", bundle.onnx("decode"), TorchPool(HostDevice()), wrong, stage.outputs)


def test_another_device_is_refused(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy")
    stage = bundle.manifest.stages["decode"]
    device = HostDevice()
    engine = TorchEngine.from_onnx("decode", bundle.onnx("decode"), TorchPool(device), stage.inputs, stage.outputs)
    specs = {**stage.inputs, **stage.outputs}
    binding = engine.bind({name: device.allocate(name, spec) for name, spec in specs.items()})
    with pytest.raises(EngineError, match="another device"):
        binding.enqueue(HostDevice())
    with pytest.raises(EngineError, match="`x` has no buffer"):
        engine.bind({})


def test_a_gpu_that_pytorch_cannot_use_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("this PyTorch has a GPU")

    class Gpu(HostDevice):
        kind = "cuda"

    with pytest.raises(EngineError, match="cannot use the GPU"):
        TorchPool(Gpu())


def test_a_pytorch_without_kernels_for_the_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels for a desktop on a Jetson: `is_available()` is true, and the first kernel fails."""

    class Gpu(HostDevice):
        kind = "cuda"

    def no_kernel(*size: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda where: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(EngineError, match="failed on cuda:0: CUDA error: no kernel image") as caught:
        TorchPool(Gpu())
    assert caught.value.message.endswith("on the device"), "one line of it"
    assert caught.value.hint is not None and "sm_80, sm_90" in caught.value.hint


@pytest.mark.parametrize("missing", ["MemPool", "use_mem_pool"])
def test_a_pytorch_with_half_of_the_memory_pools_is_told(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's builds of 2.5.0a0 were cut before both were there."""

    class Gpu(HostDevice):
        kind = "cuda"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(torch.cuda, missing)
    with pytest.raises(EngineError, match="has no memory pools") as caught:
        TorchPool(Gpu())
    assert "2.5.0 final or newer" in str(caught.value.hint)


@pytest.mark.parametrize("full", [True, False])
def test_what_pytorch_raises_is_an_error_of_ours(full: bool) -> None:
    def refuse(*given: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.") if full else RuntimeError("illegal address\nmore")

    device, stage = HostDevice(), Bundle.open(TINY).manifest.stages["decode"]
    engine = TorchEngine("decode", refuse, TorchPool(device), stage.inputs, stage.outputs)
    specs = {**stage.inputs, **stage.outputs}
    binding = engine.bind({name: device.allocate(name, spec) for name, spec in specs.items()})
    with pytest.raises(EngineError, match="the memory of cpu is full" if full else "illegal address$"):
        binding.enqueue(device)


def test_before_pytorch_2_9_the_older_switch_keeps_products_out_of_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetPack 6 has such a PyTorch: no `fp32_precision`, where to ask for it is an AttributeError."""
    from edgetalker.engines.torch.engine import _full_precision  # entered on a GPU alone

    products, convolutions = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    monkeypatch.setattr(torch.backends, "cudnn", convolutions)
    with _full_precision():
        assert (products.allow_tf32, convolutions.allow_tf32) == (False, False)
    assert (products.allow_tf32, convolutions.allow_tf32) == (True, False)
    assert not hasattr(products, "fp32_precision")


def test_from_pytorch_2_9_on_full_precision_is_asked_for_and_given_back() -> None:
    from edgetalker.engines.torch.engine import _full_precision

    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip(f"PyTorch {torch.__version__} is older than 2.9")
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [setting.fp32_precision for setting in settings]
    with _full_precision():
        assert [setting.fp32_precision for setting in settings] == ["ieee", "ieee"]
    assert [setting.fp32_precision for setting in settings] == before
