"""Live Link Face packets, read by a decoder that was written from the layout alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.names import NameMap
from edgetalker.runtime.sinks.net.livelink import LiveLinkEncoder, from_url
from edgetalker.runtime.sinks.net.pump import Stamp
from tests.runtime.sinks_net.tools import LAYOUT, NAMES, frame, motion, read_live_link, receiver

label = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=40)


def stamp(number: int = 0, rate: Fraction = Fraction(30)) -> Stamp:
    return Stamp(number, rate, number, number / 30, "on_time", 0.0)


@given(
    values=arrays.arrays(np.float32, 55, elements=st.floats(-2, 2, width=32)),
    subject=label,
    device=label,
    number=st.integers(0, 2**31 - 1),
    rate=st.fractions(1, 240, max_denominator=1001),
)
def test_every_value_text_and_time_is_read_back(
    values: np.ndarray, subject: str, device: str, number: int, rate: Fraction
) -> None:
    encoder = LiveLinkEncoder(LAYOUT, subject, device, NameMap())
    (data,) = encoder.encode(values, stamp(number, rate))
    packet = read_live_link(data)
    assert (packet.device, packet.subject, packet.frame, packet.rate) == (device, subject, number, rate)
    assert packet.subframe == 0
    assert packet.values == (*values.tolist(), *[0.0] * 6)


def test_a_packet_has_the_known_size() -> None:
    """A device id of 36 characters makes 306 bytes and the subject's name."""
    (data,) = LiveLinkEncoder(LAYOUT, "Kiosk", None, NameMap()).encode(motion(), stamp())
    assert len(data) == 306 + len("Kiosk")
    assert len(read_live_link(data).device) == 36


def test_another_project_reads_the_same_values() -> None:
    pylivelinkface = pytest.importorskip("pylivelinkface", reason="PyLiveLinkFace is not installed")
    values = np.random.default_rng(0).random(55, np.float32)
    (data,) = LiveLinkEncoder(LAYOUT, "Kiosk", None, NameMap()).encode(values, stamp(7, Fraction(60)))
    good, face = pylivelinkface.PyLiveLinkFace.decode(data)
    assert good
    assert (face.name, face.fps) == ("Kiosk", 60)
    read = [face.get_blendshape(pylivelinkface.FaceBlendShape[name]) for name in NAMES]
    np.testing.assert_allclose(read, values, atol=1e-6)


def test_the_order_of_the_model_does_not_matter() -> None:
    backwards = MotionLayout("arkit", (55,), Fraction(30), tuple(reversed(NAMES)))
    values = motion(JawOpen=0.25, EyeBlinkRight=0.5, HeadYaw=-0.125)
    (straight,) = LiveLinkEncoder(LAYOUT, "s", "d", NameMap()).encode(values, stamp())
    (turned,) = LiveLinkEncoder(backwards, "s", "d", NameMap()).encode(values[::-1], stamp())
    assert straight == turned
    read = read_live_link(straight).values
    assert (read[17], read[7], read[52]) == (0.25, 0.5, -0.125)


def test_a_model_without_head_sends_zero_angles() -> None:
    bare = MotionLayout("arkit", (52,), Fraction(30), NAMES[:52])
    (data,) = LiveLinkEncoder(bare, "s", "d", NameMap()).encode(np.ones(52, np.float32), stamp())
    assert read_live_link(data).values == (*[1.0] * 52, *[0.0] * 9)


def test_map_moves_scales_and_leaves_out() -> None:
    names = NameMap.read("JawOpen:MouthFunnel*0.5,MouthFunnel:,HeadYaw:HeadYaw*-1")
    values = motion(JawOpen=0.5, MouthFunnel=1.0, HeadYaw=0.25)
    (data,) = LiveLinkEncoder(LAYOUT, "s", "d", names).encode(values, stamp())
    read = read_live_link(data).values
    assert (read[17], read[19], read[52]) == (0.0, 0.25, -0.25)


def test_frames_arrive_as_they_were_sent() -> None:
    with receiver() as bound:
        sink = from_url(f"livelink://127.0.0.1:{bound.getsockname()[1]}?subject=Kiosk&device=id")
        sink.open(LAYOUT)
        read = []
        for index in range(5):
            sink.send(frame(index))
            read.append(read_live_link(bound.recv(2048)))
        sink.close()
    assert [packet.frame for packet in read] == [0, 1, 2, 3, 4]
    assert [packet.values[0] for packet in read] == [0, 1, 2, 3, 4]
    assert {(packet.subject, packet.device, packet.rate) for packet in read} == {("Kiosk", "id", Fraction(30))}
    assert (sink.statistics.frames, sink.statistics.sent, sink.statistics.packets) == (5, 5, 5)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("livelink://127.0.0.1?subjct=a", "did you mean `subject`"),
        ("livelink://127.0.0.1?rate=300", "1 to 240"),
        ("livelink://127.0.0.1?rate=0", "1 to 240"),
        ("livelink://127.0.0.1:99999", "port"),
        ("livelink://127.0.0.1?queue=0", "whole number"),
        ("livelink://127.0.0.1?smooth=5s", "0 to 1 s"),
        ("livelink://127.0.0.1?map=JawOpen", "NAME:OTHER"),
        ("livelink://127.0.0.1/path", "form"),
        ("livelink://127.0.0.1?rate=60&rate=30", "twice"),
        ("livelink://127.0.0.1?subject=", "1 to 256 bytes"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, word: str) -> None:
    with pytest.raises(OptionError, match=word):
        from_url(url)


def test_all_faults_of_a_url_come_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        from_url("livelink://127.0.0.1:0?rat=60&smooth=x", {"queue": "many"})
    assert str(caught.value).count("\n  - ") == 4


def test_a_table_gives_the_same_options_and_wins() -> None:
    sink = from_url(
        "livelink://10.1.2.3?rate=30", {"rate": "60000/1001", "map": {"JawOpen": "JawOpen*2"}, "smooth": 20}
    )
    assert sink.endpoint.host == "10.1.2.3"
    assert sink.endpoint.port == 11111
    assert sink.endpoint.options["rate"] == Fraction(60000, 1001)
    assert sink.endpoint.options["smooth"] == 0.02
    assert sink.endpoint.options["map"].entries == {"JawOpen": ("JawOpen", 2.0)}


@pytest.mark.parametrize("entry", ["JawOpn:X", "JawOpen:Jaw", "JawOpen:JawLeft"])
def test_a_wrong_map_is_refused_at_open(entry: str) -> None:
    with pytest.raises(OptionError):
        from_url(f"livelink://127.0.0.1?map={entry}").open(LAYOUT)


def test_vertices_are_refused_with_what_to_do() -> None:
    with pytest.raises(OptionError, match="ARKit") as caught:
        from_url("livelink://127.0.0.1").open(MotionLayout("vertices", (60, 3), Fraction(30)))
    assert "ws://" in str(caught.value)
