"""What the checks run on: the device, its engines, the bundles, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.host import HostDevice
from edgetalker.engines.torch import torch_engines
from edgetalker.measure.health import read_health
from edgetalker.runtime.inputs import NoiseSource
from edgetalker.runtime.model import Model
from edgetalker.runtime.program import Granularity
from edgetalker.runtime.talker import Talker

__all__ = ["NotRunError", "Setting"]


class NotRunError(Exception):
    """This machine lacks what a check needs; the reason goes into the report."""


@dataclass
class Setting:
    """dry: run on the host, to see that the checks themselves work; its figures are nobody's. scale: of all counts
    and durations. wait: the device's wait policy. seconds: what the whole may take. bus: the GPU's PCI address. lost:
    the check after which this process has the GPU no more."""

    bundles: dict[str, Path]
    work: Path
    dry: bool = False
    scale: float = 1.0
    wait: str = "spin"
    seconds: float = 540.0
    bus: str | None = None
    lost: str = ""
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def device(self, **options: Any) -> Device:
        """Open the device under test."""
        if self.dry:
            return HostDevice(poison=bool(options.get("poison")))
        from edgetalker.engines.cuda import CudaDevice

        return CudaDevice(wait=self.wait, **options)

    def bundle(self, name: str) -> Bundle:
        """Open a bundle. Raises NotRunError when this checkout lacks it."""
        if name not in self.bundles:
            raise NotRunError(f"this checkout has no bundle `{name}`")
        return Bundle.open(self.bundles[name])

    def talker(
        self,
        bundle: Bundle,
        device: Device | None = None,
        *,
        engines: Mapping[str, Engine] | None = None,
        poison: bool = False,
        graphs: Granularity | None = None,
        timings: bool = False,
        noise: NoiseSource | None = None,
        seed: int = 1,
    ) -> Talker:
        """Open a talker with PyTorch's engines, or those given; on a device of its own, or on one that stays open."""
        options: dict[str, Any] = {"graphs": graphs, "timings": timings, "noise": noise, "seed": seed}
        if device is None:
            where = {"device": "host"} if self.dry else {"device": "cuda", "wait": self.wait}
            return Talker(bundle, engine="torch", poison=poison, **where, **options)
        model = Model(bundle, engines=engines or torch_engines(bundle, device), device=device)
        talker = model.talker(**options)
        model.join(talker, alone=True)  # engines go with it
        return talker

    def count(self, wanted: int, least: int = 1) -> int:
        """Return a count or a duration, shortened in a dry run."""
        return max(round(wanted * self.scale), least)

    def health(self) -> dict[str, Any]:
        """Return the GPU's clocks, heat and throttling as they are now. Never raises: no report may be lost by it."""
        try:
            return dict(read_health(self.bus))
        except Exception as error:
            return {"not read": str(error)}

    @property
    def left(self) -> float:
        """Seconds until the whole must end."""
        return self.seconds - (time.monotonic() - self.began)
