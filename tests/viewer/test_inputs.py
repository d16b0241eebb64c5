"""What is shown: recorded motion, template meshes, the sink by its URL, a session's controls."""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import DeviceError, InputError, OptionError
from edgetalker.engines.mesh import read_template
from edgetalker.face.names import MOTION_NAMES
from edgetalker.outputs import sink_for
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.sinks.files.recordings import NpzSink
from edgetalker.runtime.talker import Talker
from edgetalker.viewer.controls import controls_of
from edgetalker.viewer.recorded import read_recording
from edgetalker.viewer.scene import mesh_asset
from edgetalker.viewer.sink import ViewerSink
from edgetalker.viewer.stream import Reader, Stream
from tests.viewer.pages import ARKIT, Page, frame

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SIDE = [(0, 1, 3), (0, 3, 2)]


def obj(path: Path) -> Path:
    lines = ["# a comment", "o cube", *(f"v {x} {y} {z}" for x, y, z in CUBE), "vn 0 0 1", "f 1//1 2//1 4//1 3//1"]
    path.write_text("\n".join(lines))
    return path


def ply(path: Path, form: str) -> Path:
    order = ">" if "big" in form else "<"
    head = (
        f"ply\nformat {form} 1.0\ncomment made by a test\nelement vertex 8\nproperty float x\nproperty float y\n"
        "property float z\nproperty uchar red\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if form == "ascii":
        body = "".join(f"{x} {y} {z} 7\n" for x, y, z in CUBE) + "4 0 1 3 2\n"
        path.write_bytes((head + body).encode())
    else:
        body_bytes = b"".join(struct.pack(order + "fffB", *v, 7) for v in CUBE)
        path.write_bytes(head.encode() + body_bytes + struct.pack(order + "B4i", 4, 0, 1, 3, 2))
    return path


@pytest.mark.parametrize("kind", ["obj", "ascii", "binary_little_endian", "binary_big_endian"])
def test_template_meshes_read_and_polygons_are_fanned_out(kind: str, tmp_path: Path) -> None:
    path = obj(tmp_path / "cube.obj") if kind == "obj" else ply(tmp_path / "cube.ply", kind)
    vertices, triangles = read_template(path)
    assert np.array_equal(vertices, CUBE)
    assert [tuple(t) for t in triangles.tolist()] == SIDE


def test_no_vertex_of_an_obj_is_split_or_dropped(tmp_path: Path) -> None:
    """Materials, seams of texture coordinates and vertices that no face uses: motion moves vertices by number."""
    lines = [f"v {k} {k * k} 0" for k in range(6)] + [f"vt {k} 0" for k in range(4)]
    lines += ["usemtl skin", "f 2/1 3/2 4/3", "usemtl eye", "g other", "f 2/4 4/3 5/1", "v 9 9 9", "f -1 -2 -3"]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    vertices, triangles = read_template(tmp_path / "a.obj")
    assert vertices[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert triangles.tolist() == [[1, 2, 3], [1, 3, 4], [6, 5, 4]]


@pytest.mark.parametrize("sizes", [[3, 5, 4], [4, 4, 4], [3, 3, 3], [3, 3, 4]])
def test_a_binary_ply_may_mix_polygons(tmp_path: Path, sizes: list[int]) -> None:
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\n"
    )
    head += f"element face {len(sizes)}\nproperty list uchar int vertex_indices\nend_header\n"
    faces = b"".join(struct.pack(f"<B{size}i", size, *range(size)) for size in sizes)
    (tmp_path / "a.ply").write_bytes(head.encode() + np.arange(18, dtype="<f4").tobytes() + faces)
    vertices, triangles = read_template(tmp_path / "a.ply")
    assert vertices.ravel().tolist() == list(range(18))
    assert triangles.tolist() == [[0, k, k + 1] for size in sizes for k in range(1, size - 1)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.stl", b""),
        ("a.obj", b"v 0 0 0\nf 1 2 3\n"),
        ("a.obj", b"v 0 zero 0\n"),
        ("a.obj", b""),
        ("a.ply", b"ply\n"),
        ("a.ply", b"plx\nformat ascii 1.0\nend_header\n"),
        ("a.ply", b"ply\nformat middle 1.0\nelement vertex 1\nproperty float x\nend_header\n"),
    ],
)
def test_a_broken_template_is_one_message(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_template(tmp_path / name)


def test_an_absent_template_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.obj"):
        read_template(tmp_path / "none.obj")


@given(st.binary(max_size=200), st.sampled_from([".obj", ".ply"]))
def test_no_bytes_break_the_template_reader(data: bytes, suffix: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(b"ply\nformat binary_little_endian 1.0\n" + data if suffix == ".ply" else data)
        with contextlib.suppress(InputError):
            read_template(path)


def test_recorded_motion_reads_back_as_animate_wrote_it(tmp_path: Path) -> None:
    sink = NpzSink(tmp_path / "face.npz")
    sink.open(ARKIT)
    for index, outcome in ((0, Outcome.ON_TIME), (1, Outcome.LATE), (3, Outcome.HELD)):
        sink.send(frame(index, outcome))
    sink.close()
    recording = read_recording(tmp_path / "face.npz")
    assert recording.layout.names == MOTION_NAMES
    assert recording.layout.fps == Fraction(25)
    assert [(f.index, f.time, f.cost_ms) for f in recording.frames] == [(0, 0.0, 2.0), (1, 0.04, 2.0), (3, 0.12, 2.0)]
    assert [f.outcome for f in recording.frames] == [0, 1, 2]
    assert recording.frames[2].values[5] == np.float32(0.003)


def test_plain_vertices_need_no_names(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "v.npz", motion=np.zeros((4, 12), np.float32), fps=np.array([30000, 1001]), names=np.zeros(0, str)
    )
    with pytest.raises(InputError, match="names"):
        read_recording(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", motion=np.zeros((4, 6, 3), np.float32), fps=np.array([30000, 1001]))
    layout = read_recording(tmp_path / "v.npz").layout
    assert (layout.kind, layout.shape, layout.fps) == ("vertices", (6, 3), Fraction(30000, 1001))


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"motion": np.zeros((0, 55)), "fps": np.array([25, 1])},
        {"motion": np.full((2, 55), np.nan), "fps": np.array([25, 1]), "names": np.array(MOTION_NAMES)},
        {"motion": np.zeros((2, 54)), "fps": np.array([25, 1]), "names": np.array(MOTION_NAMES)},
        {"motion": np.zeros((2, 55)), "fps": np.array([25, 0]), "names": np.array(MOTION_NAMES)},
        {"motion": np.zeros((2, 2)), "fps": np.array([25, 1]), "names": np.array(["a", "b"])},
    ],
)
def test_recorded_motion_that_cannot_be_shown_is_one_message(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"x\.npz"):
        read_recording(tmp_path / "x.npz")


