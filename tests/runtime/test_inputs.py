"""Values from outside: times on the sound's clock, hold and interpolation, staleness, files, OSC, recordings."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from pythonosc.osc_message_builder import OscMessageBuilder

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError, InputError, OptionError
from edgetalker.engines.manifest import Tensor
from edgetalker.runtime.inputs import Track
from edgetalker.runtime.loop import Loop, Options
from edgetalker.runtime.sources.values import FileValues, OscValues, input_source
from edgetalker.runtime.talker import Talker
from tests.live.meter import RATE, tone
from tests.live.test_stream import write_wav
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Live, Pieces
from tests.support.toy import network, spec

pytest.importorskip("onnxruntime")


def gaze_bundle(path: Path, *, stale: float = 0.5, between: str = "linear", default: Any = (0.25, 0.0)) -> Bundle:
    """A bundle that hears sound and shows its input `gaze` (yaw, pitch) as its motion."""
    node = helper.make_node
    stage = network(
        [
            node("ReduceMean", ["wav", "axis"], ["m"]),
            node("Mul", ["m", "nothing"], ["z"]),
            node("Add", ["gaze", "z"], ["motion"]),
        ],
        {"wav": (1, 1600), "gaze": (1, 2)},
        {"motion": (1, 2)},
        {"axis": np.array([1], np.int64), "nothing": np.zeros(1, np.float32)},
    )
    gaze = {"role": "input", **spec(1, 2), "names": ["yaw", "pitch"], "stale": stale, "between": between}
    description = {
        "name": "gaze",
        "family": "test",
        "origin": "made by a test",
        "audio": {"rate": RATE, "window": 1600, "lookahead": 0, "block": 1},
        "motion": {"tensor": "motion", "kind": "other", "fps": "30", "names": ["yaw", "pitch"]},
        "tensors": {
            "wav": {"role": "audio", **spec(1, 1600)},
            "gaze": {**gaze, "default": list(default)},
            "motion": {"role": "value", **spec(1, 2)},
        },
        "stages": {
            "look": {
                "file": "look.onnx",
                "inputs": {"wav": spec(1, 1600), "gaze": spec(1, 2)},
                "outputs": {"motion": spec(1, 2)},
            }
        },
        "program": [{"stage": "look", "inputs": {"wav": "wav", "gaze": "gaze"}, "outputs": {"motion": "motion"}}],
        "schedules": {"full": {"rank": 0}},
    }
    return pack(path, description, {"look.onnx": stage})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return gaze_bundle(tmp_path / "gaze")


def track(between: str = "hold", stale: float = 0.0) -> tuple[Track, Any]:
    into = np.empty((1, 2), np.float32)
    tensor = Tensor("gaze", TensorSpec("float32", (1, 2)), "input", default=(9.0, 9.0), stale=stale, between=between)
    return Track(tensor, into), into


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(0, 60), st.integers(-50, 50)), max_size=25),
    between=st.sampled_from(["hold", "linear"]),
    stale=st.sampled_from([0.0, 1.0]),
)
def test_a_track_is_what_a_table_of_its_values_says(values: list[tuple[int, int]], between: str, stale: float) -> None:
    """Against a restatement that looks at all values at once; times in tenths of a second, in any order."""
    made, into = track(between, stale)
    for time, value in values:
        made.feed([value, -value], time / 10)
    table = dict(values)  # of two values with one time the newer stands
    times = sorted(table)
    for now in range(61):
        made.advance(now / 10)
        past = [t for t in times if t <= now]
        if not past or (stale and (now - past[-1]) / 10 > stale + 1e-9):
            wanted = 9.0
        else:
            before, after = past[-1], next((t for t in times if t > now), None)
            wanted = float(table[before])
            if between == "linear" and after is not None:
                wanted += (now - before) / (after - before) * (table[after] - table[before])
        assert into[0, 0] == pytest.approx(wanted, abs=1e-4)


def test_a_value_without_a_time_holds_from_the_next_frame(bundle: Bundle) -> None:
    with Talker(bundle) as talker:
        frames = talker.accept(tone(0.1))
        assert frames[-1].motion.tolist() == [0.25, 0.0]
        talker.feed("gaze", {"yaw": 0.5})
        frames = talker.accept(tone(0.4))
        assert frames[0].motion.tolist() == frames[-1].motion.tolist() == [0.5, 0.0]
        frames = talker.accept(tone(0.4))
        assert frames[-1].motion.tolist() == [0.25, 0.0], "half a second later it is stale"
        assert talker.inputs["gaze"].stale > 0


def test_wrong_values_are_refused(bundle: Bundle) -> None:
    wrong: list[tuple[str, Any, str]] = [
        ("gaxe", [0, 0], "did you mean `gaze`"),
        ("gaze", [0, 0, 0], r"is float32\[1,2\]"),
        ("gaze", {"yav": 0}, "did you mean `yaw`"),
        ("gaze", [0, float("nan")], "NaN or Inf"),
        ("gaze", [0, 1e300], "NaN or Inf"),
        ("gaze", [0, "b"], "takes numbers"),
        ("gaze", {"yaw": "left"}, "takes numbers"),
    ]
    with Talker(bundle) as talker:
        for name, values, text in wrong:
            with pytest.raises(OptionError, match=text):
                talker.feed(name, values)


def test_values_may_be_fed_from_any_thread_while_frames_are_made(bundle: Bundle) -> None:
    with Talker(bundle) as talker:

        def feed(who: int) -> None:
            for i in range(300):
                talker.feed("gaze", [who, i], time=i / 100)

        threads = [threading.Thread(target=feed, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        frames = [frame for _ in range(90) for frame in talker.accept(tone(1 / 30))]
        for thread in threads:
            thread.join()
        assert len(frames) == 89
        assert talker.inputs["gaze"].dropped == 0


def test_too_many_values_ahead_of_their_time_are_dropped_and_counted() -> None:
    made, _ = track()
    for i in range(Track.KEPT + 10):
        made.feed([0, 0], float(i))
    made.advance(0.0)
    assert made.dropped == 10
    assert "10 values came more than" in "".join(made.warnings())


@pytest.mark.parametrize("kind", ["names.csv", "order.csv", "values.npz"])
def test_a_file_beside_the_sound(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    path, times = tmp_path / kind, np.arange(0, 2.0, 0.1)
    yaw, pitch = np.sin(times), np.cos(times)
    if kind == "names.csv":
        lines = ["pitch,time,yaw,other", *(f"{p},{t},{y},x" for t, y, p in zip(times, yaw, pitch, strict=True))]
        path.write_text("\n".join(lines))
    elif kind == "order.csv":
        path.write_text("\n".join(["time,a,b", *(f"{t},{y},{p}" for t, y, p in zip(times, yaw, pitch, strict=True))]))
    else:
        np.savez(path, time=times, values=np.stack([yaw, pitch], 1))
    sink = Collect()
    talker = Talker(bundle)
    source = input_source(f"gaze={path}", talker.inputs, FakeClock())
    Loop(talker, Pieces(tone(1.5)), [sink], inputs=[source]).run()
    at = np.arange(45) / 30
    np.testing.assert_allclose(np.array(sink.motion)[:, 0], np.interp(at, times, yaw), atol=1e-6)
    np.testing.assert_allclose(np.array(sink.motion)[:, 1], np.interp(at, times, pitch), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yaw,pitch\n1,2", "time, yaw, pitch were wanted"),
        ("time,yaw\n0,1", "time, yaw, pitch were wanted"),
        ("time,yaw,pitch\n0,1,1\n0,a,1", "row 3 is `0,a,1`; 3 finite numbers"),
        ("time,yaw,pitch\n0,nan,1", "row 2 is `0,nan,1`; 3 finite numbers"),
        ("time,yaw,pitch\n", "0 times"),
        ("time,yaw,pitch\n1", "row 2 is `1`; 3 finite numbers"),
    ],
)
def test_files_that_hold_something_else_say_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gaze.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        FileValues("gaze", path, ("yaw", "pitch"))
    with pytest.raises(InputError, match="cannot be read"):
        FileValues("gaze", tmp_path / "absent.csv", ("yaw", "pitch"))
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError):
        FileValues("gaze", tmp_path / "no.npz", ("yaw", "pitch"))


def message(address: str, *numbers: float) -> bytes:
    builder = OscMessageBuilder(address)
    for number in numbers:
        builder.add_arg(number, "f")
    data: bytes = builder.build().dgram
    return data


def test_osc_messages_are_values_at_the_time_they_come(bundle: Bundle) -> None:
    """A whole gaze, then its parts by their names; what is no value is counted."""
    clock = FakeClock(10**9)
    talker = Talker(bundle)
    source = OscValues("gaze", "udp-osc://127.0.0.1:0/eyes".replace(":0", f":{free_port()}"), ("yaw", "pitch"),
                       talker.inputs["gaze"].default.reshape(-1), clock)  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker:
        tracker.connect(source.address)
        for data in (
            message("/eyes/gaze", 0.5, -0.5),
            message("/eyes/yaw", 0.75),
            message("/mouth/yaw", 0.1),
            message("/eyes/blink", 1.0),
            b"/eyes/yaw\0\0\0,d\0\0" + struct.pack(">d", 1e300),  # no float32
            b"rubbish",
        ):
            tracker.send(data)
        found = list(source.take(0.0))
    assert [(at, when, values.tolist()) for at, when, values in found] == [
        (None, 10**9, [0.5, -0.5]),
        (None, 10**9, [0.75, -0.5]),
    ]
    assert source.warnings() == ["input `gaze`: 3 OSC messages had another form than 2 numbers"]
    with pytest.raises(DeviceError, match="cannot be opened"):
        OscValues("gaze", f"udp-osc://127.0.0.1:{source.address[1]}", ("yaw", "pitch"), np.zeros(2, np.float32), clock)
    source.close()
    for url in ("udp-osc://:0", "udp-osc://", "udp://:9015", "udp-osc://:99999", "udp-osc://[::1", "udp-osc://:1?a=1"):
        with pytest.raises(OptionError, match="was wanted"):
            OscValues("gaze", url, ("yaw", "pitch"), np.zeros(2, np.float32), clock)


@pytest.mark.parametrize("size", [-4, -8, 0, 5000])
def test_a_bundle_whose_sizes_do_not_fit_is_counted_and_not_read_for_ever(
    bundle: Bundle, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("yaw", "pitch")
    source = OscValues("gaze", f"udp-osc://127.0.0.1:{free_port()}", names, np.zeros(2, np.float32), FakeClock())
    head, good = b"#bundle\0" + bytes(8), message("/gaze", 0.5, -0.5)
    deep = good
    for _ in range(200):
        deep = head + struct.pack(">i", len(deep)) + deep
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker:
        tracker.connect(source.address)
        for data in (
            head + struct.pack(">i", size),
            head + struct.pack(">i", len(good)) + good + struct.pack(">i", size) + b"zzzz",
            deep,
            head + struct.pack(">i", 4) + b"zzzz",  # which the parser logs
            head + struct.pack(">i", len(good)) + good,
        ):
            tracker.send(data)
        assert [values.tolist() for _, _, values in source.take(0.0)] == [[0.5, -0.5]]
    assert source.refused == 3
    source.close()
    assert capfd.readouterr().err == ""


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tracker:
    """A source on a fake clock: the value that it saw 20 ms ago, 100 times a second."""

    name = "gaze"

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self._next = clock, clock.now_ns()

    def take(self, time: float) -> Any:
        while self._next <= self._clock.now_ns():
            yield None, self._next, np.array([self._next * 1e-9, 0], np.float32)
            self._next += 10_000_000

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def test_live_values_are_placed_on_the_sounds_clock(bundle: Bundle) -> None:
    """Frame i hears what the tracker said at the time of the sound that frame i hears, to within its 10 ms."""
    clock, sink = FakeClock(), Collect()
    source = Live(clock, 2.0)
    loop = Loop(Talker(bundle), source, [sink], clock=clock, inputs=[Tracker(clock)], options=Options(realtime=True))
    loop.run()
    origin = loop._pace.origin_ns
    assert origin is not None
    seen = np.array(sink.motion)[5:-3, 0]
    np.testing.assert_allclose(seen, origin * 1e-9 + np.arange(5, 5 + len(seen)) / 30, atol=0.011)


def test_the_command_line_feeds_records_and_repeats(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = write_wav(tmp_path / "speech.wav", tone(1.0))
    values = tmp_path / "gaze.csv"
    values.write_text("time,yaw,pitch\n0,0.1,0.2\n0.9,0.9,-0.2\n")
    common = ["animate", str(speech), "--bundle", str(bundle.path)]
    first, again = tmp_path / "first.npz", tmp_path / "again.npz"
    assert main([*common, "--input", f"gaze={values}", "-o", str(first), "-o", str(tmp_path / "first.jsonl")]) == 0
    assert main([*common, "--input", f"gaze={first}", "-o", str(again)]) == 0
    with np.load(first) as one, np.load(again) as two:
        assert one["motion"][0].tolist() == pytest.approx([0.1, 0.2])
        assert one["input.gaze"].shape == (30, 2)
        np.testing.assert_array_equal(one["input.gaze"], one["motion"])
        np.testing.assert_array_equal(one["motion"], two["motion"])
    assert '"inputs":{"gaze":[' in (tmp_path / "first.jsonl").read_text()
    assert "nobody fed" not in capsys.readouterr().err
    assert main([*common, "-o", str(again)]) == 0
    assert "the input `gaze`, which nobody fed: its default was played" in capsys.readouterr().err
    assert main([*common, "--input", f"gaxe={values}", "-o", str(again)]) == 64
    assert "did you mean `gaze`" in capsys.readouterr().err


def test_a_live_configuration_names_inputs(bundle: Bundle, tmp_path: Path) -> None:
    speech = write_wav(tmp_path / "speech.wav", tone(0.5))
    values, out = tmp_path / "gaze.csv", tmp_path / "out.npz"
    values.write_text("time,yaw,pitch\n0,0.5,0.5\n")
    config = tmp_path / "live.toml"
    config.write_text(
        f'speech = "{speech}"\nbundle = "{bundle.path}"\nto = ["{out}"]\ninput = ["gaze={values}"]\nquiet = true\n'
    )
    assert main(["live", "--config", str(config)]) == 0
    with np.load(out) as stored:
        assert stored["motion"][3].tolist() == [0.5, 0.5]


def test_two_inputs_hear_one_port_and_a_tracker_is_present_by_sending() -> None:
    clock, port = FakeClock(0), free_port()
    gaze, lids = (
        OscValues(name, f"udp-osc://127.0.0.1:{port}", (*places, "presence"), np.array([0.0, 1.0], np.float32), clock)
        for name, places in (("gaze", ("EyeLeftX",)), ("lids", ("EyeLidLeft",)))
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker:
        for name, value in (("EyeLeftX", 0.5), ("EyeLidLeft", 0.25), ("JawOpen", 1.0)):
            tracker.sendto(message(f"/avatar/parameters/v2/{name}", value), ("127.0.0.1", port))
    assert [values.tolist() for _, _, values in gaze.take(0.0)] == [[0.5, 1.0]]
    assert [values.tolist() for _, _, values in lids.take(0.0)] == [[0.25, 1.0]]
    assert gaze.warnings() == lids.warnings() == [], "what the tracker sends beside them is no fault"
    gaze.close()
    lids.close()
    OscValues("lids", f"udp-osc://127.0.0.1:{port}", ("EyeLidLeft",), np.zeros(1, np.float32), clock).close()


@pytest.mark.parametrize(
    "text", ["time,x\n0,0.5\n", "time,x,presence\n0,0.5,1\n", "time,a,b\n0,0.5,1\n", "time,a\n0,0.5\n"]
)
def test_a_table_need_not_say_that_somebody_is_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = list(FileValues("gaze", tmp_path / "a.csv", ("x", "presence")).take(0.0))
    assert [values.tolist() for _, _, values in found] == [[0.5, 1.0]]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_table_that_never_ends_is_not_read() -> None:
    with pytest.raises(InputError, match="cannot be read: it has more than"):
        FileValues("gaze", Path("/dev/zero"), ("yaw", "pitch"))
