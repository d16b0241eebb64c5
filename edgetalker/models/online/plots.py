"""Plots of an evaluation as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.metrics import lip_gap

__all__ = ["draw_all", "draw_tracks"]

_COLOURS = ("#1b6ca8", "#d1495b", "#2e7d5b", "#8d6a9f", "#c98a1b")


def _axes(width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def draw_all(results: Mapping[str, Any], folder: Path) -> None:
    """Draw the look-ahead trade-off, closures against the baselines, and the long free run."""
    folder.mkdir(parents=True, exist_ok=True)
    _lookahead(results, folder / "talker-lookahead.png")
    _drift(results, folder / "talker-drift.png")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _lookahead(results: Mapping[str, Any], path: Path) -> None:
    figure, axes = _axes(10, 3.2, columns=3)
    titles = {"mae": "mouth error (MAE)", "f1": "closures, F1", "delay": "delay past the look-ahead (frames)"}
    for axis, (key, title) in zip(axes[0], titles.items(), strict=True):
        for colour, (group, curve) in zip(_COLOURS, results["curve"].items(), strict=False):
            axis.plot([int(d) for d in curve], [row[key] for row in curve.values()], "o-", color=colour, label=group)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([0, 1, 2])
        axis.set_xlabel("look-ahead (frames of 33 ms)")
    axes[0, 2].legend(fontsize=8)
    _save(figure, path)


def _drift(results: Mapping[str, Any], path: Path) -> None:
    figure, axes = _axes(10, 3.2, columns=3)
    titles = {"mae": "mouth error (MAE)", "head_spread": "spread of head angles (rad)", "blinks": "blinks a minute"}
    for axis, (key, title) in zip(axes[0], titles.items(), strict=True):
        for colour, (schedule, minutes) in zip(_COLOURS, results["drift"].items(), strict=False):
            axis.plot(range(1, len(minutes) + 1), [row[key] for row in minutes], "o-", color=colour, label=schedule)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("minute of one free run")
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def draw_tracks(tracks: Mapping[str, NDArray[np.float32]], speech: NDArray[np.float32], path: Path) -> None:
    """Draw jaw and lip gap of several mouths (T, 14) over each other, 30 frames a second; speech is shaded."""
    figure, axes = _axes(10, 4.0, rows=2)
    for axis, (title, value) in zip(axes[:, 0], {"JawOpen": None, "lip gap": lip_gap}.items(), strict=True):
        for colour, (name, mouth) in zip(_COLOURS, tracks.items(), strict=False):
            shown = mouth[:, 0] if value is None else value(mouth)
            axis.plot(np.arange(shown.size) / 30, shown, color=colour, lw=1.2, label=name)
        axis.fill_between(np.arange(speech.size) / 30, 0, 0.7, where=speech > 0.5, color="k", alpha=0.06, lw=0)
        axis.set_title(title, fontsize=10)
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].set_xlabel("seconds")
    _save(figure, path)
