"""Builds a bundle's plans, each stage in a process of its own: both ends of the pipe between them.

A child's memory is measured and given back, and a crash is only its own. It runs this module's `main`. The
first line on its standard input is the request; the end of that input cancels the build, and so does the parent's
death. Answers are lines on standard output that begin with `MARK`; TensorRT may print between them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError, Progress, UserError, unheard
from edgetalker.engines.files import reported, takes_files, write_whole
from edgetalker.engines.machine import Gpu, Machine, peak_memory
from edgetalker.engines.ort import check_border
from edgetalker.engines.plan import Found, PlanRecord, find, plan_folders, read_plan, store
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.build import BuildCancelledError, BuildOptions, build, flags_of

__all__ = ["MARK", "PlanBuilder", "build_in_child", "main"]

MARK = "@edgetalker "

_PATIENCE = 20.0  # seconds that a cancelled child gets to end by itself


@dataclass(frozen=True)
class PlanBuilder:
    """Builds the plans of one bundle for one target and writes them beside it, or into the user's cache."""

    bundle: Bundle
    target: Target
    machine: Machine
    precision: str = "fp32"
    options: BuildOptions = field(default_factory=BuildOptions)

    def stage(self, name: str, progress: Progress = unheard, *, force: bool = False) -> Found:
        """Return a stage's plan, built unless an intact one from the same fingerprint is there.

        Raises EngineError or DeviceError with what mends it, BuildCancelledError when Ctrl-C was pressed.
        """
        standing = None if force else self._standing(name)
        if standing is not None:
            return standing
        with reported(self.folder):  # before minutes are spent
            self.folder.mkdir(parents=True, exist_ok=True)
        done, plan = build_in_child(self._request(name), lambda phase, share: progress(f"{name}: {phase}", share))
        stage = self.bundle.manifest.stages[name]
        inputs, outputs = _specs(done["inputs"]), _specs(done["outputs"])
        check_border(name, inputs, outputs, stage.inputs, stage.outputs)
        record = self._record(name, plan, done)
        return Found(store(self.folder, plan, record), record)

    @property
    def folder(self) -> Path:
        """The folder in the bundle, or the one in the user's cache when the bundle cannot be written."""
        own, cache = plan_folders(self.bundle)
        return own if takes_files(own) else cache

    def _standing(self, name: str) -> Found | None:
        wanted = self._record(name, b"", {"types": {}, "seconds": 0.0, "peak_memory": 0})
        for found in find(self.bundle, name, self.precision):
            if found.record is None or not found.record.same_build(wanted):
                continue
            try:
                read_plan(found)
            except EngineError:
                continue  # damaged: build it again
            return found
        return None

    def _request(self, name: str) -> dict[str, Any]:
        cache = plan_folders(self.bundle)[1].parent.parent / "timing" / self._cache_name()
        wants_cache = self.options.timing_cache and self.target.flavour == "tensorrt"
        return {
            "flavour": self.target.flavour,
            "capabilities": self.target.capabilities,
            "onnx": str(self.bundle.onnx(name, self.precision).resolve()),
            "options": asdict(self.options),
            "timing_cache": str(cache) if wants_cache else "",
        }

    def _cache_name(self) -> str:
        gpu = self.machine.gpu
        key = f"{gpu.name}-{gpu.processors}-{gpu.capability}-{gpu.driver}" if isinstance(gpu, Gpu) else "none"
        version = self.machine.versions[self.target.flavour]
        return f"{self.target.flavour}-{version}-{''.join(c if c.isalnum() else '_' for c in key)}.cache"

    def _record(self, name: str, plan: bytes, done: dict[str, Any]) -> PlanRecord:
        stage, gpu = self.bundle.manifest.stages[name], self.machine.gpu
        measured = gpu if self.target.flavour == "tensorrt" and isinstance(gpu, Gpu) else None
        return PlanRecord(
            stage=name,
            precision=self.precision,
            flavour=self.target.flavour,
            version=self.machine.versions[self.target.flavour],
            capabilities=self.target.capabilities,
            platform=self.machine.platform,
            device=measured.name if measured else "",
            driver=gpu.driver if isinstance(gpu, Gpu) else "",
            onnx_sha256=self.bundle.manifest.files[self.bundle.onnx_name(name, self.precision)],
            plan_sha256=sha256(plan).hexdigest(),
            plan_bytes=len(plan),
            flags=flags_of(self.target.flavour, self.options),
            inputs=dict(stage.inputs),
            outputs=dict(stage.outputs),
            types=done["types"],
            seconds=round(done["seconds"], 3),
            peak_memory=done["peak_memory"],
            processors=measured.processors if measured else 0,
        )


