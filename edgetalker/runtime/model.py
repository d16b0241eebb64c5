"""A bundle opened for playing: its device and an engine for each stage, opened once and shared by its talkers."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import InputError, OptionError, unknown
from edgetalker.runtime.options import ModelOptions, given
from edgetalker.runtime.talker import Talker

__all__ = ["DEVICES", "Model", "bundled", "find_bundle"]

DEVICES = ("host", "cuda")
HOST_ENGINES = ("auto", "ort", "torch")
BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
"""Bundles that ship with the package."""


class Model:
    """A bundle on a device. Talkers share its weights; close it when none of them is needed any more.

    Talkers and the model may be closed in any order: a talker of a closed model says so.
    """

    def __init__(
        self, bundle: Path | str | Bundle | None = None, *, engines: Mapping[str, Engine] | None = None, **options: Any
    ) -> None:
        """Open a bundle: a folder, the name of one that ships with the package, or None for the shipped talker.

        engines: open engines instead of those that the options choose; the model closes them. options: those of
        ModelOptions. Raises UserError subclasses for whatever is missing, with what brings it.
        """
        self.options = given(ModelOptions, options)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(find_bundle(bundle))
        self.lock = threading.RLock()
        self.closed = False
        self._talkers: list[Talker] = []
        self._alone: Talker | None = None
        given_device = self.options.device
        self._owns_device = isinstance(given_device, str)
        self.device = open_device(self.options) if isinstance(given_device, str) else given_device
        try:
            self.engines = engines or open_engines(self.bundle, self.device, self.options)
        except BaseException:
            if self._owns_device:
                self.device.close()
            raise

    def talker(self, **options: Any) -> Talker:
        """Return a new talker. options: those of TalkerOptions. Raises UserError subclasses for what does not fit."""
        with self.lock:
            return Talker(self, **options)

    def check_open(self) -> None:
        """Raise OptionError when the model is closed."""
        if self.closed:
            raise OptionError("the model is closed", hint="open it again")

    def join(self, talker: Talker, *, alone: bool = False) -> None:
        """Note a talker of this model. alone: the model was opened for it and closes with it."""
        with self.lock:
            self._talkers.append(talker)
            self._alone = talker if alone else self._alone

    def leave(self, talker: Talker) -> None:
        """Forget a talker that was closed; close the model if it was opened for that one alone."""
        with self.lock:
            self._talkers = [other for other in self._talkers if other is not talker]
            if talker is self._alone:
                self.close()

    def close(self) -> None:
        """Free engines and device memory. Motion that was handed out stays as it is."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            for talker in self._talkers:
                talker.orphan()
            for engine in self.engines.values():
                engine.close()
            if self._owns_device:
                self.device.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_device(options: ModelOptions) -> Device:
    """Return a device by name. Raises OptionError for an unknown one, DeviceError when there is none."""
    if options.device == "host":
        for name in ("gpu", "wait"):
            if getattr(options, name) != getattr(ModelOptions, name):
                raise OptionError(f"`{name}` is for a GPU; the device is the host", hint="choose the device `cuda`")
        from edgetalker.engines.host import HostDevice

        return HostDevice(poison=options.poison)
    if options.device == "cuda":
        from edgetalker.engines.cuda import CudaDevice

        return CudaDevice(options.gpu, wait=options.wait, poison=options.poison)
    raise unknown("device", str(options.device), DEVICES)


def open_engines(bundle: Bundle, device: Device, options: ModelOptions) -> Mapping[str, Engine]:
    """Return an engine for every stage. Raises EngineError, OptionError or MissingPackageError."""
    engine, precision = options.engine, options.precision
    if device.kind != "host":
        from edgetalker.engines.cuda.engines import cuda_engines

        return cuda_engines(bundle, device, engine=engine, precision=precision)
    most = max(64, os.cpu_count() or 1)  # more threads than cores only wait for each other
    if not 1 <= options.threads <= most:
        raise OptionError(f"{options.threads} threads; 1 to {most} were wanted")
    if engine == "torch":
        from edgetalker.engines.torch import torch_engines

        return torch_engines(bundle, device, precision, threads=options.threads)
    if engine not in HOST_ENGINES:
        hint = "add --device cuda" if engine in ("tensorrt", "rtx", "lean") else None
        raise unknown("engine", engine, HOST_ENGINES, "on the host there are", hint=hint)
    from edgetalker.engines.ort import ort_engines

    return ort_engines(bundle, precision, threads=options.threads, host=True)


def bundled() -> dict[str, Path]:
    """Return name -> folder of each bundle that ships with the package."""
    return {path.parent.name: path.parent for path in sorted(BUNDLES.glob(f"*/{MANIFEST}"))}


def find_bundle(name: Path | str | None) -> Path:
    """Return the folder that a name means: a path, the name of a shipped bundle, None for the shipped talker.

    Raises InputError when none was named and none ships with this install.
    """
    known = bundled()
    if name is not None and not isinstance(name, (str, Path)):
        raise InputError(f"{repr(name)[:60]} is no bundle", hint="name a folder or a bundle, or give a Model")
    if name is None:
        if not known:
            raise InputError(
                "no bundle was named and none ships with this install",
                hint="name a folder that `edgetalker export` made",
            )
        return known.get("talker", next(iter(known.values())))
    return known.get(str(name), Path(name)) if not Path(name).exists() else Path(name)
