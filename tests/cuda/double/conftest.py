"""Fixtures of the tests that run on the driver double. `tests/cuda/test_on_double.py` starts them."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

collect_ignore_glob: list[str] = []
if not os.environ.get("EDGETALKER_ON_DOUBLE"):
    collect_ignore_glob = ["test_*.py"]  # without the double these would run on a real GPU or on nothing
else:
    from edgetalker.engines.cuda import CudaDevice
    from tests.cuda.double.control import Double, give_spare_streams_back, start_over

    @pytest.fixture
    def double() -> Iterator[Double]:
        """The double, fresh; afterwards nothing may live and nothing may have been violated."""
        double = Double()
        start_over(double)
        double.restart()
        yield double
        give_spare_streams_back()
        if any(double.live().values()):
            gc.collect()  # a cycle may hold the rest; looking for one takes longer than most of these tests
        assert not any(double.live().values()), double.live()
        assert double.violations() == (0, "")

    @pytest.fixture
    def open_device(double: Double) -> Iterator[Callable[..., CudaDevice]]:
        """Return a function that opens devices, which are closed in the end."""
        opened: list[weakref.ref[CudaDevice]] = []

        def make(**options: Any) -> CudaDevice:
            device = CudaDevice(**options)
            opened.append(weakref.ref(device))
            return device

        yield make
        for found in reversed(opened):
            device = found()
            if device is not None:
                device.close()

    @pytest.fixture
    def device(open_device: Callable[..., CudaDevice]) -> CudaDevice:
        """A device with poison."""
        return open_device(poison=True)