def build_in_child(request: dict[str, Any], progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Build one plan in a process of its own; return what it says about it, and the plan.

    Ctrl-C ends the child's input, which cancels its build; then BuildCancelledError is raised. A child that
    dies raises EngineError with how it died.
    """
    with tempfile.TemporaryDirectory(prefix="edgetalker-build-") as folder:
        plan = Path(folder) / "plan"
        with _child() as child:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # a child that died at once is told of below
                child.stdin.write(json.dumps({**request, "plan": str(plan)}) + "\n")
                child.stdin.flush()
            done = _listen(child, progress)
        if done is None:
            raise _death(child.returncode, request)
        return done, plan.read_bytes()


@contextmanager
def _child() -> Iterator[subprocess.Popen[str]]:
    if getattr(sys, "frozen", False):  # there sys.executable is the user's own program
        raise EngineError("plans cannot be built by a frozen program", hint="build them with an installed edgetalker")
    # `-m` would put the current folder first: a user's json.py would be imported. The child has the parent's path.
    begin = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; raise SystemExit(main())"
    command = [sys.executable, "-c", begin]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace")
    try:
        yield child
    except KeyboardInterrupt:
        raise BuildCancelledError("the build was cancelled", hint="nothing was written") from None
    finally:
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """Wait for the child; a second Ctrl-C, or no patience left, kills it. It holds nothing half-written."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.close()
        child.wait(_PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, BrokenPipeError):
        child.kill()
        child.wait()
    finally:
        child.stdout.close()


def _listen(child: subprocess.Popen[str], progress: Progress) -> dict[str, Any] | None:
    """Return the child's `done` line, None when it ended without one. Raises the error that it reports."""
    assert child.stdout is not None
    for line in child.stdout:
        if not line.startswith(MARK):
            continue
        words = json.loads(line[len(MARK) :])
        if "error" in words:
            raise UserError.from_json(words["error"])
        if "done" in words:
            return dict(words["done"])
        progress(words["phase"], words["share"])
    child.wait()
    return None


def _death(code: int, request: dict[str, Any]) -> EngineError:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = "memory ran out: close other programs, or lower `--workspace` and `--level`" if code == -9 else None
    return EngineError(f"the build of {Path(request['onnx']).name} for {request['flavour']} {how}", hint=hint)


def _specs(values: dict[str, Any]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(item["dtype"], tuple(item["shape"])) for name, item in values.items()}


# The child's end


def main() -> int:
    """Answer one request. Returns 0 with a `done` line, else the error's exit code with an `error` line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends our input
    request = json.loads(sys.stdin.readline())
    cancelled = threading.Event()
    threading.Thread(target=_watch, args=(cancelled,), daemon=True).start()
    try:
        _say(done=_build(request, cancelled))
    except UserError as error:
        _say(error=error.to_json())
        return error.exit_code
    return 0


def _watch(cancelled: threading.Event) -> None:
    """Read the descriptor itself: a daemon thread inside sys.stdin would hold its lock when Python ends."""
    while os.read(0, 4096):
        pass
    cancelled.set()


def _build(request: Mapping[str, Any], cancelled: threading.Event) -> dict[str, Any]:
    cache = Path(request["timing_cache"]) if request["timing_cache"] else None
    built = build(
        load(request["flavour"]),
        Path(request["onnx"]),
        Target(request["flavour"], tuple(request["capabilities"])),
        BuildOptions(**request["options"]),
        progress=lambda phase, share: _say(phase=phase, share=share),
        cancelled=cancelled.is_set,
        timing_cache=cache.read_bytes() if cache and cache.is_file() else b"",
    )
    Path(request["plan"]).write_bytes(built.plan)
    if cache and built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(cache) as file:
            file.write(built.timing_cache)
    said = {name: getattr(built, name) for name in ("inputs", "outputs", "types", "seconds")}
    return {**said, "peak_memory": peak_memory()}


def _say(**words: Any) -> None:
    sys.stdout.write(MARK + json.dumps(words, default=vars) + "\n")  # vars: of a TensorSpec
    sys.stdout.flush()
