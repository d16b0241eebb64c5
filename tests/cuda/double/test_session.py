"""The runtime's own talker on the CUDA device: same frames as on the host, nothing allocated or captured later."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.errors import OptionError
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.model import Model
from edgetalker.runtime.program import Granularity
from edgetalker.runtime.talker import Talker
from tests.cuda.double.control import Double, start_over
from tests.cuda.double.hostwork import host_engines
from tests.support.chunk import chunk_bundle
from tests.support.toy import toy_bundle

FRAMES = 12
SILENCE = np.zeros(1600, np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy")


@pytest.fixture
def play(bundle: Bundle, double: Double, open_device: Callable[..., CudaDevice]) -> Iterator[Callable[..., Talker]]:
    opened: list[Talker] = []

    def make(**options: object) -> Talker:
        device = open_device(poison=True)
        model = Model(bundle, engines=host_engines(bundle, device, double), device=device)
        opened.append(model.talker(**options))
        return opened[-1]

    yield make
    while opened:
        opened.pop().close()


def frames(talker: Talker, schedules: tuple[str, ...] = ("full", "one")) -> np.ndarray:
    rng = np.random.default_rng(3)
    made = []
    for index in range(FRAMES):
        assert talker.audio is not None
        window = rng.standard_normal(talker.audio.shape).astype(np.float32)
        if index == 5:
            talker.skip()
            continue
        made.append(talker.make(schedules[index % len(schedules)], window=window).motion.copy())
    return np.stack(made)


KINDS = pytest.mark.parametrize(
    "settings",
    [{}, {"at_once": 1}, {"integrated": 1}, {"integrated": 1, "unified": 1}],
    ids=lambda kind: "+".join(kind),
)


@pytest.mark.parametrize("graphs", ["step", "frame", "eager"])
@KINDS
def test_frames_are_the_hosts_frames(
    bundle: Bundle, play: Callable[..., Talker], double: Double, graphs: Granularity, settings: dict[str, int]
) -> None:
    for name, value in settings.items():
        double.set(name, value)
    talker = play(graphs=graphs, seed=0)  # with a seed every utterance has the same noise
    with_host = Talker(bundle, poison=True, seed=0)
    expected = frames(with_host)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(frames(talker), expected)
    talker.reset()
    np.testing.assert_array_equal(frames(talker), expected)


def test_nothing_is_made_after_start(play: Callable[..., Talker], double: Double) -> None:
    talker = play(timings=True)
    frames(talker)
    addresses, memory = dict(talker.addresses()), talker.device.memory()  # type: ignore[attr-defined]
    live = double.live()
    double.clear_log()
    for _ in range(20):
        frames(talker)
        talker.reset()
    assert dict(talker.addresses()) == addresses
    assert talker.device.memory() == memory  # type: ignore[attr-defined]
    assert double.live() == live
    made = [entry for entry in double.entries() if "Alloc" in entry or "Capture" in entry or "Create" in entry]
    assert not made


def test_a_frame_is_one_launch_and_one_wait(play: Callable[..., Talker], double: Double) -> None:
    talker = play(graphs="frame")
    talker.make(window=SILENCE)
    double.clear_log()
    talker.make(window=SILENCE)
    assert Counter(double.entries()) == {
        "cuCtxGetCurrent": 2,
        "cuGraphLaunch": 1,
        "cuStreamSynchronize": 1,
    }


@pytest.mark.parametrize("integrated", [0, 1])
def test_a_skipped_frame_is_waited_for_where_host_and_gpu_share_memory(
    play: Callable[..., Talker], double: Double, integrated: int
) -> None:
    double.set("integrated", integrated)
    talker = play()
    talker.make(window=SILENCE)
    double.clear_log()
    talker.skip()
    assert double.entries().count("cuGraphLaunch") == 1
    assert double.entries().count("cuStreamSynchronize") == integrated


def test_each_step_has_its_device_time(play: Callable[..., Talker]) -> None:
    talker = play(timings=True)
    talker.make(window=SILENCE)
    assert len(talker.durations()) == len(talker.labels()) > 5
    assert all(duration > 0 for duration in talker.durations())


@pytest.mark.parametrize("order", list(itertools.permutations(["first", "second", "model"])), ids="-".join)
def test_talkers_of_one_model_end_in_any_order(
    bundle: Bundle, open_device: Callable[..., CudaDevice], double: Double, order: tuple[str, ...]
) -> None:
    device = open_device(poison=True)
    with Model(bundle, engines=host_engines(bundle, device, double), device=device) as warm:
        warm.talker().close()
    del warm
    gc.collect()
    empty = double.live()  # the device keeps its scratch memory for shifts
    model = Model(bundle, engines=host_engines(bundle, device, double), device=device)
    talkers = {"first": model.talker(), "second": model.talker(seed=1)}
    for name in order[: order.index("model")]:
        talkers.pop(name).close()  # with its last reference its memory and graphs go
        assert all(np.isfinite(other.make(window=SILENCE).motion).all() for other in talkers.values())
    model.close()
    for name in order[order.index("model") + 1 :]:
        with pytest.raises(OptionError, match="model is closed"):
            talkers[name].make(window=SILENCE)
        talkers.pop(name).close()
    del model
    gc.collect()
    assert double.live() == empty


def test_a_lost_gpu_ends_the_session(play: Callable[..., Talker], double: Double) -> None:
    talker = play()
    double.fail("execute", nth=4, code=700)
    with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        talker.make(window=SILENCE)
    with pytest.raises(CudaError):
        talker.make(window=SILENCE)
    talker.device.close()
    start_over(double)


def spread_frames(talker: Talker) -> np.ndarray:
    """Frames as the loop plays them: a block's sound is there early, and its work is done after frames."""
    rehearse(talker)
    sound = np.linspace(0, 1, 40 * 534, dtype=np.float32)
    made = []
    for _ in range(20):
        end = max(talker.next_block_needs, talker.needs)
        talker.take(sound[talker.window.total : end])
        made.append(talker.make().motion.copy())
        talker.work()
    return np.stack(made)


@pytest.mark.parametrize("graphs", ["step", "frame", "eager"])
@KINDS
def test_a_spread_block_hears_what_was_there_when_it_was_begun(
    tmp_path: Path,
    double: Double,
    open_device: Callable[..., CudaDevice],
    graphs: Granularity,
    settings: dict[str, int],
) -> None:
    for name, value in settings.items():
        double.set(name, value)
    bundle = chunk_bundle(tmp_path / "chunk", block=5, spread=3, scales=2, frames_hear=True)
    device = open_device(poison=True)
    model = Model(bundle, engines=host_engines(bundle, device, double), device=device)
    with model.talker(seed=0, graphs=graphs) as talker, Talker(bundle, poison=True, seed=0) as with_host:
        np.testing.assert_array_equal(spread_frames(talker), spread_frames(with_host))
