"""The whole head with its 52 shapes, built once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import around, eyes, lids, moves
from edgetalker.face.colours import skin_colours
from edgetalker.face.grid import GRID
from edgetalker.face.mouth import LOWER_TEETH, TONGUE, mouth_parts
from edgetalker.face.names import ARKIT_SHAPES, mirrored_name
from edgetalker.face.part import Face, Part
from edgetalker.face.regions import Spots, around_lips, jaw_rotation, jaw_weight
from edgetalker.face.skin import Skin, fade, skin_at_rest

__all__ = ["head"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
FLIP = np.array([-1.0, 1.0, 1.0])
_TINY = 1e-5  # centimetres
_MEETING = 0.26  # how much of the way the upper lip comes down when lips close over an open jaw


@lru_cache(maxsize=1)
def head() -> Face:
    """Return the head in metres; the same one on every call, so do not write into it."""
    skin = skin_at_rest()
    closing = {name: lids.lid_delta(skin, name) for name in ("EyeBlinkLeft", *lids.LIDS)}
    parts = [_skin(skin, closing), around.ears(), _eyeballs(), _lashes(skin, closing), _brows(), _mouth()]
    parts += [around.hair(), around.bust()]
    for part in parts:
        part.positions = part.positions * 0.01
        part.deltas = {name: part.deltas[name] * 0.01 for name in ARKIT_SHAPES if name in part.deltas}
    return Face(tuple(parts), ARKIT_SHAPES, (0.0, -0.115, -0.02))


def _skin(skin: Skin, closing: dict[str, Array]) -> Part:
    part = Part("skin", "skin", skin.positions, skin.triangles, skin_colours(skin))
    spots = Spots.of_skin(skin, GRID.below_mouth)
    deltas = {name: _rims(skin, move(spots), name) for name, move in (moves.LEFT | moves.MIDDLE).items()}
    deltas["MouthClose"] = _rims(skin, _close(spots, deltas["JawOpen"][: skin.grid]), "MouthClose")
    for name, delta in closing.items():
        deltas[name] = deltas.get(name, 0) + delta
    part.deltas = _completed(deltas, skin.mirror)
    return part


def _rims(skin: Skin, grid: Array, name: str) -> Array:
    """Carry a movement of the grid on to the rims: lids' rims stiffly, the inner mouth less with depth."""
    inward = np.where(skin.kind == 2, (1.0 - skin.depth) ** 1.5, 1.0)
    delta = grid[skin.parent] * inward[:, None]
    if name == "JawOpen":
        inner = skin.kind == 2
        parent = skin.parent[inner]
        below = GRID.below_mouth[parent]
        depth = np.minimum(1.0, 2.5 * skin.depth[inner])
        weight = jaw_weight(Spots.of_skin(skin, GRID.below_mouth))[parent]
        corner = np.isin(parent, GRID.mouth.above[[0, -1]])
        goal = np.where(corner, 0.5, np.where(below, 1.0, 0.0))
        delta[inner] = (weight + (goal - weight) * depth)[:, None] * jaw_rotation(skin.positions[inner])
    return delta


def _close(s: Spots, opened: Array) -> Array:
    """Return what brings the lips together over the open jaw: exactly, for every weight that both shapes share."""
    above, below = GRID.mouth.above, GRID.mouth.below
    rest = s.p[above]
    upper, lower = rest + opened[above], rest + opened[below]
    meet = upper + _MEETING * (lower - upper) * [1.0, 1.0, 0.25]  # before the teeth
    order = np.argsort(rest[:, 0])
    lip = np.where(s.below, fade((-s.rise - 0.9) / 2.0), fade((s.rise - 0.6) / 1.9)) * around_lips(s, 9.0, 1.8)
    way = [np.interp(s.p[:, 0], rest[order, 0], (meet - rest)[order, axis]) for axis in range(3)]
    out: Array = lip[:, None] * (np.stack(way, 1) - opened)
    out[above], out[below] = meet - upper, meet - lower
    return out


def _completed(deltas: dict[str, Array], mirror: Index) -> dict[str, Array]:
    """Add each left shape's mirror image; make the middle shapes exactly even."""
    out: dict[str, Array] = {}
    for name, delta in deltas.items():
        other = delta[mirror] * FLIP
        if mirrored_name(name) == name:
            delta = 0.5 * (delta + other)
        else:
            out[mirrored_name(name)] = _settled(other)
        out[name] = _settled(delta)
    return out


def _settled(delta: Array) -> Array:
    return np.where(np.linalg.norm(delta, axis=1, keepdims=True) > _TINY, delta, 0.0)


def _halves(part: Part) -> Index:
    """Return the mirror partners of a part made by `both_sides`."""
    half = len(part.positions) // 2
    return np.concatenate([np.arange(half, 2 * half), np.arange(half)])


def _eyeballs() -> Part:
    part = eyes.eyeballs()
    half = len(part.positions) // 2
    deltas = {}
    for name in lids.GAZE:
        deltas[name] = np.zeros_like(part.positions)
        deltas[name][:half] = lids.eyeball_turn(part.positions[:half], name)
    part.deltas = _completed(deltas, _halves(part))
    return part


def _lashes(skin: Skin, closing: dict[str, Array]) -> Part:
    part = eyes.lashes(skin)
    half = len(part.positions) // 2
    root = GRID.eyes[0].above
    deltas = {}
    for name, lid in closing.items():
        follow = lid[root]
        deltas[name] = np.zeros_like(part.positions)
        deltas[name][:half] = np.tile(follow, (half // len(root), 1))
        tip = slice(len(root), 2 * len(root))
        deltas[name][tip, 1] += 0.35 * follow[:, 1]  # lashes tip down as the lid comes down
    part.deltas = _completed(deltas, _halves(part))
    return part


def _brows() -> Part:
    part = eyes.brows()
    spots = Spots.of_points(part.positions)
    names = ("BrowDownLeft", "BrowOuterUpLeft", "BrowInnerUp", "NoseSneerLeft")
    deltas = {name: (moves.LEFT | moves.MIDDLE)[name](spots) for name in names}
    part.deltas = _completed(deltas, _halves(part))
    return part


def _mouth() -> Part:
    part, which = mouth_parts()
    p = part.positions
    jaw = np.isin(which, (LOWER_TEETH, TONGUE)).astype(np.float64)
    along = np.where(which == TONGUE, np.clip((p[:, 2] - 3.2) / 4.55, 0, 1), 0.0)
    over = 1.35 * (1 - fade((along - 0.15) / 0.5)) - 1.5 * (
        1 - fade((along - 0.68) / 0.55)
    )  # over teeth and lip, then down
    flat = -0.35 * (p[:, 1] + 8.1) * along
    out = np.stack([-0.15 * p[:, 0] * along, over + flat, 3.7 * along**2], 1)
    part.deltas = {
        "JawOpen": jaw[:, None] * jaw_rotation(p),
        "JawForward": jaw[:, None] * [0, 0, 0.75],
        "JawLeft": jaw[:, None] * [0.85, 0, 0],
        "JawRight": jaw[:, None] * [-0.85, 0, 0],
        "TongueOut": out,
    }
    return part
