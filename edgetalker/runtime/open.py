"""SHIM: moved to edgetalker.runtime.model; goes when nobody imports it."""

from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.runtime.model import DEVICES, Model, split
from edgetalker.runtime.session import Session

__all__ = ["DEVICES", "open_session"]


def open_session(bundle: Path | str | Bundle | None = None, **options: Any) -> Session:
    """SHIM: edgetalker.talker, or Model and model.talker."""
    for_model, for_talker = split(options)
    model = Model(bundle, **for_model)
    try:
        return Session(model, **for_talker)
    except BaseException:
        model.close()
        raise
