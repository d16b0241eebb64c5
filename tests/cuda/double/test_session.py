"""The runtime's own session on the CUDA device: same frames as on the host, nothing allocated or captured later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.runtime.open import open_session
from edgetalker.runtime.session import Granularity, Session
from tests.cuda.double.control import Double, start_over
from tests.cuda.double.hostwork import host_engines
from tests.support.toy import toy_bundle

FRAMES = 12


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy")


@pytest.fixture
def play(bundle: Bundle, double: Double, open_device: Callable[..., CudaDevice]) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def make(**options: object) -> Session:
        device = open_device(poison=True)
        opened.append(Session(bundle, host_engines(bundle, device, double), device, **options))
        return opened[-1]

    yield make
    while opened:
        opened.pop().close()


def frames(session: Session, schedules: tuple[str, ...] = ("full", "one")) -> np.ndarray:
    rng = np.random.default_rng(3)
    made = []
    for index in range(FRAMES):
        assert session.audio is not None
        window = rng.standard_normal(session.audio.shape).astype(np.float32)
        if index == 5:
            session.skip()
            continue
        made.append(session.step(window, schedule=schedules[index % len(schedules)]).motion.copy())
    return np.stack(made)


@pytest.mark.parametrize("graphs", ["step", "frame", "eager"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"at_once": 1}, {"integrated": 1}, {"integrated": 1, "unified": 1}],
    ids=lambda kind: "+".join(kind),
)
def test_frames_are_the_hosts_frames(
    bundle: Bundle, play: Callable[..., Session], double: Double, graphs: Granularity, settings: dict[str, int]
) -> None:
    for name, value in settings.items():
        double.set(name, value)
    session = play(graphs=graphs)
    with_host = open_session(bundle, poison=True)
    expected = frames(with_host)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(frames(session), expected)
    session.reset()
    np.testing.assert_array_equal(frames(session), expected)


def test_nothing_is_made_after_start(play: Callable[..., Session], double: Double) -> None:
    session = play(timings=True)
    frames(session)
    addresses, memory = dict(session.addresses()), session.device.memory()  # type: ignore[attr-defined]
    live = double.live()
    double.clear_log()
    for _ in range(20):
        frames(session)
        session.reset()
    assert dict(session.addresses()) == addresses
    assert session.device.memory() == memory  # type: ignore[attr-defined]
    assert double.live() == live
    made = [entry for entry in double.entries() if "Alloc" in entry or "Capture" in entry or "Create" in entry]
    assert not made


def test_a_frame_is_one_launch_and_one_wait(play: Callable[..., Session], double: Double) -> None:
    session = play(graphs="frame")
    session.step(np.zeros(1600, np.float32))
    double.clear_log()
    session.step(np.zeros(1600, np.float32))
    assert Counter(double.entries()) == {
        "cuCtxGetCurrent": 2,
        "cuGraphLaunch": 1,
        "cuStreamSynchronize": 1,
    }


def test_each_step_has_its_device_time(play: Callable[..., Session]) -> None:
    session = play(timings=True)
    session.step(np.zeros(1600, np.float32))
    assert len(session.durations()) == len(session.labels()) > 5
    assert all(duration > 0 for duration in session.durations())


def test_a_lost_gpu_ends_the_session(play: Callable[..., Session], double: Double) -> None:
    session = play()
    double.fail("execute", nth=4, code=700)
    with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.step(np.zeros(1600, np.float32))
    with pytest.raises(CudaError):
        session.step(np.zeros(1600, np.float32))
    session.close()
    start_over(double)
