"""Whole frames: equal to the host's, equal whatever the graphs, and nothing made after start."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.setting import NotRunError, Setting
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Engine, TensorSpec
from edgetalker.engines.host import HostDevice
from edgetalker.engines.torch import torch_engines
from edgetalker.runtime.talker import Talker

__all__ = [
    "frames_are_the_hosts",
    "graphs_change_no_frame",
    "nothing_is_made_after_start",
    "reopening_loses_no_memory",
    "sound_for",
    "talkers_end_in_any_order",
    "worst",
]

Figures = dict[str, Any]
_COMPARED = (("tiny_voca", 40, 1e-4), ("talker", 60, 1e-4), ("published", 8, 1e-3))
"""Bundle, frames, and what is allowed of float32 frames, relative to the largest motion value: matrices are summed in
another order. Random weights of published size pass rounding on from frame to frame (two CPU engines differ by up to
8e-5 after a few), so they are allowed more."""
_REOPENED = 2 << 20
"""Bytes by which what PyTorch's allocator holds may differ between the second and the sixth opening: one block of its
own. The first opening leaves what stays for the process, such as cuBLAS's workspaces."""


def sound_for(talker: Talker, frames: int) -> list[NDArray[np.float32] | None]:
    """Return noise at speech level for some frames."""
    if talker.audio is None:
        return [None] * frames
    random = np.random.default_rng(7)
    shape = talker.audio.shape
    return [(0.1 * random.standard_normal(shape)).astype(np.float32) for _ in range(frames)]


def motions(talker: Talker, frames: int) -> NDArray[np.float32]:
    """Return some frames' motion, the schedules taken in turn."""
    names = talker.schedules
    sound = sound_for(talker, frames)
    made = [talker.make(names[i % len(names)], window=sound[i]).motion.copy() for i in range(frames)]
    return np.stack(made)


