"""Files of motion: read back exactly, whole or not at all, and what was made before an interrupt is kept."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, OutputError
from edgetalker.outputs import sink_for
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.sinks.files.csv import LiveLinkCsvSink, timecode
from edgetalker.runtime.sinks.files.recordings import JsonlSink, NpzSink
from edgetalker.runtime.sinks.names import ARKIT_SHAPES, HEAD_ANGLES, LIVELINK_NAMES
from edgetalker.runtime.sinks.registry import SCHEMES, SUFFIXES
from edgetalker.runtime.sinks.sink import Sink

NTSC = Fraction(30000, 1001)
NAMES = ("JawOpen", "HeadRoll", "MouthClose")
ARKIT = MotionLayout("arkit", (3,), NTSC, NAMES, extra={"audio": {"rate": 16000}})
MESH = MotionLayout("vertices", (5, 3), Fraction(25), units="m")
KINDS: list[tuple[Callable[[Path], Sink], str]] = [(NpzSink, "npz"), (JsonlSink, "jsonl"), (LiveLinkCsvSink, "csv")]
each_kind = pytest.mark.parametrize(("make", "suffix"), KINDS, ids=[suffix for _, suffix in KINDS])


def motions(layout: MotionLayout, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random((count, *layout.shape), np.float32)


def send(sink: Sink, layout: MotionLayout, values: NDArray[np.float32], gap: int = 0) -> None:
    """Send frames the way the loop does: always the same array, overwritten. `gap` frames were skipped after 0."""
    shown = np.empty(layout.shape, np.float32)
    for i in range(len(values)):
        shown[:] = values[i]
        index = i + (gap if i else 0)
        outcome = Outcome.LATE if i % 3 == 2 else Outcome.ON_TIME
        sink.send(Frame(index, 640 * i, index / layout.fps, shown, outcome, "full", 1000 + i, 7 * i, 8 * i))
        shown[:] = np.nan


def write(make: Callable[[Path], Sink], path: Path, layout: MotionLayout, count: int) -> NDArray[np.float32]:
    sink, values = make(path), motions(layout, count)
    sink.open(layout)
    send(sink, layout, values)
    sink.close()
    return values


@pytest.mark.parametrize("layout", [ARKIT, MESH], ids=["arkit", "vertices"])
def test_npz_gives_back_every_field(tmp_path: Path, layout: MotionLayout) -> None:
    sink, values = NpzSink(tmp_path / "a.npz"), motions(layout, 40)
    sink.open(layout)
    send(sink, layout, values, gap=2)
    sink.close()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        read = dict(archive)
    assert read["motion"].dtype == np.float32
    assert np.array_equal(read["motion"], values)
    index = np.array([0, *range(3, 42)])
    assert read["index"].tolist() == index.tolist()
    assert np.array_equal(read["time"], [float(int(i) / layout.fps) for i in index])
    assert read["sample"].tolist() == [640 * i for i in range(40)]
    assert (read["outcome"] == "late").tolist() == [i % 3 == 2 for i in range(40)]
    assert set(read["schedule"]) == {"full"}
    assert read["cost_ns"].tolist() == list(range(1000, 1040))
    assert (read["due_ns"][3], read["done_ns"][3]) == (21, 24)
    assert Fraction(*map(int, read["fps"])) == layout.fps
    assert tuple(read["names"]) == layout.names
    assert (str(read["kind"]), str(read["units"])) == (layout.kind, layout.units)
    assert json.loads(str(read["extra"])) == layout.extra


@pytest.mark.parametrize("layout", [ARKIT, MESH], ids=["arkit", "vertices"])
def test_jsonl_gives_back_every_value(tmp_path: Path, layout: MotionLayout) -> None:
    values = write(JsonlSink, tmp_path / "a.jsonl", layout, 12)
    header, *lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert header == {
        "format": "edgetalker-motion",
        "version": 1,
        "kind": layout.kind,
        "shape": list(layout.shape),
        "fps": [layout.fps.numerator, layout.fps.denominator],
        "names": list(layout.names),
        "units": layout.units,
        "extra": layout.extra,
    }
    assert np.array_equal(np.array([line.pop("motion") for line in lines], np.float32), values)
    assert lines[2] == {
        "index": 2,
        "time": float(2 / layout.fps),
        "sample": 1280,
        "outcome": "late",
        "schedule": "full",
    }


def test_jsonl_has_null_where_json_has_no_number(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "a.jsonl")
    sink.open(ARKIT)
    sink.send(Frame(0, 0, Fraction(0), np.array([0.5, np.nan, np.inf], np.float32)))
    sink.close()
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[1])["motion"] == [0.5, None, None]


# The order of a take of the app, written out: readers by position mirror jaw and mouth when it is another one.
TAKE = [*ARKIT_SHAPES[:15], "JawRight", "JawLeft", "JawOpen", "MouthClose", "MouthFunnel", "MouthPucker"]
TAKE += ["MouthRight", "MouthLeft", *ARKIT_SHAPES[23:]]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_the_61_columns_by_name(tmp_path: Path) -> None:
    values = write(LiveLinkCsvSink, tmp_path / "a.csv", ARKIT, 40)
    rows = read_csv(tmp_path / "a.csv")
    assert list(rows[0]) == ["Timecode", "BlendShapeCount", *TAKE, *HEAD_ANGLES, *LIVELINK_NAMES[55:]]
    assert len(rows) == 40
    for row, frame in zip(rows, values, strict=True):
        assert row["BlendShapeCount"] == "61"
        given = dict(zip(NAMES, frame, strict=True))
        for name in LIVELINK_NAMES:
            assert abs(float(row[name]) - given.get(name, 0)) <= 5e-11, name
            assert re.fullmatch(r"-?\d+\.\d{10}", row[name]), name


def test_csv_refuses_motion_without_names(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a Live Link Face CSV takes ARKit shapes"):
        LiveLinkCsvSink(tmp_path / "a.csv").open(MESH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "fps", "wanted"),
    [
        (0, Fraction(30), "00:00:00:00.000"),
        (29, Fraction(30), "00:00:00:29.000"),
        (30, Fraction(30), "00:00:01:00.000"),
        (30 * 3661 + 5, Fraction(30), "01:01:01:05.000"),
        (30, NTSC, "00:00:01:00.000"),
        (1799, NTSC, "00:00:59:29.000"),
        (1800, NTSC, "00:01:00:02.000"),
        (17982, NTSC, "00:10:00:00.000"),
        (3600, Fraction(60000, 1001), "00:01:00:04.000"),
        (24, Fraction(24000, 1001), "00:00:01:00.023"),
        (29, NTSC, "00:00:00:29.000"),
        (1, Fraction(1, 2), "00:00:02:00.000"),
    ],
)
def test_timecode(frame: int, fps: Fraction, wanted: str) -> None:
    assert timecode(frame / fps, fps) == wanted


@settings(deadline=None)
@given(frame=st.integers(0, 10**7), fps=st.sampled_from([Fraction(24000, 1001), Fraction(25), Fraction(30)]))
def test_timecode_can_be_turned_back_into_the_time(frame: int, fps: Fraction) -> None:
    hour, minute, second, rest = timecode(frame / fps, fps).split(":")
    time = int(hour) * 3600 + int(minute) * 60 + int(second) + Fraction(rest) / fps
    assert 0 <= frame / fps - time < Fraction(1, 1000) / fps


@pytest.mark.parametrize("fps", [NTSC, Fraction(60000, 1001)], ids=["29.97", "59.94"])
def test_drop_frame_counts_as_a_clock_that_leaves_numbers_out(fps: Fraction) -> None:
    """SMPTE ST 12-1, counted frame by frame over 21 minutes; the label never leaves the sound by two frames."""
    nominal, skipped = fps.numerator // 1000, fps.numerator // 15000
    minute = second = number = 0
    for frame in range(21 * 60 * nominal):
        assert timecode(frame / fps, fps) == f"00:{minute:02}:{second:02}:{number:02}.000"
        assert abs(60 * minute + second + number / nominal - frame / fps) < Fraction(skipped + 1) / fps
        number += 1
        if number == nominal:
            number, second = 0, second + 1
        if second == 60:
            second, minute = 0, minute + 1
            number = skipped if minute % 10 else 0


@each_kind
def test_nothing_is_seen_before_the_end(tmp_path: Path, make: Callable[[Path], Sink], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text("an older result")
    sink = make(path)
    sink.open(ARKIT)
    send(sink, ARKIT, motions(ARKIT, 100))
    assert path.read_text() == "an older result"
    sink.close()
    assert path.read_bytes()[:15] != b"an older result"
    assert list(tmp_path.iterdir()) == [path], "a temporary file was left behind"


@each_kind
def test_a_run_without_frames_leaves_the_older_file(tmp_path: Path, make: Callable[[Path], Sink], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text("an older result")
    sink = make(path)
    sink.open(ARKIT)
    sink.close()
    assert path.read_text() == "an older result"
    assert list(tmp_path.iterdir()) == [path]


def count_frames(path: Path) -> int:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return len(archive["motion"])
    return len(path.read_text().splitlines()) - 1


@each_kind
def test_an_interrupted_run_leaves_its_frames_in_a_valid_file(
    tmp_path: Path, make: Callable[[Path], Sink], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    sink = make(path)

    def play() -> None:
        sink.open(ARKIT)
        try:
            send(sink, ARKIT, motions(ARKIT, 17))
            raise KeyboardInterrupt
        finally:
            sink.close()

    with pytest.raises(KeyboardInterrupt):
        play()
    assert count_frames(path) == 17


@each_kind
def test_a_full_disk_ends_the_recording_and_keeps_what_was_made(
    tmp_path: Path, make: Callable[[Path], Sink], suffix: str
) -> None:
    """A real limit on file size, in a process of its own: the write fails with EFBIG as it would with ENOSPC."""
    script = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from edgetalker.engines.errors import UserError
        from edgetalker.outputs import sink_for
        from tests.runtime.test_file_sinks import ARKIT, count_frames, motions, send

        path = Path(sys.argv[1])
        path.write_text("an older result")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sink = sink_for(path)
        sink.open(ARKIT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        failures = []
        try:
            send(sink, ARKIT, motions(ARKIT, 4000))
        except UserError as error:
            failures.append(error.message)
        sink.close()
        assert failures == [f"{path} cannot be written: File too large"], failures
        assert count_frames(path) == sink.frames > 20, sink.frames
        assert sink.frames * 100 > 12000 or path.suffix != ".npz", sink.frames
        print([entry.name for entry in path.parent.iterdir()])
    """
    pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / f"a.{suffix}")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == f"['a.{suffix}']\n", done.stderr


