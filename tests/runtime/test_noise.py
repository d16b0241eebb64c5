"""Noise is a function of its keys, not of the order in which it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.inputs import CounterNoise, NormalNoise


def values(noise: NormalNoise, frame: int, size: int = 64) -> list[float]:
    into = np.empty(size, np.float32)
    noise.fill(frame, into)
    return [float(value) for value in into]


@given(order=st.permutations(range(6)), size=st.integers(1, 300))
def test_any_order_gives_the_same_noise(order: list[int], size: int) -> None:
    noise = NormalNoise(7, 3)
    assert {frame: values(noise, frame, size) for frame in order} == {
        frame: values(NormalNoise(7, 3), frame, size) for frame in range(6)
    }


def test_keys_do_not_overlap() -> None:
    rows = [values(NormalNoise(*key), frame) for key in ((0, 0), (0, 1), (1, 0), (0, 0, 1)) for frame in (0, 1, 2**40)]
    assert len({tuple(row) for row in rows}) == len(rows)


def test_it_is_standard_normal() -> None:
    drawn = np.array([values(NormalNoise(5), frame, 100) for frame in range(1000)])
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1.0) < 0.01
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01


def test_the_numbers_stay_the_same_for_ever() -> None:
    """A recorded run must be repeatable with the next version: these are this format's first numbers."""
    assert values(NormalNoise(0, 0), 0, 3) == pytest.approx(GOLDEN, abs=1e-6)


GOLDEN = [0.05991104, 0.01555963, -1.16443849]


@pytest.mark.parametrize("keys", [(-1,), (0, -1), (2**64,)])
def test_keys_out_of_range_are_refused(keys: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="was wanted"):
        NormalNoise(*keys)


def test_a_tensor_of_one_axis_has_a_value_a_talker() -> None:
    into = np.zeros(2, np.float32)
    CounterNoise(["noise"], 7, 3, 2)("noise", 4, into)
    assert [*values(NormalNoise(7, 3), 4, 1), *values(NormalNoise(7, 4), 4, 1)] == into.tolist()
