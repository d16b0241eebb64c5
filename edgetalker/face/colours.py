"""The colours of the skin: lips, cheeks, lids, shadows in the folds; linear RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.around import SKIN_COLOUR
from edgetalker.face.grid import GRID
from edgetalker.face.skin import Skin, bump, eye_fraction, fade
from edgetalker.face.tissue import linear, mixed

__all__ = ["lip_share", "skin_colours"]

Array = NDArray[np.float64]


def lip_share(skin: Skin) -> Array:
    """Return how much of each vertex is lip (N,): 1 on the red of the lips, soft at its outline."""
    p = skin.flat
    rise = p[:, 1] - sculpt.MOUTH_HEIGHT
    edge = np.where(rise > 0, (rise - sculpt.LIP_UP) / 0.25, (-sculpt.LIP_DOWN - rise) / 0.25)
    beside = fade((np.abs(p[:, 0]) - sculpt.MOUTH_HALF + 0.2) / 0.3)
    return np.where(skin.kind == 2, 1.0, fade(edge + 0.6) * (p[:, 2] > 5) * beside)


def skin_colours(skin: Skin) -> Array:
    """Return the colours (N, 3) of all skin vertices."""
    p = skin.positions
    q = np.abs(p) * [1, 0, 0] + p * [0, 1, 1]
    c = np.tile(SKIN_COLOUR, (len(p), 1))
    c = mixed(c, linear("#d98a72"), 0.55 * bump(q, (4.3, -3.0, 6.5), (2.0, 1.7, 4.0)))
    c = mixed(c, linear("#d88f78"), 0.5 * bump(q, (0.0, -3.6, 10.2), (1.3, 1.0, 1.5)))
    c = mixed(c, linear("#c98a70"), 0.45 * bump(q, (3.2, 1.0, 8.0), (1.9, 0.6, 2.0)))
    c = mixed(c, linear("#7c4334"), 0.9 * bump(q, (0.5, -4.45, 9.0), (0.26, 0.22, 0.5)))
    c = mixed(c, linear("#c2655f"), 0.85 * lip_share(skin))
    c = mixed(c, linear("#b98069"), 0.35 * fade((p[:, 1] + 11.6) / 0.8) * (p[:, 1] < -10))
    return _inner(skin, _lid_edges(skin, c))


def _lid_edges(skin: Skin, c: Array) -> Array:
    s = eye_fraction(skin.positions[:, 0])
    on_edge = np.zeros(len(c))
    for slit in GRID.eyes:
        on_edge[slit.loop()] = 0.55
    on_edge[skin.kind == 1] = 0.75
    return mixed(c, linear("#a86255"), on_edge * (0.7 + 0.3 * s))


def _inner(skin: Skin, c: Array) -> Array:
    deep = np.where(skin.kind == 2, skin.depth, 0.0)
    c = mixed(c, linear("#a04c4c"), np.clip(3.0 * deep, 0, 1))
    return mixed(c, linear("#240b0d"), np.clip(3.2 * deep - 0.6, 0, 1))
