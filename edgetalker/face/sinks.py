"""Sinks that write the face's files: an animated .glb, and stills and curves over the waveform as .png."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, MissingPackageError, OptionError
from edgetalker.face.glb import write_glb
from edgetalker.face.plot import plot_motion
from edgetalker.face.sheet import render_sheet
from edgetalker.face.vertexmotion import write_vertex_glb
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["GlbSink", "PlotSink"]


class _Kept(Sink):
    """Keeps copies of all motion until the end."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.layout: MotionLayout | None = None
        self._frames: list[NDArray[np.float32]] = []

    def open(self, layout: MotionLayout) -> None:
        """Raises OptionError when the motion is of a kind that cannot be written so."""
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: the folder {self.path.parent} does not exist")
        self.layout = layout
        self._frames.clear()

    def send(self, frame: Frame) -> None:
        """Keep one frame."""
        self._frames.append(np.array(frame.motion, np.float32))

    def motion(self) -> NDArray[np.float32]:
        """Return what came, (T, ...)."""
        return np.stack(self._frames)


class GlbSink(_Kept):
    """Writes an animated glTF: our own face for ARKit shapes, the user's mesh for vertices.

    Vertices need the mesh's triangles: `layout.extra["triangles"]`, (F, 3). `layout.extra["metres"]` is the
    length of the motion's unit in metres, 1 when absent.
    """

    def open(self, layout: MotionLayout) -> None:
        if layout.kind == "vertices" and layout.extra.get("triangles") is None:
            raise OptionError(
                f"{self.path}: the bundle gives vertices but not the triangles between them",
                hint="write .npz, or make the .glb with edgetalker.face.vertexmotion and the template's triangles",
            )
        if layout.kind not in ("arkit", "vertices"):
            raise OptionError(f"{self.path}: motion of kind `{layout.kind}` cannot be shown on a face")
        super().open(layout)

    def close(self) -> None:
        """Write the file; no file when no frame came."""
        layout = self.layout
        if layout is None or not self._frames:
            return
        if layout.kind == "arkit":
            write_glb(self.path, self.motion(), layout.fps, layout.names)
            return
        extra: dict[str, Any] = dict(layout.extra)
        motion = self.motion().reshape(len(self._frames), -1, 3)
        write_vertex_glb(
            self.path, motion, np.asarray(extra["triangles"]), layout.fps, metres=float(extra.get("metres", 1.0))
        )


class PlotSink(_Kept):
    """Draws stills of the face and the curves that move most over the waveform; without matplotlib only stills."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._sound: list[NDArray[np.float32]] = []
        self._rate = 16000

    def open(self, layout: MotionLayout) -> None:
        if layout.kind != "arkit":
            raise OptionError(f"{self.path}: curves need motion with names; this bundle gives {layout.kind}")
        super().open(layout)
        self._sound.clear()

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        """Keep the sound that the frames come from."""
        self._sound.append(np.array(samples, np.float32))
        self._rate = rate

    def close(self) -> None:
        """Write the file; no file when no frame came."""
        if self.layout is None or not self._frames:
            return
        motion, layout = self.motion(), self.layout
        sound = np.concatenate(self._sound) if self._sound else np.zeros(0, np.float32)
        try:
            plot_motion(self.path, motion, sound, self._rate, layout.names, layout.fps)
        except MissingPackageError as missing:
            seconds = len(motion) / float(layout.fps)
            render_sheet(self.path, motion, layout.fps, (np.arange(8) + 0.5) / 8 * seconds, layout.names)
            sys.stderr.write(f"note: {missing}\nnote: {self.path} has stills of the face, but no curves\n")
