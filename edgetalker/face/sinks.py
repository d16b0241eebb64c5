"""Sinks that write the face's files: an animated .glb, and stills and curves over the waveform as .png."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import MissingPackageError, OptionError
from edgetalker.engines.files import PartFile, checked_target
from edgetalker.engines.mesh import read_template
from edgetalker.face.glb import write_glb
from edgetalker.face.plot import plot_motion
from edgetalker.face.sheet import render_sheet
from edgetalker.face.vertexmotion import write_vertex_glb
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.sinks.options import CASE, Option, read_table, text
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["GlbSink", "PlotSink"]

UNITS = {"metres": 1.0, "m": 1.0, "centimetres": 0.01, "cm": 0.01, "millimetres": 0.001, "mm": 0.001}
_log = logging.getLogger("edgetalker.face")


class _Kept(Sink):
    """Keeps copies of all motion and its times until the end; the file is opened before the first frame."""

    OPTIONS: Mapping[str, Option] = {}

    def __init__(self, path: Path | str, options: Mapping[str, object] | None = None) -> None:
        """Raises OptionError, or OutputError when nothing can be written there."""
        self.options = read_table(str(path), self.OPTIONS, options)
        self.path = checked_target(path)

    def open(self, layout: MotionLayout) -> None:
        """Raises OptionError when the motion is of a kind that cannot be written so."""
        self.layout = layout
        self.times: list[float] = []
        self._frames: list[NDArray[np.float32]] = []
        self._part = PartFile(self.path, seekable=True)

    def send(self, frame: Frame) -> None:
        """Keep one frame."""
        self._frames.append(np.array(frame.motion, np.float32))
        self.times.append(float(frame.time))

    def close(self) -> None:
        """Write the file; no file when no frame came. Raises OutputError."""
        try:
            if self._frames:
                self._write(np.stack(self._frames))
        finally:
            self._part.discard()

    def _write(self, motion: NDArray[np.float32]) -> None:
        raise NotImplementedError


class GlbSink(_Kept):
    """Writes an animated glTF: our own face for ARKit shapes, the user's mesh for vertices.

    Vertices need the mesh's triangles: those of `template`, or `layout.extra["triangles"]`, (F, 3), which a bundle
    with a constant tensor `triangles` gives. `layout.extra["metres"]` is the length of the motion's unit in metres;
    without it the layout's units say so (metres, cm, mm), else it is 1. `case` spells our own face's targets.
    """

    OPTIONS: Mapping[str, Option] = {
        "case": CASE,
        "template": Option(text, "", "mesh, .obj or .ply, with the triangles of motion that is vertices"),
    }

    def open(self, layout: MotionLayout) -> None:
        if layout.kind == "vertices":
            self._triangles = self._mesh(layout)
        if layout.kind not in ("arkit", "vertices"):
            raise OptionError(f"{self.path}: motion of kind `{layout.kind}` cannot be shown on a face")
        super().open(layout)

    def _mesh(self, layout: MotionLayout) -> NDArray[Any]:
        count = int(np.prod(layout.shape)) // 3
        if self.options["template"]:
            vertices, triangles = read_template(self.options["template"])
            if len(vertices) != count:
                raise OptionError(f"{self.options['template']} has {len(vertices)} vertices; the motion has {count}")
            return triangles
        if layout.extra.get("triangles") is None:
            raise OptionError(
                f"{self.path}: the bundle gives vertices but not the triangles between them",
                hint=f"{self.path}?template=MESH.obj (or .ply), the mesh that the model was made for; or write .npz",
            )
        return np.asarray(layout.extra["triangles"])

    def _write(self, motion: NDArray[np.float32]) -> None:
        layout = self.layout
        if layout.kind == "arkit":
            camels = self.options["case"] == "camel"
            write_glb(self._part, motion, layout.fps, layout.names, times=self.times, camels=camels)
            return
        vertices = motion.reshape(len(motion), -1, 3)
        metres = float(layout.extra.get("metres", UNITS.get(layout.units, 1.0)))
        write_vertex_glb(self._part, vertices, self._triangles, layout.fps, metres=metres, times=self.times)


class PlotSink(_Kept):
    """Draws stills of the face and the curves that move most over the waveform; without matplotlib only stills."""

    def open(self, layout: MotionLayout) -> None:
        if layout.kind != "arkit":
            raise OptionError(f"{self.path}: curves need motion with names; this bundle gives {layout.kind}")
        self._sound: list[NDArray[np.float32]] = []
        self._rate = 16000
        super().open(layout)

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        """Keep the sound that the frames come from."""
        self._sound.append(np.array(samples, np.float32))
        self._rate = rate

    def send(self, frame: Frame) -> None:
        """Keep one frame; where its sound did not come, the time line has silence."""
        super().send(frame)
        if frame.outcome is Outcome.STARVED:
            self._sound.append(np.zeros(round(self._rate / self.layout.fps), np.float32))

    def _write(self, motion: NDArray[np.float32]) -> None:
        layout = self.layout
        sound = np.concatenate(self._sound) if self._sound else np.zeros(0, np.float32)
        try:
            plot_motion(self._part, motion, sound, self._rate, layout.names, layout.fps, times=self.times)
        except MissingPackageError as missing:
            seconds = len(motion) / float(layout.fps)
            render_sheet(self._part, motion, layout.fps, (np.arange(8) + 0.5) / 8 * seconds, layout.names)
            _log.warning("%s has stills of the face, but no curves: %s", self.path, missing)