@each_kind
class TestFilesAsUsersHaveThem:
    def test_a_link_is_written_through_and_a_mode_is_kept(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        real, link = tmp_path / "folder" / f"real.{suffix}", tmp_path / f"link.{suffix}"
        real.write_text("an older result")
        real.chmod(0o600)
        link.symlink_to(Path("folder") / real.name)
        write(make, link, ARKIT, 5)
        assert link.is_symlink()
        assert count_frames(real) == 5
        assert real.stat().st_mode & 0o777 == 0o600
        assert list(real.parent.iterdir()) == [real]

    def test_a_new_file_has_the_mode_that_the_umask_says(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str
    ) -> None:
        before = os.umask(0o027)
        try:
            write(make, tmp_path / f"a.{suffix}", ARKIT, 1)
        finally:
            os.umask(before)
        assert (tmp_path / f"a.{suffix}").stat().st_mode & 0o777 == 0o640

    def test_a_pipe_gets_it_as_a_file_would(self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str) -> None:
        pipe, copy = tmp_path / f"pipe.{suffix}", tmp_path / f"copy.{suffix}"
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda: copy.write_bytes(pipe.read_bytes()), daemon=True)
        reader.start()
        write(make, pipe, ARKIT, 30)
        reader.join()
        assert pipe.is_fifo()
        assert count_frames(copy) == 30

    def test_a_name_may_be_as_long_as_the_system_lets_it(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str
    ) -> None:
        stem = (255 - 1 - len(suffix)) // 3 * "あ"
        write(make, tmp_path / f"{stem}.{suffix}", ARKIT, 3)
        assert count_frames(tmp_path / f"{stem}.{suffix}") == 3
        with pytest.raises(OutputError, match="File name too long"):
            make(tmp_path / f"{stem}あ.{suffix}")

    def test_a_name_that_is_not_utf8(self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str) -> None:
        path = tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
        write(make, path, ARKIT, 3)
        assert count_frames(path) == 3

    def test_a_file_that_cannot_be_renamed_over_is_filled(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that is a mount of its own (`docker run -v a.csv:/a.csv`): rename(2) gives EBUSY."""

        def busy(*_: object) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

        path = tmp_path / f"a.{suffix}"
        path.write_text("an older result")
        number = path.stat().st_ino
        monkeypatch.setattr("os.replace", busy)
        write(make, path, ARKIT, 7)
        assert count_frames(path) == 7
        assert path.stat().st_ino == number
        assert list(tmp_path.iterdir()) == [path]

    def test_a_killed_run_leaves_a_part_that_the_next_one_removes(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        script = """
            import sys, time
            from edgetalker.outputs import sink_for
            from tests.runtime.test_file_sinks import ARKIT, motions, send
            sink = sink_for(sys.argv[1])
            sink.open(ARKIT)
            send(sink, ARKIT, motions(ARKIT, 3))
            print("ready", flush=True)
            time.sleep(60)
        """
        path = tmp_path / f"a.{suffix}"
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"ready\n"
            (part,) = tmp_path.iterdir()
            write(make, path, ARKIT, 4)
            assert part.exists(), "the part of a run that lives was taken"
            killed.kill()
        write(make, path, ARKIT, 5)
        assert list(tmp_path.iterdir()) == [path]
        assert f"removed {part}, left by a run that was killed" in caplog.text


@each_kind
def test_where_nothing_can_be_written_it_is_said_before_the_run(
    tmp_path: Path, make: Callable[[Path], Sink], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        make(tmp_path / "absent" / f"a.{suffix}")
    (tmp_path / f"b.{suffix}").mkdir()
    with pytest.raises(OutputError, match="is a folder; a file was wanted"):
        make(tmp_path / f"b.{suffix}")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("io.FileIO", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied") as caught:
        make(tmp_path / f"a.{suffix}").open(ARKIT)
    assert caught.value.exit_code == 74


@each_kind
def test_memory_does_not_grow_with_the_motion(tmp_path: Path, make: Callable[[Path], Sink], suffix: str) -> None:
    layout = MotionLayout("arkit", (200,), Fraction(30), tuple(f"Name{i}" for i in range(200)))
    sink, values = make(tmp_path / f"a.{suffix}"), motions(layout, 100)
    sink.open(layout)
    send(sink, layout, values)
    tracemalloc.start()
    try:
        for _ in range(10):
            send(sink, layout, values)
        sink.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400_000  # 1,000 frames of motion alone are 800,000 bytes
    assert count_frames(tmp_path / f"a.{suffix}") == 1100


def test_npz_refuses_a_motion_of_another_shape(tmp_path: Path) -> None:
    sink = NpzSink(tmp_path / "a.npz")
    sink.open(ARKIT)
    with pytest.raises(ValueError, match=r"motion of shape \(4,\); the layout says \(3,\)"):
        sink.send(Frame(0, 0, Fraction(0), np.zeros(4, np.float32)))
    sink.close()


class TestRegistry:
    """What a user names becomes a sink."""

    @pytest.mark.parametrize(("make", "suffix"), KINDS)
    def test_suffixes_in_any_case_choose_the_format(
        self, tmp_path: Path, make: Callable[[Path], Sink], suffix: str
    ) -> None:
        assert isinstance(sink_for(tmp_path / f"a.{suffix}"), make)  # type: ignore[arg-type]
        assert isinstance(sink_for(str(tmp_path / f"a.b.{suffix.upper()}")), make)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("motion.nzp", r"no output with suffix `\.nzp` \(did you mean `\.npz`\?\)"),
            ("motion", "no suffix that says what to write"),
            ("livelnk://host", r"no output `livelnk:` \(did you mean `livelink`\?\)"),
            ("http://host", "no output `http:`"),
        ],
    )
    def test_unknown_targets_name_the_nearest(self, target: str, words: str) -> None:
        with pytest.raises(OptionError, match=words) as caught:
            sink_for(target)
        assert ("vmc://" if "://" in target else ".jsonl") in str(caught.value)

    def test_files_take_options_as_receivers_do(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"a.npz:\n  - unknown option `rate`\nhint: options: case"):
            sink_for("a.npz", {"rate": 60})
        with pytest.raises(OptionError, match=r"a.csv:\n  - unknown option `case`\nhint: it takes no options"):
            sink_for("a.csv?case=camel")
        with pytest.raises(OptionError, match="wants one of pascal, camel"):
            sink_for("a.jsonl?case=kebab")
        (tmp_path / "what?.csv").touch()
        assert sink_for(tmp_path / "what?.csv").path == tmp_path / "what?.csv"  # type: ignore[attr-defined]

    @pytest.mark.parametrize("suffix", ["npz", "jsonl"])
    def test_names_as_web_avatars_have_them(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        write(lambda _: sink_for(f"{path}?case=camel"), path, ARKIT, 2)
        if suffix == "npz":
            with np.load(path) as archive:
                names = archive["names"].tolist()
        else:
            names = json.loads(path.read_text().splitlines()[0])["names"]
        assert names == ["jawOpen", "headRoll", "mouthClose"]

    def test_urls_reach_the_factory_with_their_options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SCHEMES, "test", remember)
        for target in ("test://host:1?a=b", "test:", "test"):
            assert sink_for(target, {"rate": 60}) == (target, {"rate": 60})  # type: ignore[comparison-overlap]

    def test_nothing_heavy_is_imported_before_it_is_used(self) -> None:
        script = (
            "import sys, edgetalker.outputs\n"
            "print([m for m in sys.modules if m.startswith(('edgetalker.face', 'edgetalker.viewer', 'websockets'))])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
        assert {".npz", ".jsonl", ".csv", ".glb", ".png"} <= set(SUFFIXES)
        assert {"livelink", "vmc", "vrchat", "ws", "view"} <= set(SCHEMES)

    def test_other_packages_bring_outputs_by_entry_points(self, tmp_path: Path) -> None:
        """A package as pip would install it: found when its scheme or suffix is asked for, without a word to us."""
        (tmp_path / "theirs.py").write_text(
            "def of_url(url, table): return (url, table)\ndef of_path(path, table): return path.name\n"
        )
        info = tmp_path / "theirs-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[edgetalker.sinks]\nrobot = theirs:of_url\n.fbx = theirs:of_path\n")
        script = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from edgetalker.outputs import sink_for\n"
            "print(sink_for('robot://arm?speed=1', {'a': 1}), sink_for('take.FBX'))"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout == "('robot://arm?speed=1', {'a': 1}) take.FBX\n"


class TestHooks:
    def test_what_is_not_overridden_does_nothing(self) -> None:
        class Least(Sink):
            def send(self, frame: Frame) -> None:
                pass

        sink = Least()
        sink.open(MESH)
        sink.hear(np.zeros(4, np.float32), 16000)
        sink.reset()
        sink.close()
        with pytest.raises(NotImplementedError, match="Sink has no `send`"):
            Sink().send(Frame(0, 0, Fraction(0), np.zeros(1, np.float32)))

    @pytest.mark.parametrize(
        ("wrong", "right"), [("heer", "hear"), ("sends", "send"), ("resets", "reset"), ("close_", "close")]
    )
    def test_a_misspelt_hook_is_refused_when_the_class_is_made(self, wrong: str, right: str) -> None:
        with pytest.raises(TypeError, match=f"Ears.{wrong} is no hook of a sink; did you mean `{right}`"):
            type("Ears", (Sink,), {wrong: lambda self: None})

    def test_other_names_are_free(self) -> None:
        type("Fine", (Sink,), {"written": lambda self: 0, "closest": 3, "path": None, "shaping_ms": lambda self: 0})


def remember(*arguments: object) -> Any:
    return arguments
