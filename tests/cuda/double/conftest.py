"""Fixtures of the tests that run on the driver double. `tests/cuda/test_on_double.py` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

collect_ignore_glob: list[str] = []
if not os.environ.get("EDGETALKER_TEST_DRIVER"):
    collect_ignore_glob = ["test_*.py"]  # without the double these would run on a real GPU or on nothing
else:
    from edgetalker.engines.cuda import CudaDevice
    from edgetalker.engines.cuda.driver import Driver
    from edgetalker.engines.cuda.with_pycuda import PycudaDriver
    from tests.cuda.double.control import Double

    @pytest.fixture(scope="session")
    def driver_kind() -> type[Driver]:
        """The table of calls under test: with pycuda, or cuda-bindings alone."""
        return {"pycuda": PycudaDriver, "bindings": Driver}[os.environ["EDGETALKER_TEST_DRIVER"]]

    @pytest.fixture
    def double() -> Iterator[Double]:
        """The double, fresh; afterwards nothing may live and nothing may have been violated."""
        double = Double()
        double.restart()
        before = double.live()
        yield double
        assert double.live() == before
        assert double.violations() == (0, "")

    @pytest.fixture
    def open_device(double: Double, driver_kind: type[Driver]) -> Iterator[Callable[..., CudaDevice]]:
        """Return a function that opens devices, which are closed in the end."""
        opened: list[CudaDevice] = []

        def make(**options: Any) -> CudaDevice:
            opened.append(CudaDevice(driver=driver_kind(), **options))
            return opened[-1]

        yield make
        for device in reversed(opened):
            device.close()

    @pytest.fixture
    def device(open_device: Callable[..., CudaDevice]) -> CudaDevice:
        """A device with poison."""
        return open_device(poison=True)
