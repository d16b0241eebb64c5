"""The sinks for .glb and .png, through the table that `-o` uses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.face.names import MOTION_NAMES, SHAPE_INDEX
from edgetalker.outputs import sink_for
from edgetalker.runtime.frame import Frame, MotionLayout
from tests.face.glb_reader import Glb

ARKIT = MotionLayout("arkit", (55,), Fraction(25), MOTION_NAMES)


def vertices(extra: Mapping[str, Any]) -> MotionLayout:
    return MotionLayout("vertices", (4, 3), Fraction(25), extra=extra)


def frame(index: int, motion: Any) -> Frame:
    return Frame(index, 640 * (index + 1), Fraction(index, 25), np.asarray(motion, np.float32))


def test_glb_sink_keeps_copies_and_writes_at_the_end(tmp_path: Path) -> None:
    sink = sink_for(tmp_path / "a.glb")
    sink.open(ARKIT)
    motion = np.zeros(55, np.float32)
    for index in range(3):
        motion[SHAPE_INDEX["JawOpen"]] = index / 2  # the same array, as the session's
        sink.send(frame(index, motion))
    assert not (tmp_path / "a.glb").exists()
    sink.close()
    glb = Glb(tmp_path / "a.glb")
    weights = glb.read(glb.json["animations"][0]["samplers"][0]["output"]).reshape(3, 52)
    assert weights[:, SHAPE_INDEX["JawOpen"]].tolist() == [0.0, 0.5, 1.0]


def test_glb_sink_writes_the_users_mesh(tmp_path: Path) -> None:
    sink = sink_for(tmp_path / "m.glb")
    sink.open(vertices({"triangles": [[0, 1, 2], [0, 2, 3]], "metres": 0.001}))
    rest = np.array([[0, 0, 0], [9, 0, 0], [9, 9, 0], [0, 9, 0]], np.float32)
    for index in range(4):
        sink.send(frame(index, rest + index * np.eye(4, 3)))
    sink.close()
    glb = Glb(tmp_path / "m.glb")
    assert len(glb.json["meshes"][0]["primitives"][0]["targets"]) == 1
    assert glb.read(glb.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"]).max() < 0.02


def test_no_frames_no_file(tmp_path: Path) -> None:
    for name in ("a.glb", "a.png"):
        sink = sink_for(tmp_path / name)
        sink.open(ARKIT)
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="triangles"):
        sink_for(tmp_path / "a.glb").open(vertices({}))
    with pytest.raises(OptionError, match="other"):
        sink_for(tmp_path / "a.glb").open(MotionLayout("other", (7,), Fraction(25)))
    with pytest.raises(OptionError, match="names"):
        sink_for(tmp_path / "a.png").open(vertices({}))
    with pytest.raises(InputError, match="does not exist"):
        sink_for(tmp_path / "no" / "a.glb").open(ARKIT)


def test_plot_sink_hears_the_sound(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `view`)")
    sink: Any = sink_for(tmp_path / "a.png")
    sink.open(ARKIT)
    for index in range(30):
        sink.hear(np.full(640, 0.5, np.float32), 16000)
        sink.send(frame(index, np.full(55, index / 30)))
    sink.close()
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib_there_are_stills_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    sink = sink_for(tmp_path / "a.png")
    sink.open(ARKIT)
    sink.send(frame(0, np.zeros(55)))
    sink.close()
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "no curves" in capsys.readouterr().err
