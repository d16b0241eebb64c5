"""A server with TensorRT's plans on the CUDA device: single talkers' frames, and no more contexts than theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice
from edgetalker.runtime.model import Model, find_bundle
from edgetalker.runtime.talker import Talker
from edgetalker.serve.batch import Batch, BatchOptions
from edgetalker.serve.seat import Event, Flush, Reset, Seat, SeatOptions, Sound
from tests.cuda.double.control import Double
from tests.cuda.double.hostwork import host_engines, plan_engines
from tests.plans.runtime_double import GPU
from tests.plans.runtime_double import Engine as Plan
from tests.support.clock import FakeClock
from tests.support.toy import toy_bundle

SECONDS = 0.4
ALONE = {"audio": 1, "condition": 1, "denoise": 10 + 4, "student": 1, "decode": 1}
"""Contexts of one talker of the shipped bundle: one a stage, of `denoise` one for each row of `full` and `fast`."""

Opened = tuple[Batch, dict[str, Plan]]


@pytest.fixture
def shipped() -> Bundle:
    return Bundle.open(find_bundle(None))


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    """A bundle whose audio stage runs once in two frames."""
    return toy_bundle(tmp_path / "toy")


@pytest.fixture
def open_batch(
    double: Double, open_device: Callable[..., CudaDevice], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Opened]]:
    """Return a function that opens a batch on plans, whose ticks the test makes."""
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: GPU)
    opened: list[Batch] = []

    def make(bundle: Bundle, talkers: int, schedule: str | None = None) -> Opened:
        device = open_device(poison=True)
        engines, plans = plan_engines(bundle, device, double)
        model = Model(bundle, engines=engines, device=device)
        opened.append(Batch(model, options=BatchOptions(talkers, schedule=schedule), clock=FakeClock()))
        return opened[-1].open(), plans

    yield make
    while opened:
        batch = opened.pop()
        batch.close()
        batch.model.close()


def contexts(plans: dict[str, Plan]) -> dict[str, int]:
    return {name: len(plan.contexts) for name, plan in plans.items()}


def sound(place: int) -> NDArray[np.int16]:
    random = np.random.default_rng(place)
    return (random.standard_normal(int(16000 * SECONDS)) * 3000).astype(np.int16)


def played(batch: Batch, count: int) -> list[NDArray[np.float32]]:
    """Return the frames of talkers that join one tick after the other; the last one begins anew once, in mid-word."""
    got: list[list[Event]] = []
    seats: list[Seat] = []
    for place in range(count):
        got.append([])
        seats.append(batch.join(got[-1].append, SeatOptions(stream=place, paced=False)))
        seats[-1].send(Sound(sound(place), 16000, 0))
        seats[-1].send(Flush())
        batch.tick()
    for command in (Reset(1), Sound(sound(count - 1), 16000, 0), Flush()):
        seats[-1].send(command)
    while batch.tick():
        pass
    for seat in seats:
        batch.leave(seat)
    frames = [[event for event in events if event.frame is not None] for events in got]
    frames[-1] = [event for event in frames[-1] if event.serial == 1]
    return [np.array([event.frame.motion for event in events if event.frame is not None]) for events in frames]


def alone(bundle: Bundle, place: int) -> NDArray[np.float32]:
    """Return the frames of a talker on the host, which has no plans."""
    with Talker(bundle, stream=place) as talker:
        frames = talker.accept(sound(place)) + talker.flush()
    return np.array([frame.motion for frame in frames])


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_a_server_plays_plans_with_the_contexts_of_its_talkers_alone(
    shipped: Bundle, open_batch: Callable[..., Opened], count: int
) -> None:
    batch, plans = open_batch(shipped, count)
    assert contexts(plans) == {name: count * each for name, each in ALONE.items()}
    assert batch.widths.nbytes == 0
    assert batch.widths.reasons.keys() == ALONE.keys()
    for place, motions in enumerate(played(batch, count)):
        wanted = alone(shipped, place)
        assert len(wanted) == 30 * SECONDS
        np.testing.assert_array_equal(motions, wanted, err_msg=f"talker {place}")
    assert contexts(plans) == {name: count * each for name, each in ALONE.items()}


@pytest.mark.parametrize(
    "settings",
    [{}, {"at_once": 1}, {"integrated": 1}, {"integrated": 1, "unified": 1}],
    ids=lambda kind: "+".join(kind),
)
def test_blocks_that_begin_at_different_times(
    toy: Bundle, open_batch: Callable[..., Opened], double: Double, settings: dict[str, int]
) -> None:
    for name, value in settings.items():
        double.set(name, value)
    batch, _ = open_batch(toy, 3)
    for place, motions in enumerate(played(batch, 3)):
        np.testing.assert_array_equal(motions, alone(toy, place), err_msg=f"talker {place}")


def test_a_tick_is_a_launch_for_each_talker_and_one_wait(
    shipped: Bundle, open_batch: Callable[..., Opened], double: Double
) -> None:
    batch, plans = open_batch(shipped, 3, "one")
    assert contexts(plans) == {"audio": 3, "condition": 3, "denoise": 0, "student": 3, "decode": 3}
    for place in range(3):
        batch.join(lambda event: None, SeatOptions(paced=False)).send(Sound(sound(place), 16000, 0))
    batch.tick()
    double.clear_log()
    batch.tick()
    called = Counter(double.entries())
    del called["cuCtxGetCurrent"]
    assert called == {"cuGraphLaunch": 3, "cuStreamSynchronize": 1}


def test_engines_without_plans_play_the_rows_of_wide_buffers(
    toy: Bundle, open_device: Callable[..., CudaDevice], double: Double
) -> None:
    device = open_device(poison=True)
    with Model(toy, engines=host_engines(toy, device, double), device=device) as model:
        batch = Batch(model, options=BatchOptions(talkers=3), clock=FakeClock()).open()
        assert batch.widths.nbytes > 0
        for place, motions in enumerate(played(batch, 3)):
            np.testing.assert_array_equal(motions, alone(toy, place), err_msg=f"talker {place}")
        batch.close()
