"""SHIM: moved to edgetalker.runtime.talker and program; goes when nobody imports it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.inputs import NoiseSource
from edgetalker.runtime.model import Model, given
from edgetalker.runtime.program import Granularity
from edgetalker.runtime.talker import Talker, TalkerOptions

__all__ = ["Granularity", "NoiseSource", "Session"]


class Session(Talker):
    """SHIM: a talker that closes its model. Use Model(bundle, engines=engines, device=device).talker(...)."""

    def __init__(
        self,
        bundle: Bundle | Model,
        engines: Mapping[str, Engine] | None = None,
        device: Device | None = None,
        **options: Any,
    ) -> None:
        if isinstance(bundle, Model):
            model = bundle
        else:
            model = Model(bundle, engines=engines, device=device)
            model._owns_device = True
        self._prepare(model, given(TalkerOptions, options))
        model.join(self, alone=True)

    def step(
        self, audio: NDArray[np.float32] | None = None, *, heard: int | None = None, schedule: str | None = None
    ) -> Frame:
        """SHIM: make(schedule, window=audio)."""
        if audio is None and self.audio is not None:
            audio = np.zeros(self.audio.shape, np.float32) if heard == 0 else self.audio.copy()
        return self.make(schedule, window=audio)
