"""The child process that builds one plan, so that its memory is measured and given back and a crash is only its own.

Run as `python -m edgetalker.engines.tensorrt.worker`. The first line on standard input is the request; the end of
standard input cancels the build, and so does the parent's death. Answers are lines on standard output that
begin with `MARK`; TensorRT may print between them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import UserError
from edgetalker.engines.files import write_whole
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.build import BuildOptions, Built, build

__all__ = ["MARK", "main", "specs_to_json"]

MARK = "@edgetalker "


def main() -> int:
    """Answer one request. Returns 0 with a `done` line, else the error's exit code with an `error` line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends our input
    request = json.loads(sys.stdin.readline())
    cancelled = threading.Event()
    threading.Thread(target=_watch, args=(cancelled,), daemon=True).start()
    try:
        _say(done=_build(request, cancelled))
    except UserError as error:
        _say(error={"kind": type(error).__name__, "message": error.message, "hint": error.hint})
        return error.exit_code
    return 0


def _watch(cancelled: threading.Event) -> None:
    """Read the descriptor itself: a daemon thread inside sys.stdin would hold its lock when Python ends."""
    while os.read(0, 4096):
        pass
    cancelled.set()


def _build(request: Mapping[str, Any], cancelled: threading.Event) -> dict[str, Any]:
    def progress(phase: str, share: float) -> bool:
        _say(phase=phase, share=share)
        return not cancelled.is_set()

    cache = Path(request["timing_cache"]) if request["timing_cache"] else None
    built = build(
        load(request["flavour"]),
        Path(request["onnx"]),
        Target(request["flavour"], tuple(request["capabilities"])),
        BuildOptions(**request["options"]),
        progress=progress,
        timing_cache=cache.read_bytes() if cache and cache.is_file() else b"",
    )
    Path(request["plan"]).write_bytes(built.plan)
    if cache and built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(cache) as file:
            file.write(built.timing_cache)
    return _summary(built)


def _summary(built: Built) -> dict[str, Any]:
    return {
        "inputs": specs_to_json(built.inputs),
        "outputs": specs_to_json(built.outputs),
        "types": dict(built.types),
        "seconds": built.seconds,
        "peak_memory": _peak(),
    }


def specs_to_json(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return tensor specs as plain JSON values."""
    return {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in specs.items()}


def _peak() -> int:
    """Return this process's peak of resident memory in bytes; 0 where the system does not tell.

    Linux hands getrusage's peak on from the process that started this one; /proc counts this program alone.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _say(**words: Any) -> None:
    sys.stdout.write(MARK + json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