def worst(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the largest difference relative to the largest value."""
    assert np.isfinite(found).all(), "NaN or Inf: something was read before it was written"
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def host_engines(bundle: Bundle, device: HostDevice) -> Mapping[str, Engine]:
    """Return ONNX Runtime's engines where it is installed, else PyTorch's on the CPU."""
    try:
        from edgetalker.engines.ort import OrtEngine

        return {
            name: OrtEngine(name, bundle.onnx(name), stage.inputs, stage.outputs, threads=8)
            for name, stage in bundle.manifest.stages.items()
        }
    except ImportError:
        return torch_engines(bundle, device)
    except Exception as error:  # MissingPackageError, and a runtime too old for the file
        if "onnxruntime" not in str(error).lower():
            raise
        return torch_engines(bundle, device)


def frames_are_the_hosts(setting: Setting) -> Figures:
    """The device against the host on the same sound and the same noise, float32."""
    found: Figures = {}
    for name, frames, allowed in _COMPARED:
        try:
            bundle = setting.bundle(name)
        except NotRunError as reason:
            found[name] = f"not run: {reason}"
            continue
        frames = setting.count(frames, least=3)
        host = HostDevice()
        reference = setting.talker(bundle, host, engines=host_engines(bundle, host))
        talker = setting.talker(bundle, poison=True)
        error = worst(motions(talker, frames), motions(reference, frames))
        found[f"{name}, worst relative error"] = error
        talker.close()
        reference.close()
        assert error <= allowed, f"{name}: {error:.2e} where {allowed:.0e} is allowed"
    return found


def graphs_change_no_frame(setting: Setting) -> Figures:
    """A graph a step, a graph a frame and no graph give the same bits, also after a reset."""
    found: Figures = {}
    for name in ("tiny_voca", "talker", "published"):
        if name not in setting.bundles:
            continue
        bundle = setting.bundle(name)
        frames = setting.count(20, least=4)
        wanted = None
        for graphs in ("step", "frame", "eager"):
            talker = setting.talker(bundle, graphs=graphs)
            made = motions(talker, frames)
            talker.reset()
            np.testing.assert_array_equal(motions(talker, frames), made, err_msg=f"{name}, {graphs}: after a reset")
            if wanted is not None:
                np.testing.assert_array_equal(made, wanted, err_msg=f"{name}: {graphs} against step")
            wanted = made
            talker.close()
        found[name] = f"{frames} frames equal bit for bit"
    return found


def nothing_is_made_after_start(setting: Setting) -> Figures:
    """Addresses and the memory that this process holds stay as they are over 10,000 frames and some resets."""
    found: Figures = {}
    for name, frames in (("talker", 10_000), ("tiny_voca", 10_000), ("published", 2_000)):
        if name not in setting.bundles:
            continue
        talker = setting.talker(setting.bundle(name))
        frames = setting.count(frames, least=20)
        sound = sound_for(talker, 1)[0]
        talker.make(window=sound)
        addresses, before = dict(talker.addresses()), held(talker)
        for count in range(frames):
            talker.make(window=sound)
            if count % 997 == 996:
                talker.reset()
        assert dict(talker.addresses()) == addresses, f"{name}: a buffer moved"
        assert held(talker) == before, f"{name}: the memory held went from {before} to {held(talker)} bytes"
        found[name] = f"{frames} frames, {len(addresses)} addresses, the same before and after: {before}"
        talker.close()
    return found


def held(talker: Talker) -> dict[str, int]:
    """Return the bytes that our device and PyTorch's allocator hold. The GPU's free memory is other programs' too."""
    found = {"host device" if talker.device.kind == "host" else "device": int(getattr(talker.device, "allocated", 0))}
    if talker.device.kind == "cuda":
        import torch

        found["PyTorch, reserved"] = int(torch.cuda.memory_reserved())
    return found


def talkers_end_in_any_order(setting: Setting) -> Figures:
    """Three talkers of devices of their own; the first that was opened is closed first; one is stepped by a thread."""
    bundle = setting.bundle("tiny_voca")
    talkers = [setting.talker(bundle) for _ in range(3)]
    wanted = [motions(talker, 3) for talker in talkers]
    talkers.pop(0).close()
    for talker in talkers:
        talker.reset()
        np.testing.assert_array_equal(motions(talker, 3), wanted[0])
    talkers[0].reset()
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(motions, talkers[0], 3).result(), wanted[0])
    motion = talkers[0].make(window=sound_for(talkers[0], 1)[0]).motion
    copy = motion.copy()
    for talker in talkers:
        talker.close()
    np.testing.assert_array_equal(motion, copy, err_msg="motion that was handed out changed when its talker was closed")
    return {"talkers": 3}


def reopening_loses_no_memory(setting: Setting) -> Figures:
    """What PyTorch's allocator holds after each of some openings of one bundle; a device is forgotten under a capture.

    The GPU's free memory is other programs' too, so it is told and not judged.
    """
    if setting.dry:
        raise NotRunError("needs a GPU")
    import torch

    used, reserved = [], []
    for _ in range(6):
        talker = setting.talker(setting.bundle("tiny_voca"))
        talker.make(window=sound_for(talker, 1)[0])
        facts = talker.device.facts()
        used.append(round((facts["total"] - facts["free"]) / 1e6))
        reserved.append(int(torch.cuda.memory_reserved()))
        talker.close()
        del talker
    figures = {
        "reserved by PyTorch after each opening, MB": [nbytes / 1e6 for nbytes in reserved],
        "used of the GPU after each opening, MB": used,
    }
    assert abs(reserved[5] - reserved[1]) <= _REOPENED, f"openings 2 and 6 hold different memory: {figures}"
    device = setting.device()
    kept = [setting.device()]
    kept[0].allocate("x", TensorSpec("float32", (4,)), staged=True)

    def work() -> None:
        kept.clear()
        gc.collect()

    assert device.capture("while a device is forgotten", work).name
    device.close()
    return figures
