"""The sinks for .glb and .png, through the table that `-o` uses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.errors import OptionError, OutputError
from edgetalker.face.names import MOTION_NAMES, SHAPE_INDEX
from edgetalker.outputs import sink_for
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
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


def test_triangles_may_come_from_the_users_template(tmp_path: Path) -> None:
    (tmp_path / "m.obj").write_text("v 0 0 0\nv 9 0 0\nv 9 9 0\nv 0 9 0\nf 1 2 3 4\n")
    sink = sink_for(f"{tmp_path / 'm.glb'}?template={tmp_path / 'm.obj'}")
    sink.open(vertices({}))
    sink.send(frame(0, np.eye(4, 3)))
    sink.close()
    glb = Glb(tmp_path / "m.glb")
    assert glb.read(glb.json["meshes"][0]["primitives"][0]["indices"]).ravel().tolist() == [0, 1, 2, 0, 2, 3]
    with pytest.raises(OptionError, match="has 4 vertices; the motion has 5"):
        sink_for(tmp_path / "n.glb", {"template": str(tmp_path / "m.obj")}).open(
            MotionLayout("vertices", (5, 3), Fraction(25))
        )


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
    for name in ("a.glb", "a.png"):
        with pytest.raises(OutputError, match="there is no folder"):
            sink_for(tmp_path / "no" / name)
        (tmp_path / name).mkdir()
        with pytest.raises(OutputError, match="is a folder"):
            sink_for(tmp_path / name)


@pytest.mark.parametrize("name", ["a.glb", "a.png"])
def test_a_disk_that_is_full_in_the_end_is_told_and_leaves_the_older_file(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    (tmp_path / name).write_text("an older result")
    sink = sink_for(tmp_path / name)
    sink.open(ARKIT)
    sink.send(frame(0, np.zeros(55)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large") as caught:
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 74
    assert (tmp_path / name).read_text() == "an older result"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_targets_may_be_spelt_as_web_avatars_have_them(tmp_path: Path) -> None:
    sink = sink_for(f"{tmp_path / 'a.glb'}?case=camel")
    sink.open(ARKIT)
    sink.send(frame(0, np.zeros(55)))
    sink.close()
    targets = Glb(tmp_path / "a.glb").json["meshes"][0]["extras"]["targetNames"]
    assert sorted(targets)[:2] == ["browDownLeft", "browDownRight"]
    assert len(targets) == 52


def test_keys_are_at_the_frames_own_times(tmp_path: Path) -> None:
    """A slot that was skipped is a gap of time: what comes after it stays in step with the sound."""
    sink = sink_for(tmp_path / "a.glb")
    sink.open(ARKIT)
    for slot in (0, 1, 5, 6):
        sink.send(frame(slot, np.full(55, slot / 10)))
    sink.close()
    glb = Glb(tmp_path / "a.glb")
    times = glb.read(glb.json["animations"][0]["samplers"][0]["input"])
    assert times.ravel().tolist() == np.array([0, 0.04, 0.2, 0.24], np.float32).tolist()


def test_a_plots_sound_stays_in_step_where_sound_did_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("edgetalker.face.sinks.plot_motion", lambda *args, **named: drawn.update(args=args, **named))
    sink = sink_for(tmp_path / "a.png")
    sink.open(ARKIT)
    for slot in range(6):
        if slot not in (2, 3):
            sink.hear(np.full(640, slot, np.float32), 16000)
        sink.send(replace(frame(slot, np.zeros(55)), outcome=Outcome.STARVED if slot in (2, 3) else Outcome.ON_TIME))
    sink.close()
    assert drawn["times"] == [slot / 25 for slot in range(6)]
    assert drawn["args"][2].reshape(6, 640)[:, 0].tolist() == [0, 1, 0, 0, 4, 5]


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    sink = sink_for(tmp_path / "a.png")
    sink.open(ARKIT)
    sink.send(frame(0, np.zeros(55)))
    sink.close()
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "no curves" in caplog.text
