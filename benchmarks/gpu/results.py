"""The report of a run: one table for people, JSON and Markdown to keep."""

from __future__ import annotations

import importlib
import json
import platform
import re
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import AT_LEAST, FLOORS, TARGETS
from benchmarks.gpu.setting import NotRunError, Setting
from edgetalker import __version__
from edgetalker.engines.cuda.errors import CudaError
from edgetalker.engines.errors import MissingPackageError
from edgetalker.engines.files import write_whole
from edgetalker.engines.machine import Gpu, probe

__all__ = ["Result", "Run", "attempt", "environment", "verdicts"]

DRY = "host (dry run)"
_WIDTH = 42  # of the longest check's name
_PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "cuda.bindings", "pycuda", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Result:
    """One check. status: `passed`, `failed` or `not run`."""

    name: str
    status: str
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def text(self) -> str:
        """Return what is printed of it: a line, and one for each figure."""
        line = f"{self.name:<{_WIDTH}}  {self.status:<8}{self.seconds:>7.1f} s  {self.reason}".rstrip()
        figures = [f"{'':<{_WIDTH}}    {name}: {_text(value)}" for name, value in self.figures.items()]
        return "\n".join([line, *figures])


def attempt(
    setting: Setting,
    name: str,
    check: Callable[[], Mapping[str, Any]],
    *,
    least: float = 10.0,
    apart: bool = False,
) -> Result:
    """Run one check. Whatever it raises is its result: the others still run, those that can.

    least: the seconds that it may take. apart: it works in processes of its own, so that it runs even where this one
    has lost the GPU.
    """
    begin = time.monotonic()
    if setting.lost and not apart:
        return Result(name, "not run", 0.0, reason=f"the GPU was lost in `{setting.lost}`")
    if setting.left < least:
        return Result(name, "not run", 0.0, reason=f"{setting.left:.0f} s were left, it needs {least:.0f} s")
    try:
        figures = check()
    except (NotRunError, MissingPackageError) as error:
        return Result(name, "not run", time.monotonic() - begin, reason=str(error).splitlines()[0])
    except Exception as error:  # a failed check must not hide the others
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        if not setting.lost and _is_lost(setting):
            setting.lost = name
        return Result(name, "failed", time.monotonic() - begin, reason=reason)
    return Result(name, "passed", time.monotonic() - begin, figures)


def _is_lost(setting: Setting) -> bool:
    """Ask the GPU itself: not every error that says that the context is gone is one of ours."""
    try:
        with closing(setting.device()) as device:
            device.synchronize()
    except Exception as error:
        return isinstance(error, CudaError) and error.sticky
    return False


def environment(setting: Setting) -> dict[str, Any]:
    """Return what the figures are measured on. Never raises: what cannot be told must not cost the rest."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "edgetalker": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
    }
    found.update({name: version for name in _PACKAGES if (version := _version(name))})
    found.update(_gpu(setting))
    if not setting.dry:
        found["driver"] = _driver()
        found["health before, at rest"] = setting.health()
    return found


def _gpu(setting: Setting) -> dict[str, str]:
    """Return which GPU it is, by the driver where it cannot be opened, as when another process has it for itself."""
    try:
        with closing(setting.device()) as device:
            facts = device.facts()
            setting.bus = facts.get("bus")
            return {"device": device.describe(), "gpu": facts.get("name", DRY)}
    except Exception as error:
        found = probe()
        name = found.name if isinstance(found, Gpu) else "no GPU"
        return {"device": f"{found}; it cannot be opened: {str(error).splitlines()[0]}", "gpu": name}


def _version(name: str) -> str | None:
    try:
        return str(importlib.import_module(name).__version__)
    except ImportError:
        return None
    except AttributeError:
        return "version unknown"
    except Exception as error:  # a package whose library is broken
        return f"does not load: {error}"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (done.stdout.strip() or "unknown").splitlines()[0]


def verdicts(results: Sequence[Result]) -> dict[str, str]:
    """Return what became of each target: `met`, `missed` or `not measured`, with the figure and its floor."""
    figures = {key: value for result in results for key, value in result.figures.items()}
    found = {
        name: _verdict(figures.get(name), target, most=True, floor=figures.get(FLOORS[name]))
        for name, target in TARGETS.items()
    }
    return found | {name: _verdict(figures.get(name), target, most=False) for name, target in AT_LEAST.items()}


def _verdict(value: Any, target: float, *, most: bool, floor: float | None = None) -> str:
    wanted = f"target at {'most' if most else 'least'} {target:g}"
    wanted += "" if floor is None else f"; floor {floor:.1f}"
    if value is None:
        return f"not measured ({wanted})"
    met = value <= target if most else value >= target
    return f"{value:.1f}: {'met' if met else 'missed'} ({wanted})"


@dataclass(frozen=True)
class Run:
    """A run, whole or so far. running: the check that comes next; empty once all were made."""

    environment: Mapping[str, Any]
    results: Sequence[Result]
    notes: Sequence[str] = ()
    running: str = ""

    @property
    def dry(self) -> bool:
        """Whether it ran on the host, where figures and targets mean nothing."""
        return bool(self.environment["gpu"] == DRY)

    @property
    def passed(self) -> bool:
        """Whether no check failed; what could not run is no failure."""
        return all(result.status != "failed" for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """Return everything under stable keys."""
        return {
            "format": "edgetalker-gpu-check",
            "version": 1,
            "complete": not self.running,
            "running": self.running or None,
            "environment": dict(self.environment),
            "targets": verdicts(self.results),
            "checks": [vars(result) | {"figures": dict(result.figures)} for result in self.results],
            "notes": list(self.notes),
        }

    def ending(self) -> str:
        """Return what is printed below the results: the GPU's health before and after, and the targets."""
        if self.dry:
            return ""
        health = [f"{name}: {_text(value)}" for name, value in self.environment.items() if name.startswith("health")]
        targets = [f"  {name}: {text}" for name, text in verdicts(self.results).items()]
        return "\n".join(["", *health, "", "targets", *targets])

    def markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [f"# {self.environment['gpu']}", "", "Written by `make gpu-check`; not edited by hand.", ""]
        if self.running:
            lines += [f"**This run did not end. It was at `{self.running}`.**", ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name} | {_text(value)} |" for name, value in self.environment.items()]
        lines += ["", "## Targets", "", "| figure | result |", "|---|---|"]
        lines += [f"| {name} | {text} |" for name, text in verdicts(self.results).items()]
        for result in self.results:
            lines += ["", f"## {result.name}: {result.status}", "", f"{result.seconds:.1f} s. {result.reason}".strip()]
            if result.figures:
                lines += ["", "| figure | value |", "|---|---|"]
                lines += [f"| {name} | {_text(value)} |" for name, value in result.figures.items()]
        return "\n".join([*lines, ""])

    def write(self, folder: Path, *, suffix: str = "") -> Path:
        """Write GPU.json and GPU.md, each whole; return the first."""
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", str(self.environment["gpu"]).lower()).strip("-") + suffix
        for ending, text in (("json", json.dumps(self.as_dict(), indent=1) + "\n"), ("md", self.markdown())):
            with write_whole(folder / f"{name}.{ending}") as file:
                file.write(text.encode())
        return folder / f"{name}.json"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.01 else f"{value:,.2f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return "unknown" if value is None else str(value).replace("|", "\\|")