GOOD: dict[str, Any] = {
    "motion": np.zeros((4, 55), np.float32), "fps": np.array([25, 1]), "names": np.array(MOTION_NAMES),
    "index": np.arange(4), "time": np.arange(4) / 25, "outcome": np.array(["on_time"] * 4), "cost_ns": np.zeros(4, int),
    "due_ns": np.zeros(4, int), "done_ns": np.zeros(4, int),
}  # fmt: skip
ARRAYS = [
    np.zeros((0,)), np.zeros(()), np.zeros(3), np.zeros((4, 3)), np.full(4, np.nan), np.full(4, np.inf),
    np.arange(4) - 9,
    np.full(4, 2**63 - 1), np.array(["x"]), np.array("x"), np.array([b"late"] * 4), np.zeros((4, 0)),
    np.zeros((4, 7, 3)),
    np.zeros((2, 2, 2, 3)), np.array([0, 0]), np.array([1, -1]), np.array([2**62, 1]), np.array([25.0, 1.0]),
    np.zeros(4, complex), np.zeros(4, bool), np.zeros(4, "datetime64[s]"), np.zeros(4, [("a", "i4")]),
]  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*GOOD, "triangles"]), st.sampled_from(ARRAYS), min_size=1, max_size=3))
def test_a_recording_of_any_arrays_is_shown_or_refused_in_one_message(changed: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "x.npz", **{**GOOD, **changed})
        try:
            recording = read_recording(Path(folder) / "x.npz")
        except InputError:
            return
    stream = Stream("clip")
    stream.describe(recording.layout)
    for shown in recording.frames:
        stream.frame(shown)
    assert Reader(stream).messages()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_a_recording_with_broken_bytes_is_shown_or_refused(data: st.DataObject) -> None:
    into = io.BytesIO()
    np.savez(into, **GOOD)
    raw = bytearray(into.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.npz").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
        with contextlib.suppress(InputError):
            read_recording(Path(folder) / "x.npz")


def test_the_names_of_web_avatars_and_a_meshs_triangles_come_back(tmp_path: Path) -> None:
    sink = sink_for(f"{tmp_path / 'a.npz'}?case=camel")
    sink.open(ARKIT)
    sink.send(frame(0))
    sink.close()
    assert read_recording(tmp_path / "a.npz").layout.names == MOTION_NAMES
    mesh = MotionLayout("vertices", (8, 3), Fraction(25), extra={"triangles": SIDE})
    sink = sink_for(tmp_path / "b.npz")
    sink.open(mesh)
    sink.send(Frame(0, 0, Fraction(0), CUBE.astype(np.float32)))
    sink.close()
    layout = read_recording(tmp_path / "b.npz").layout
    assert mesh_asset(layout)[1].body == mesh_asset(mesh)[1].body


def test_a_file_that_is_no_npz_and_one_that_holds_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match="array file"):
        read_recording(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", motion=np.array([{"evil": 1}], dtype=object), fps=np.array([25, 1]))
    with pytest.raises(InputError, match="array file"):
        read_recording(tmp_path / "y.npz")
    with pytest.raises(InputError, match="No such file"):
        read_recording(tmp_path / "none.npz")


def test_a_mesh_must_fit_its_motion() -> None:
    layout = MotionLayout("vertices", (8, 3), Fraction(25))
    _path, asset = mesh_asset(layout, np.array(SIDE))
    assert struct.unpack_from("<4sII", asset.body) == (b"ETM1", 8, 2)
    assert np.frombuffer(asset.body, "<u4", 6, 12).tolist() == [0, 1, 3, 0, 3, 2]
    assert asset.private
    with pytest.raises(OptionError, match="not known"):
        mesh_asset(layout)
    with pytest.raises(OptionError, match="do not fit"):
        mesh_asset(layout, np.array([[0, 1, 8]]))


def test_a_sessions_named_and_bounded_controls_become_sliders(toy: Bundle) -> None:
    session = Talker(toy.path)
    try:
        session.set("setting", {"east": 0.75})
        (control,) = controls_of(session)
    finally:
        session.close()
    assert control["name"] == "setting"
    assert [p["name"] for p in control["places"]] == ["north", "east", "south", "west"]
    assert control["places"][1] == {"name": "east", "low": 0.0, "high": 1.0, "value": 0.75}
    assert control["places"][3]["value"] == 0.5


@pytest.fixture
def sink() -> Iterator[ViewerSink]:
    made = sink_for("view://?browser=no")
    assert isinstance(made, ViewerSink)
    yield made
    made.close()


def test_the_sink_shows_what_the_loop_sends(sink: ViewerSink, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
    sink.open(ARKIT)
    assert sink.url in capsys.readouterr().err
    with Page(sink._server) as page:
        page.listen(lambda p: p.last("hello") is not None)
        for index in range(10):
            sink.hear(np.full(640, index / 10, np.float32), 16000)
            sink.send(frame(index))
        page.listen(lambda p: 9 in p.frames and len(p.sounds) == 10)
        assert [first for _, first, _ in page.sounds] == [640 * k for k in range(10)]
        sink.reset()
        sink.send(frame(0))
        page.listen(lambda p: (p.last("take") or {}).get("take") == 1)


def test_the_pages_sliders_reach_the_session_and_reset_the_talker(sink: ViewerSink, toy: Bundle) -> None:
    pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")

    class Running:
        resets = 0

        def reset(self) -> None:
            self.resets += 1

    session, running = Talker(toy.path), Running()
    try:
        sink.attach(session, running)
        sink.open(ARKIT)
        with Page(sink._server) as page:
            page.send({"type": "set", "control": "setting", "values": {"north": 0.5}})
            page.send({"type": "set", "control": "setting", "values": {"north": 7}})
            page.send({"type": "set", "control": "setting", "values": {"nroth": 0.1}})
            page.send({"type": "reset"})
            page.send({"type": "nonsense"})
            page.listen(lambda p: sum(m["type"] == "error" for m in p.said) == 3)
        refused = [m["message"] for m in page.said if m["type"] == "error"]
        assert "0 to 1" in refused[0]
        assert "north" in refused[1]
        assert session.controls["setting"].target[0] == 0.5
        assert running.resets == 1
    finally:
        session.close()


def test_without_a_session_a_request_is_refused(sink: ViewerSink) -> None:
    pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
    sink.open(ARKIT)
    with Page(sink._server) as page:
        page.send({"type": "set", "control": "emotion", "values": {"joy": 1}})
        page.send({"type": "reset"})
        page.listen(lambda p: sum(m["type"] == "error" for m in p.said) == 2)


@pytest.mark.parametrize(
    "url", ["view://0.0.0.0:80", "view://evil.example", "view://?browsr=no", "view://:99999", "view://?browser=maybe"]
)
def test_other_hosts_and_unknown_options_are_refused(url: str) -> None:
    with pytest.raises(OptionError, match="view"):
        sink_for(url)


def test_motion_that_no_face_can_show_is_refused_before_the_first_frame(sink: ViewerSink) -> None:
    with pytest.raises(OptionError, match="other"):
        sink.open(MotionLayout("other", (7,), Fraction(25)))


def test_a_taken_port_is_a_device_error(sink: ViewerSink) -> None:
    pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
    sink.open(ARKIT)
    other = sink_for(f"view://:{sink._server.port}?browser=no")
    with pytest.raises(DeviceError):
        other.open(ARKIT)
    other.close()


def test_a_browser_is_opened_only_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import webbrowser

    from edgetalker.viewer.screen import open_page

    opened: list[str] = []

    def remember(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", remember)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert open_page("http://127.0.0.1:1/") is False
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_page("http://127.0.0.1:1/") is True
    assert opened == ["http://127.0.0.1:1/"]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_mesh_that_never_ends_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.ply").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="a device or a pipe"):
        read_template(tmp_path / "a.ply")


def test_a_mesh_for_motion_without_vertices_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = NpzSink(tmp_path / "face.npz")
    sink.open(MotionLayout("arkit", (55,), Fraction(30), MOTION_NAMES))
    sink.send(Frame(0, 0, Fraction(0), np.zeros(55, np.float32)))
    sink.close()
    assert main(["view", str(tmp_path / "face.npz"), "--template", "a.ply", "--no-browser"]) == 64
    assert "this motion is ARKit's" in capsys.readouterr().err
