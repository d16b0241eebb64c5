"""A run of `make gpu-check` that is no dry one, on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting
from edgetalker.engines.host import HostDevice
from edgetalker.runtime.talker import Talker

__all__ = ["TINY", "OnHost"]

TINY = Path(__file__).resolve().parents[1] / "data" / "bundles" / "tiny_voca"


class OnHost(Setting):
    """A setting whose device is the host."""

    def device(self, **options: Any) -> Any:
        """Return the host."""
        return HostDevice()

    def talker(self, bundle: Any, *_: Any, **options: Any) -> Talker:
        """Open it on the host."""
        return Talker(bundle, engine="torch", **options)
