"""PyTorch's own allocator, pools, streams and captures with ours. Kernels do nothing: no value or time is looked at."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.torch import TorchPool, torch_engines
from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker
from edgetalker.serve.lockstep import lockstep
from tests.cuda.double.control import Double
from tests.cuda.torch_on_double.conftest import TINY

ROOT = Path(__file__).parents[3]
Open = Callable[..., Talker]


def step(talker: Talker, frames: int = 2) -> np.ndarray:
    """Make some frames and return the last one's motion."""
    sound = None if talker.audio is None else np.full(talker.audio.shape, 0.1, np.float32)
    made = [talker.make(window=sound) for _ in range(frames)]
    return made[-1].motion


def test_this_is_pytorch_for_cuda_on_the_double(double: Double) -> None:
    assert torch.version.cuda is not None
    assert torch.cuda.get_device_name(0) == "Runtime Double"
    assert torch.cuda.device_count() == 2


@pytest.mark.parametrize("graphs", ["step", "frame", "eager"])
def test_a_frame_allocates_nothing_and_captures_nothing(open_tiny: Open, double: Double, graphs: str) -> None:
    talker = open_tiny(graphs=graphs)
    step(talker, 3)
    before, addresses = double.live(), dict(talker.addresses())
    double.clear_log()
    step(talker, 20)
    calls = Counter(double.entries())
    assert not [
        entry for entry in calls if "Alloc" in entry or "Capture" in entry or "Create" in entry or "Free" in entry
    ]
    assert double.live() == before
    assert dict(talker.addresses()) == addresses
    if graphs == "frame":
        assert calls["cuStreamSynchronize"] == 20
        assert 20 <= calls["cuGraphLaunch"] < 30  # one a frame, and one when its group is due
        assert not [entry for entry in calls if "Memcpy" in entry]  # upload and download are nodes
        assert calls["cuLaunchHostFunc"] == 0  # no kernel outside the graph


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_sessions_are_closed_in_any_order(open_tiny: Open, order: tuple[int, ...]) -> None:
    sessions = {number: open_tiny(graphs="frame") for number in range(3)}
    for number in order:
        sessions.pop(number).close()
        for talker in sessions.values():
            step(talker)


def test_a_session_is_stepped_by_another_thread_than_the_one_that_opened_it(open_tiny: Open) -> None:
    talker = open_tiny()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            step(talker, 5)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed, failed
    step(talker)


def test_the_second_gpu_runs_pytorchs_engines(open_tiny: Open, double: Double) -> None:
    first, second = open_tiny(), open_tiny(gpu=1)
    for talker in (first, second, first, second):
        step(talker)
    second.close()
    step(first)
    pool = TorchPool(CudaDevice(1))
    with pool.entered():
        assert torch.empty(8, device=pool.where).device.index == 1
    with pool.entered():
        assert torch.empty(8, device=pool.where).device.index == 1


def test_sessions_that_are_opened_and_closed_lose_no_memory(open_tiny: Open, double: Double) -> None:
    """PyTorch keeps a cuBLAS workspace for each stream that it ever saw."""
    used = []
    for _ in range(6):
        talker = Talker(TINY, device="cuda", engine="torch")
        step(talker)
        talker.close()
        del talker
        gc.collect()
        used.append(double.count("bytes"))
    assert max(used[1:]) - used[0] < 16 << 20  # it would be 32 MiB each time


def test_a_frame_keeps_its_motion_after_the_session_was_closed(open_tiny: Open, double: Double) -> None:
    talker = open_tiny()
    motion = step(talker)
    before = motion.copy()
    talker.close()
    del talker
    np.testing.assert_array_equal(motion, before)


def test_pytorch_looks_at_our_memory_where_it_lies(double: Double) -> None:
    for ordinal in (0, 1):
        device = CudaDevice(ordinal)
        buffer = device.allocate("motion", TensorSpec("float32", (2, 52)))
        for tensor in (torch.as_tensor(buffer, device=f"cuda:{ordinal}"), torch.utils.dlpack.from_dlpack(buffer)):
            assert tensor.data_ptr() == buffer.address
            assert tensor.device.index == ordinal
            assert tensor.shape == (2, 52)
        del tensor
        device.close()


def test_a_stream_of_pytorch_is_worked_on(double: Double) -> None:
    with torch.cuda.device(0):
        stream: Any = getattr(torch.cuda, "Stream")()  # noqa: B009 - untyped
    device = CudaDevice(stream=stream)
    assert device.stream == stream.cuda_stream
    bundle = Bundle.open(TINY)
    talker = Model(bundle, engines=torch_engines(bundle, device), device=device).talker()
    step(talker)
    talker.close()
    stream.synchronize()


def test_many_talkers_in_lock_step(double: Double) -> None:
    device = CudaDevice()
    many, engines = lockstep(Bundle.open(ROOT / "edgetalker" / "bundles" / "talker"), 4, device)
    talker = Model(many, engines=engines, device=device).talker()
    assert step(talker).shape[0] == 4
    talker.close()


FIRST = """
import gc, sys, torch
torch.backends.cudnn.enabled = False
from tests.cuda.torch_on_double.conftest import TINY, Talker
from edgetalker.engines.cuda import CudaDevice
import numpy as np
CudaDevice().close()                 # before PyTorch has touched CUDA
for _ in range(2):
    talker = Talker(TINY, device="cuda", engine="torch")
    talker.make(window=None if talker.audio is None else np.zeros(talker.audio.shape, np.float32))
    talker.close()
torch.ones(4, device="cuda")
torch.cuda.synchronize()
print("fine")
"""


def test_a_device_that_is_opened_and_closed_before_pytorch_starts_takes_nothing_away() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr


@pytest.mark.parametrize("word", ["device: memory", "device: capture", "frames: step", "frames: nothing"])
def test_the_checks_of_a_real_gpu_pass(word: str, tmp_path: Path) -> None:
    """The real gpu_check, not its dry run."""
    code = (
        "import sys, torch; torch.backends.cudnn.enabled = False\n"
        "from tests.cuda.double.control import Double; d = Double(); d.set('log', 0); d.set('total_memory', 64 << 30)\n"
        "import benchmarks.gpu_check as check\n"
        f"sys.argv = ['gpu_check.py', '--only', {word!r}, '--quick', '--out', {str(tmp_path)!r}]\n"
        "code = check.main(); assert d.violations() == (0, ''), d.violations(); sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
