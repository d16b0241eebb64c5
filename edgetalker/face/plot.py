"""Curves of motion over the waveform, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, MissingPackageError
from edgetalker.engines.files import write_whole

__all__ = ["liveliest", "plot_motion"]


def liveliest(motion: NDArray[Any], names: Sequence[str], count: int = 8) -> list[str]:
    """Return the names of the `count` columns of motion (T, n) that move most, in their own order."""
    spread = np.asarray(motion, np.float64).std(0)
    ranked = [index for index in np.argsort(-spread, kind="stable").tolist() if spread[index] > 0]
    return [names[index] for index in sorted(ranked[:count])]


def plot_motion(
    path: Path | str,
    motion: NDArray[Any],
    audio: NDArray[Any],
    rate: int,
    names: Sequence[str],
    fps: Fraction | float = 25,
    shown: Sequence[str] | None = None,
) -> None:
    """Write curves of motion (T, len(names)) over the waveform (samples,) at `rate`, both by seconds.

    shown: which curves; by default the eight that move most. Raises MissingPackageError without matplotlib and
    InputError when the motion does not fit the names or a name is unknown.
    """
    values = np.asarray(motion, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names) or not len(values):
        raise InputError(f"motion has the shape {values.shape}; wanted (frames, {len(names)}), at least one frame")
    shown = list(shown) if shown is not None else liveliest(values, names)
    if unknown := [name for name in shown if name not in names]:
        raise InputError(f"no such curve: {', '.join(unknown)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("matplotlib", "a plot of curves", extra="view") from None
    figure = Figure(figsize=(11.0, 5.6), dpi=120, layout="constrained")
    _fill(figure, values, np.asarray(audio), rate, list(names), float(fps), shown)
    FigureCanvasAgg(figure)
    with write_whole(path) as file:
        figure.savefig(file, format="png")


def _fill(
    figure: Any, motion: NDArray[Any], audio: NDArray[Any], rate: int, names: list[str], fps: float, shown: list[str]
) -> None:
    wave, curves = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    time, low, high = _envelope(audio, rate)
    wave.fill_between(time, low, high, color="#4a6b7c", linewidth=0)
    wave.set_ylabel("sound")
    wave.set_ylim(-1.05, 1.05)
    for name in shown:
        curves.plot(np.arange(len(motion)) / fps, motion[:, names.index(name)], label=name, linewidth=1.2)
    curves.set_xlabel("seconds")
    curves.set_ylabel("weight, or radians")
    curves.set_xlim(0, max(len(audio) / rate, len(motion) / fps))
    curves.grid(alpha=0.25)
    curves.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _envelope(audio: NDArray[Any], rate: int, columns: int = 1600) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return times and the least and largest sample around them: what a waveform display shows."""
    if not len(audio):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    edges = np.unique(np.linspace(0, len(audio), columns, endpoint=False).astype(np.int64))
    return edges / rate, np.minimum.reduceat(audio, edges), np.maximum.reduceat(audio, edges)
