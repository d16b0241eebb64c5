"""Names and orders of what is sent, how they are read from a layout, and how a user renames them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.frame import MotionLayout

__all__ = [
    "ARKIT_SHAPES",
    "EYE_ANGLES",
    "HEAD_ANGLES",
    "LIVELINK_NAMES",
    "NameMap",
    "Selection",
    "positions",
    "require_named",
]

# Apple gives a dictionary, no order. This is the order of Epic's EARFaceBlendShape, which Live Link Face sends.
ARKIT_SHAPES: tuple[str, ...] = tuple(
    """
    EyeBlinkLeft EyeLookDownLeft EyeLookInLeft EyeLookOutLeft EyeLookUpLeft EyeSquintLeft EyeWideLeft
    EyeBlinkRight EyeLookDownRight EyeLookInRight EyeLookOutRight EyeLookUpRight EyeSquintRight EyeWideRight
    JawForward JawLeft JawRight JawOpen
    MouthClose MouthFunnel MouthPucker MouthLeft MouthRight MouthSmileLeft MouthSmileRight
    MouthFrownLeft MouthFrownRight MouthDimpleLeft MouthDimpleRight MouthStretchLeft MouthStretchRight
    MouthRollLower MouthRollUpper MouthShrugLower MouthShrugUpper MouthPressLeft MouthPressRight
    MouthLowerDownLeft MouthLowerDownRight MouthUpperUpLeft MouthUpperUpRight
    BrowDownLeft BrowDownRight BrowInnerUp BrowOuterUpLeft BrowOuterUpRight
    CheekPuff CheekSquintLeft CheekSquintRight NoseSneerLeft NoseSneerRight TongueOut
    """.split()
)
HEAD_ANGLES: tuple[str, ...] = ("HeadYaw", "HeadPitch", "HeadRoll")
EYE_ANGLES: tuple[str, ...] = tuple(
    f"{side}Eye{angle}" for side in ("Left", "Right") for angle in ("Yaw", "Pitch", "Roll")
)
LIVELINK_NAMES: tuple[str, ...] = ARKIT_SHAPES + HEAD_ANGLES + EYE_ANGLES


def require_named(layout: MotionLayout, receiver: str) -> None:
    """Raise OptionError unless the layout carries ARKit shapes by name, one value a name."""
    if layout.kind == "arkit" and layout.names and layout.shape == (len(layout.names),):
        return
    raise OptionError(
        f"{receiver} takes ARKit shapes, and this model gives `{layout.kind}` of shape {layout.shape}",
        hint="use a model whose motion is ARKit shapes, or a sink that takes any motion (ws://, view, .npz, .jsonl)",
    )


def positions(wanted: Sequence[str], names: Sequence[str]) -> NDArray[np.intp]:
    """Return for each wanted name its place in `names`, shape (len(wanted),); -1 where there is none."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in wanted], dtype=np.intp)


@dataclass(frozen=True)
class Selection:
    """Which of a sink's values are sent, in order: their names, places (n,) and gains (n,)."""

    names: tuple[str, ...]
    places: NDArray[np.intp]
    gains: NDArray[np.float32]


@dataclass(frozen=True)
class NameMap:
    """Says that what would be sent as `A` is sent as `B`, times a gain, or not at all."""

    entries: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, value: Any) -> NameMap:
        """Read `A:B,C:D*1.2,E:` or a table {A = "B", C = "D*1.2", E = ""}. Raises ValueError on another form."""
        if isinstance(value, str):
            pairs = [part.partition(":") for part in value.split(",") if part]
            if any(not colon for _, colon, _ in pairs):
                raise ValueError("wants NAME:OTHER, NAME:OTHER*GAIN or NAME: (not sent), with commas between")
            return cls({name.strip(): _target(target) for name, _, target in pairs})
        if isinstance(value, Mapping) and all(isinstance(target, str) for target in value.values()):
            return cls({str(name): _target(target) for name, target in value.items()})
        raise ValueError("wants a table of names")

    def select(self, names: Sequence[str], receiver: str) -> Selection:
        """Apply the map to a sink's own names.

        Raises OptionError for names that the sink does not send and for two values under one name.
        """
        for name in self.entries:
            if name not in names:
                raise OptionError(f"{receiver}: `map` names `{name}`, which is not sent{nearest(name, names)}")
        sent = [(index, *self.entries.get(name, (name, 1.0))) for index, name in enumerate(names)]
        sent = [entry for entry in sent if entry[1]]
        targets = [target for _, target, _ in sent]
        for target in targets:
            if targets.count(target) > 1:
                raise OptionError(
                    f"{receiver}: `map` sends two values as `{target}`",
                    hint=f"rename the other one too, or leave it out with `map={target}:`",
                )
        places = np.array([index for index, _, _ in sent], dtype=np.intp)
        gains = np.array([gain for _, _, gain in sent], dtype=np.float32)
        return Selection(tuple(targets), places, gains)


def _target(entry: str) -> tuple[str, float]:
    target, star, gain = entry.strip().partition("*")
    try:
        factor = float(gain) if star else 1.0
    except ValueError:
        factor = float("nan")
    if not -10 <= factor <= 10:
        raise ValueError(f"wants a gain from -10 to 10 after `*`, not `{gain}`")
    return target.strip(), factor
