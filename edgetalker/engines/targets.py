"""What a plan is built for: `rtx:sm86,sm89`, `rtx`, `tensorrt`, `auto`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgetalker.engines.errors import DeviceError, OptionError, install, nearest
from edgetalker.engines.machine import Gpu, NoGpu

__all__ = ["KNOWN", "PORTABLE", "RTX", "Target", "parse_target", "targets_for"]

RTX = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX 1.7 names. Which of them a library has is asked of the library."""

PORTABLE = "portable"
"""An RTX plan with no target named runs on compute capability 8.0, 8.6, 8.9, 12.0 and later ones. Which others from 8.0
on (such as 9.0) a library takes is asked of the library, when it opens the plan."""

KNOWN = ("auto", "tensorrt", "rtx")


@dataclass(frozen=True)
class Target:
    """A flavour and the compute capabilities that its plans must run on, sorted, never empty."""

    flavour: str
    capabilities: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.flavour}:{','.join(self.capabilities)}"

    @property
    def slug(self) -> str:
        """The target as a folder name."""
        return "-".join(self.capabilities)

    def covers(self, capability: str) -> bool:
        """Return whether a plan for this target runs on a GPU of this compute capability."""
        return capability in self.capabilities or (PORTABLE in self.capabilities and _number(capability) >= 80)


def targets_for(target: Target, precision: str) -> list[Target]:
    """Return the targets whose plans a precision needs to be built for: FP8 is built card by card.

    Raises OptionError, before anything is built, when a card is too old for it.
    """
    if precision != "fp8" or target.flavour != "rtx":
        return [target]
    old = [name for name in target.capabilities if name == PORTABLE or _number(name) < _FP8]
    if old:
        newer = ",".join(name for name in target.capabilities if name not in old)
        raise OptionError(
            f"FP8 runs on sm{_FP8} and newer, not on {', '.join(old)}",
            hint=f"--target rtx:{newer or f'sm{_FP8}'}, or --precision int8 for the older cards",
        )
    return [Target(target.flavour, (name,)) for name in target.capabilities]


_FP8 = 89
_JETSONS = ("sm87", "sm110")  # Orin, Thor


def parse_target(text: str, gpu: Gpu | NoGpu, installed: tuple[str, ...]) -> Target:
    """Read a target. `gpu` and `installed` (flavours) are what this machine has.

    Without a list the target is this machine's GPU. Raises OptionError for a name that does not exist,
    DeviceError when this machine's GPU was meant and there is none.
    """
    flavour, _, listed = text.strip().lower().partition(":")
    if flavour not in KNOWN:
        raise OptionError(f"unknown target `{text}`{nearest(flavour, KNOWN)}", hint=_USAGE)
    if flavour == "auto":
        flavour = _best(installed)
    if ":" not in text:
        return Target(flavour, (_own(flavour, gpu),))
    if flavour != "rtx" or text.lower().startswith("auto"):
        raise OptionError(
            f"target `{text}`: only TensorRT-RTX builds for a GPU that is not in this machine",
            hint=f"run `edgetalker build BUNDLE --target {flavour}` on the machine that will play it",
        )
    return Target(flavour, _capabilities(text, listed))


_USAGE = "targets are `rtx:sm86,sm89,sm120` or `rtx:portable` (anywhere), `rtx`, `tensorrt` or `auto` (on the player)"


def _best(installed: tuple[str, ...]) -> str:
    """Full TensorRT first: a Jetson has it alone, and its plans need no compilation when they are loaded."""
    for flavour in ("tensorrt", "rtx"):
        if flavour in installed:
            return flavour
    raise OptionError(
        "target `auto`: neither TensorRT nor TensorRT-RTX is installed",
        hint=f"{install('rtx')} for an RTX PC; on a Jetson see docs/jetson.md",
    )


def _own(flavour: str, gpu: Gpu | NoGpu) -> str:
    if isinstance(gpu, Gpu):
        unnamed = flavour == "rtx" and gpu.capability not in RTX and _number(gpu.capability) >= 80
        return PORTABLE if unnamed else gpu.capability
    elsewhere = "name the GPU: `--target rtx:sm86`" if flavour == "rtx" else "run this on the machine that will play it"
    raise DeviceError(f"target `{flavour}` means this machine's GPU; {gpu.reason}", hint=elsewhere)


def _capabilities(text: str, listed: str) -> tuple[str, ...]:
    names = [name.strip() for name in listed.split(",")]
    if names == [PORTABLE]:
        return (PORTABLE,)
    wrong = [name for name in names if name not in RTX]
    if wrong:
        jetson = [name for name in wrong if name in _JETSONS]
        shown = ", ".join(f"`{name}`{'' if jetson else nearest(name, RTX)}" for name in wrong)
        hint = f"{jetson[0]} is a Jetson: build there with its own TensorRT, `--target tensorrt`" if jetson else _USAGE
        raise OptionError(f"target `{text}`: TensorRT-RTX has no {shown}; it has {', '.join(RTX)}", hint=hint)
    return tuple(sorted(set(names), key=_number))


def _number(capability: str) -> int:
    match = re.fullmatch(r"sm(\d+)", capability)
    return int(match[1]) if match else 0
