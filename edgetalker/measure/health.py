"""Power, clocks, temperature and throttling of the GPU: from sysfs on a Jetson, from NVML or nvidia-smi elsewhere.

What cannot be read is left out: these figures stand beside a measurement, they never stop one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Health", "read_health", "read_sysfs"]

Health = Mapping[str, Any]
"""Name with its unit -> value, such as `temperature gpu, C` -> 47.5."""

_TEGRA = "etc/nv_tegra_release"
_POLICY = "var/lib/nvpmodel/status"
_NVML_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvmlClocksThrottleReason* of nvml.h; idle and user-set clocks are no fault and are left out."""


def read_health(bus: str | None = None, *, root: Path = Path("/")) -> Health:
    """Return what this machine tells of its GPU. bus: PCI address of the GPU; root: where sysfs is mounted."""
    if (root / _TEGRA).exists():
        return read_sysfs(root)
    return _from_nvml(bus) or _from_smi(bus)


def read_sysfs(root: Path) -> Health:
    """Return a Jetson's temperatures, GPU clock, power rails, power mode and throttle events."""
    return dict(
        item
        for source in (_temperatures, _clocks, _rails, _power_mode, _throttling)
        for item in source(root)
        if item[1] is not None
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path, scale: float) -> float | None:
    text = _text(path)
    try:
        return None if text is None else round(float(text) / scale, 3)
    except ValueError:
        return None


def _temperatures(root: Path) -> Iterator[tuple[str, float | None]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = (_text(zone / "type") or zone.name).removesuffix("-thermal")
        yield f"temperature {name}, C", _number(zone / "temp", 1e3)


def _clocks(root: Path) -> Iterator[tuple[str, float | None]]:
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if any(word in folder.name for word in ("gpu", "ga10b", "gv11b", "gp10b", "gb10b")):
            yield "clock gpu, MHz", _number(folder / "cur_freq", 1e6)
            yield "clock gpu limit, MHz", _number(folder / "max_freq", 1e6)


def _rails(root: Path) -> Iterator[tuple[str, float | None]]:
    """INA3221 monitors: millivolts times milliamperes of each labelled channel."""
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for label in sorted(monitor.glob("in*_label")):
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts = _number(monitor / f"in{channel}_input", 1e3)
            amperes = _number(monitor / f"curr{channel}_input", 1e3)
            if volts is not None and amperes is not None:
                yield f"power {_text(label)}, W", round(volts * amperes, 3)


def _power_mode(root: Path) -> Iterator[tuple[str, str | None]]:
    yield "power mode", _text(root / _POLICY)


def _throttling(root: Path) -> Iterator[tuple[str, float | None]]:
    """Counters of the over-current and over-temperature alarms since boot."""
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for counter in sorted(monitor.glob("oc*_event_cnt")):
            yield f"throttle events {counter.name.removesuffix('_event_cnt')}", _number(counter, 1)


def _from_nvml(bus: str | None) -> Health:
    nvml = _nvml()
    if nvml is None:
        return {}
    try:
        gpu = nvml.nvmlDeviceGetHandleByPciBusId(bus.encode()) if bus else nvml.nvmlDeviceGetHandleByIndex(0)
        return dict(_asked(nvml, gpu))
    except nvml.NVMLError:
        return {}
    finally:
        nvml.nvmlShutdown()


def _nvml() -> Any:
    """Return NVML, initialized, or None: not installed, or no driver."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _asked(nvml: Any, gpu: Any) -> Iterator[tuple[str, Any]]:
    """Ask one by one: a GPU that lacks one sensor has the others."""
    questions: dict[str, Callable[[], Any]] = {
        "temperature gpu, C": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "power, W": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "power limit, W": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3,
        "clock gpu, MHz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "clock gpu limit, MHz": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "clock memory, MHz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "performance state": lambda: f"P{nvml.nvmlDeviceGetPerformanceState(gpu)}",
        "throttling": lambda: _reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
    }
    for name, ask in questions.items():
        try:
            yield name, ask()
        except nvml.NVMLError:
            continue


def _reasons(bits: int) -> str:
    return ", ".join(text for bit, text in _NVML_REASONS.items() if bits & bit) or "none"


_SMI = {
    "temperature.gpu": "temperature gpu, C",
    "power.draw": "power, W",
    "power.limit": "power limit, W",
    "clocks.sm": "clock gpu, MHz",
    "clocks.max.sm": "clock gpu limit, MHz",
    "clocks.mem": "clock memory, MHz",
    "pstate": "performance state",
    "clocks_throttle_reasons.hw_slowdown": "hardware slowdown",
    "clocks_throttle_reasons.sw_thermal_slowdown": "software thermal slowdown",
    "clocks_throttle_reasons.sw_power_cap": "software power cap",
}


def _from_smi(bus: str | None) -> Health:
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*command, *(["-i", bus] if bus else [])], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    return {name: _value(cell) for name, cell in zip(_SMI.values(), cells, strict=False) if not cell.startswith("[")}


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
