"""A picture of some vertices' tracks in several takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import write_whole
from edgetalker.engines.lazy import packages_for

__all__ = ["plot_tracks"]

_MOST = 6


def plot_tracks(
    path: Path, takes: Mapping[str, NDArray[np.float32]], fps: float, vertices: NDArray[np.int64] | None = None
) -> list[int]:
    """Draw the vertices that move most (of those given, or of all), along the axis on which each moves most.

    takes: name -> (F, V, 3); the last is drawn first and thick. Returns the vertices that were drawn. Raises
    MissingPackageError without matplotlib.
    """
    with packages_for("drawing tracks", extra="view"):
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    first = next(iter(takes.values()))
    candidates = np.arange(first.shape[1]) if vertices is None else vertices
    spread = first[:, candidates].std(axis=0)
    chosen = np.argsort(-spread.max(axis=1), kind="stable")[:_MOST]
    figure, panels = plt.subplots(len(chosen), 1, figsize=(10, 1.6 * len(chosen)), sharex=True, squeeze=False)
    for place, panel in zip(chosen, panels[:, 0], strict=True):
        vertex, axis = int(candidates[place]), int(spread[place].argmax())
        for name, take in takes.items():
            panel.plot(np.arange(len(take)) / fps, take[:, vertex, axis], label=name, linewidth=1)
        panel.set_ylabel(f"{vertex}, {'xyz'[axis]}", fontsize=8)
    panels[0, 0].legend(fontsize=8, loc="upper right")
    panels[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)
    return [int(candidates[place]) for place in chosen]
