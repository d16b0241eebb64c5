"""TensorRT-RTX's runtime cache: kernels that it compiled on this machine, so that the next start is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgetalker.engines.driver import Gpu
from edgetalker.engines.errors import OutputError
from edgetalker.engines.files import write_whole

__all__ = ["RuntimeCache", "runtime_cache_path"]


def runtime_cache_path(plan: Path, gpu: Gpu, fallback: Path) -> Path:
    """Return where a plan's cache for this machine lies: beside the plan, or below `fallback` when that is read-only.

    A cache belongs to one GPU model and is read by its driver and newer ones, so both are in its name.
    """
    machine = "".join(c if c.isalnum() else "_" for c in f"{gpu.name}-{gpu.driver}")
    folder = plan.parent
    if not os.access(folder, os.W_OK):
        folder = fallback.joinpath(*folder.parts[-3:])
    return folder / f"{plan.stem}.{machine}.cache"


class RuntimeCache:
    """One plan's cache file. A cache that the library rejects is deleted; the kernels are compiled again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = False
        self._cache: Any = None
        self._saved = b""

    def attach(self, config: Any) -> None:
        """Load the file into a runtime configuration of TensorRT-RTX. A CUDA context must be current."""
        self._cache = config.create_runtime_cache()
        saved = self._read()
        if saved and not self._cache.deserialize(saved):
            self.rejected = True
            self.path.unlink(missing_ok=True)
            saved = b""
        self._saved = saved
        config.set_runtime_cache(self._cache)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""  # absent, or not ours to read: compile

    def save(self) -> None:
        """Write the file when kernels were added since it was read. A folder that refuses is no error: the next
        start then compiles again."""
        if self._cache is None:
            return
        blob = self._cache.serialize()
        now = b"" if blob is None else bytes(blob)
        if not now or now == self._saved:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(self.path) as file:
                file.write(now)
        except (OSError, OutputError):
            return
        self._saved = now
