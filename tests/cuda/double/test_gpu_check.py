"""What `make gpu-check` does when a check destroys the context."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.gpu.device_checks import shifts_are_the_hosts
from benchmarks.gpu.results import attempt, environment
from benchmarks.gpu.setting import Setting
from tests.cuda.double.control import Double, start_over


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting({}, tmp_path)


@pytest.mark.parametrize("sticky", [True, False])
def test_a_lost_gpu_is_named_and_the_rest_is_not_run(double: Double, setting: Setting, sticky: bool) -> None:
    def check() -> Mapping[str, Any]:
        return shifts_are_the_hosts(setting)

    assert attempt(setting, "first", check).status == "passed"
    double.fail("cuGraphLaunch", code=700 if sticky else 1, sticky=sticky)
    failed = attempt(setting, "second", check)
    assert failed.status == "failed", failed
    third = attempt(setting, "third", check)
    assert (third.status, third.reason) == (("not run", "the GPU was lost in `second`") if sticky else ("passed", ""))
    gc.collect()  # what the failed check held
    if sticky:
        start_over(double)


def test_a_gpu_that_another_process_has_for_itself_is_told_of(double: Double, setting: Setting) -> None:
    double.fail("cuDevicePrimaryCtxRetain", code=46)
    where = environment(setting)
    assert where["gpu"] == "Driver Double 0"
    assert "it cannot be opened" in where["device"]
    again = environment(setting)
    assert again["gpu"] == where["gpu"]
    assert "cannot be opened" not in again["device"]
