"""Curves of motion over the waveform, under stills of the face, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import PartFile, write_whole
from edgetalker.engines.lazy import required
from edgetalker.face.names import mirrored_name

__all__ = ["liveliest", "plot_motion"]


def liveliest(motion: NDArray[Any], names: Sequence[str], count: int = 8) -> list[str]:
    """Return the names of the `count` columns of motion (T, n) that move most, in their own order.

    A right side that does what its left side does is left out; the jaw, if it moves at all, is in.
    """
    values = np.asarray(motion, np.float64)
    spread = values.std(0)
    for index, name in enumerate(names):
        left = mirrored_name(name)
        if (
            name.endswith("Right")
            and left in names
            and np.allclose(values[:, index], values[:, names.index(left)], atol=0.05)
        ):
            spread[index] = 0.0
    if "JawOpen" in names and spread[names.index("JawOpen")] > 0:
        spread[names.index("JawOpen")] = np.inf
    ranked = [index for index in np.argsort(-spread, kind="stable").tolist() if spread[index] > 0]
    return [names[index] for index in sorted(ranked[:count])]


def plot_motion(
    path: Path | str | PartFile,
    motion: NDArray[Any],
    audio: NDArray[Any],
    rate: int,
    names: Sequence[str],
    fps: Fraction | float = 25,
    shown: Sequence[str] | None = None,
    stills: int = 8,
    times: Sequence[float] | None = None,
) -> None:
    """Write curves of motion (T, len(names)) over the waveform (samples,) at `rate`, both by seconds.

    shown: which curves; by default the eight that move most. stills: so many pictures of the face above them,
    each over its own moment; 0 for none. times: (T,) seconds, growing; by default index / fps. Raises
    MissingPackageError without matplotlib and InputError when the motion does not fit the names or a name is unknown.
    """
    values = np.asarray(motion, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names) or not len(values):
        raise InputError(f"motion has the shape {values.shape}; wanted (frames, {len(names)}), at least one frame")
    shown = list(shown) if shown is not None else liveliest(values, names)
    if unknown := [name for name in shown if name not in names]:
        raise InputError(f"no such curve: {', '.join(unknown)}")
    agg = required("matplotlib.backends.backend_agg", "a plot of curves", extra="view")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.8 if stills else 5.6), dpi=120, layout="constrained")
    ratios = (1.25, 1, 3) if stills else (1, 3)
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    moments = np.arange(len(values)) / float(fps) if times is None else np.asarray(times, np.float64)
    seconds = max(len(audio) / rate, float(moments[-1]) + 1 / float(fps))
    if stills:
        _draw_stills(axes[0], values, list(names), moments, seconds, stills)
    _draw_sound(axes[-2], np.asarray(audio), rate)
    _draw_curves(axes[-1], values, list(names), moments, seconds, shown)
    agg.FigureCanvasAgg(figure)
    with write_whole(path) as file:
        figure.savefig(file, format="png")


def _draw_stills(
    axes: Any, motion: NDArray[Any], names: list[str], moments: NDArray[Any], seconds: float, count: int
) -> None:
    from edgetalker.face.sheet import render_face

    middles = (np.arange(count) + 0.5) * seconds / count
    picked = np.clip(np.searchsorted(moments, middles, side="right") - 1, 0, None)
    # the sides are cut off, so that eight of them are as wide as the axes
    strip = np.concatenate([render_face(motion[index], names, 160)[:, 19:141] for index in picked], axis=1)
    axes.imshow(strip, extent=(0.0, seconds, 0.0, 1.0), aspect="auto", interpolation="antialiased")
    axes.set_axis_off()


def _draw_sound(axes: Any, audio: NDArray[Any], rate: int) -> None:
    time, low, high = _envelope(audio, rate)
    axes.fill_between(time, low, high, color="#4a6b7c", linewidth=0)
    axes.set_ylabel("sound")
    axes.set_ylim(-1.05, 1.05)


def _draw_curves(
    axes: Any, motion: NDArray[Any], names: list[str], moments: NDArray[Any], seconds: float, shown: Sequence[str]
) -> None:
    for name in shown:
        axes.plot(moments, motion[:, names.index(name)], label=name, linewidth=1.2)
    axes.set_xlabel("seconds")
    axes.set_ylabel("weight, or radians")
    axes.set_xlim(0, seconds)
    axes.grid(alpha=0.25)
    if shown:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _envelope(audio: NDArray[Any], rate: int, columns: int = 1600) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return times and the least and largest sample around them: what a waveform display shows."""
    if not len(audio):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    edges = np.unique(np.linspace(0, len(audio), columns, endpoint=False).astype(np.int64))
    return edges / rate, np.minimum.reduceat(audio, edges), np.maximum.reduceat(audio, edges)
