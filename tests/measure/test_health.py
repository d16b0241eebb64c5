from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetalker.measure import health

JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
    "var/lib/nvpmodel/status": "pmode:0000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "48500",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "51250",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    "sys/class/devfreq/15340000.vic/cur_freq": "1",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "4960",
    "sys/class/hwmon/hwmon1/curr1_input": "1500",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "3",
    "sys/class/hwmon/hwmon3/in1_label": "broken",
    "sys/class/hwmon/hwmon3/in1_input": "no number",
}


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    for name, text in JETSON.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


def test_a_jetson_tells_through_sysfs(jetson: Path) -> None:
    assert health.read_health(root=jetson) == {
        "temperature cpu, C": 48.5,
        "temperature gpu, C": 51.25,
        "clock gpu, MHz": 612.0,
        "clock gpu limit, MHz": 1020.0,
        "power VDD_IN, W": 7.44,
        "power mode": "pmode:0000",
        "throttle events oc1": 3.0,
    }


class NVMLError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    def missing(*_: Any) -> Any:
        raise NVMLError

    answers = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": lambda bus: bus,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTemperature": lambda gpu, kind: 44,
        "nvmlDeviceGetPowerUsage": lambda gpu: 120_500,
        "nvmlDeviceGetEnforcedPowerLimit": missing,
        "nvmlDeviceGetClockInfo": lambda gpu, kind: 1980 if kind == 1 else 3201,
        "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: 1980,
        "nvmlDeviceGetPerformanceState": lambda gpu: 0,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: 0x4 | 0x40 | 0x1,
    }
    return SimpleNamespace(**{**answers, **changes})


def test_nvml_tells_elsewhere_and_one_missing_sensor_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert health.read_health("0000:01:00.0", root=tmp_path) == {
        "temperature gpu, C": 44,
        "power, W": 120.5,
        "clock gpu, MHz": 1980,
        "clock gpu limit, MHz": 1980,
        "clock memory, MHz": 3201,
        "performance state": "P0",
        "throttling": "software power cap, hardware thermal slowdown",
    }


def test_nvidia_smi_tells_where_nvml_has_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    line = "44, 120.5, 700.00, 1980, 1980, 3201, P0, Not Active, [N/A], Active\n"
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, line, "")

    monkeypatch.setattr(subprocess, "run", run)
    found = health.read_health("0000:01:00.0", root=tmp_path)
    assert commands[0][-2:] == ["-i", "0000:01:00.0"]
    assert found["temperature gpu, C"] == 44.0
    assert found["performance state"] == "P0"
    assert found["software power cap"] == "Active"
    assert "software thermal slowdown" not in found


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=no_driver))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert health.read_health(root=tmp_path) == {}
