"""Picks one of TensorRT, TensorRT for RTX and the lean runtime, and says what it can do.

The three share one Python API. What differs between them and between their versions is asked for by name
(`Api.has`), never guessed from a version string.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from edgetalker.engines.engine import DTYPES, TensorSpec
from edgetalker.engines.errors import EngineError, MissingPackageError, unknown

__all__ = ["FLAVOURS", "Api", "from_jetpack", "installed", "load", "platform_tag", "spec_of", "wheel_cuda"]

FLAVOURS: Mapping[str, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx", "lean": "tensorrt_lean"}
"""Flavour -> Python module."""

_TYPES = {{"float32": "FLOAT", "float16": "HALF"}.get(name, name.upper()): name for name in DTYPES}


@dataclass(frozen=True)
class Api:
    """One imported TensorRT flavour."""

    flavour: str
    module: Any

    @property
    def version(self) -> str:
        """The library's own version, all four numbers of it."""
        return str(self.module.__version__)

    def has(self, path: str) -> bool:
        """Return whether the bindings have `path`, such as `BuilderFlag.REQUIRE_USER_ALLOCATION`."""
        found = self.module
        for part in path.split("."):
            found = getattr(found, part, None)
            if found is None:
                return False
        return True

    def tensors(self, engine: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """Return a deserialized engine's inputs and outputs. Raises EngineError for a type that we do not have."""
        inputs: dict[str, TensorSpec] = {}
        outputs: dict[str, TensorSpec] = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            spec = spec_of(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
            is_input = engine.get_tensor_mode(name) == self.module.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = spec
        return inputs, outputs


def spec_of(name: str, dtype: Any, shape: Any) -> TensorSpec:
    """Return a tensor's type and shape. Raises EngineError for a free size or a type that no buffer holds."""
    sizes = tuple(int(size) for size in shape)
    if dtype.name not in _TYPES or any(size < 1 for size in sizes):
        raise EngineError(
            f"tensor `{name}` is {dtype.name}{list(sizes)}; a fixed shape and one of "
            f"{', '.join(_TYPES.values())} was wanted",
            hint="export the bundle again: stages have fixed shapes",
        )
    return TensorSpec(_TYPES[dtype.name], sizes)


def installed() -> tuple[str, ...]:
    """Return the flavours whose Python packages are there, in the order in which `auto` takes them."""
    return tuple(flavour for flavour, module in FLAVOURS.items() if find_spec(module) is not None)


def wheel_cuda(flavour: str) -> int | None:
    """Return the major version of CUDA that a flavour's wheels were built for; None where it came otherwise (apt)."""
    for number in (13, 12, 11):
        try:
            metadata.distribution(f"{FLAVOURS[flavour]}_cu{number}_bindings")
        except metadata.PackageNotFoundError:
            continue
        return number
    return None


@cache
def load(flavour: str) -> Api:
    """Import a flavour. Imports no CUDA and makes no Runtime.

    Raises OptionError for an unknown flavour, MissingPackageError when its package is not installed and
    EngineError when its package is there and its library is not.
    """
    if flavour not in FLAVOURS:
        raise unknown("TensorRT flavour", flavour, FLAVOURS)
    name = FLAVOURS[flavour]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(flavour, error) from error
        raise _missing(flavour) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise _broken(flavour, error) from error
    api = Api(flavour, module)
    if not (api.has("Runtime") and api.has("Logger")):  # without its library it can still import: a namespace, a stub
        raise _broken(flavour, ImportError(f"{name} holds no Runtime"))
    return api


_SEES_THE_SYSTEM = "make the environment with `python3 -m venv --system-site-packages`"


def _missing(flavour: str) -> MissingPackageError:
    error = MissingPackageError(FLAVOURS[flavour], f"playing `{flavour}` plans", extra=flavour)
    error.hint = from_jetpack(flavour) or error.hint
    return error


def _broken(flavour: str, error: BaseException) -> EngineError:
    return EngineError(
        f"the package `{FLAVOURS[flavour]}` is installed, but it does not load: {error}",
        hint=from_jetpack(flavour, "remove the wheel that shadows it")
        or "its library is missing or another version is in its place: install both from one source "
        f'(pip install --force-reinstall "edgetalker[{flavour}]")',
    )


def from_jetpack(flavour: str, then: str = _SEES_THE_SYSTEM) -> str | None:
    """Return what brings a flavour onto a Jetson, where pip must not, and what is to be done then; None elsewhere."""
    if platform.machine() != "aarch64" or sys.platform != "linux":
        return None
    package = "python3-libnvinfer-lean" if flavour == "lean" else "python3-libnvinfer"
    return f"on a Jetson TensorRT comes with JetPack: `sudo apt install {package}`, and {then} (docs/jetson.md)"


def platform_tag() -> str:
    """Return operating system and machine as a plan's record names them, such as `linux-aarch64`."""
    return f"{sys.platform}-{platform.machine().lower()}"
