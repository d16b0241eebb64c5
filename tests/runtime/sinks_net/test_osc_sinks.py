"""VMC and VRChat packets, read by python-osc."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_packet import OscPacket
from pythonosc.osc_server import BlockingOSCUDPServer

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.net import vmc, vrchat
from edgetalker.runtime.sinks.net.osc import MAX_DATAGRAM, Message, bundles
from edgetalker.runtime.sinks.net.pump import Encoder, Stamp
from tests.runtime.sinks_net.tools import LAYOUT, SHAPES, frame, motion


def stamp(seconds: float = 0.0) -> Stamp:
    return Stamp(0, Fraction(30), 0, 0.0, "on_time", seconds)


def messages(packets: object) -> Iterator[tuple[str, list[object]]]:
    """The messages of datagrams in order, as python-osc reads them."""
    assert isinstance(packets, (list, tuple))
    for packet in packets:
        assert len(packet) <= MAX_DATAGRAM
        for timed in OscPacket(bytes(packet)).messages:
            yield timed.message.address, list(timed.message.params)


def vmc_encoder(query: str = "", layout: MotionLayout = LAYOUT) -> Encoder:
    return vmc.from_url(f"vmc://127.0.0.1:39539?{query}")._encoder(layout)


def vrchat_encoder(query: str = "") -> Encoder:
    return vrchat.from_url(f"vrchat://?{query}")._encoder(LAYOUT)


def clips(encoder: Encoder, values: np.ndarray) -> dict[str, float]:
    """Values that a VMC receiver has after Apply."""
    found: dict[str, float] = {}
    read = list(messages(encoder.encode(values, stamp())))
    assert read[-1][0] in ("/VMC/Ext/Blend/Apply", "/VMC/Ext/Bone/Pos")
    for address, arguments in read:
        if address == "/VMC/Ext/Blend/Val":
            name, value = arguments
            assert isinstance(name, str)
            assert isinstance(value, float)
            found[name] = value
    return found


@given(values=arrays.arrays(np.float32, 55, elements=st.floats(0, 1, width=32)))
def test_vmc_sends_all_shapes_in_two_bundles_and_applies_them_last(values: np.ndarray) -> None:
    packets = vmc_encoder().encode(values, stamp(1.5))
    assert len(packets) == 2
    read = list(messages(packets))
    assert read[0] == ("/VMC/Ext/OK", [1])
    assert read[1] == ("/VMC/Ext/T", [1.5])
    assert [address for address, _ in read[2:]] == ["/VMC/Ext/Blend/Val"] * 59 + ["/VMC/Ext/Blend/Apply"]
    assert [arguments for _, arguments in read[2:54]] == [[n, v] for n, v in zip(SHAPES, values.tolist(), strict=False)]


def test_vmc_vrm0_names_are_there_and_vrm1_on_demand() -> None:
    both = clips(vmc_encoder("names=vrm0,vrm1"), motion(JawOpen=0.5, EyeBlinkLeft=0.75, EyeBlinkRight=0.25))
    assert set(both) == set("A I U E O Blink_L Blink_R aa ih ou ee oh blinkLeft blinkRight".split())
    assert (both["A"], both["Blink_L"], both["Blink_R"]) == (1.0, 0.75, 0.25)
    assert (both["aa"], both["blinkLeft"], both["blinkRight"]) == (1.0, 0.75, 0.25)


@pytest.mark.parametrize(
    ("shapes", "vowel"),
    [
        ({"JawOpen": 0.5}, "A"),
        ({"JawOpen": 0.05, "MouthStretchLeft": 0.6, "MouthStretchRight": 0.6}, "I"),
        ({"JawOpen": 0.1, "MouthPucker": 0.9}, "U"),
        ({"JawOpen": 0.4, "MouthSmileLeft": 0.6, "MouthSmileRight": 0.6}, "E"),
        ({"JawOpen": 0.2, "MouthFunnel": 0.8}, "O"),
    ],
)
def test_the_vowel_that_is_seen_is_the_strongest(shapes: dict[str, float], vowel: str) -> None:
    read = clips(vmc_encoder("names=vrm0"), motion(**shapes))
    assert max("AIUEO", key=lambda name: read[name]) == vowel


@given(values=arrays.arrays(np.float32, 55, elements=st.floats(0, 1, width=32)))
def test_vowels_never_add_up_to_more_than_one(values: np.ndarray) -> None:
    read = clips(vmc_encoder("names=vrm0"), values)
    assert sum(read[name] for name in "AIUEO") <= 1 + 1e-5
    assert min(read.values()) >= 0


def test_lips_that_close_on_an_open_jaw_are_no_vowel() -> None:
    read = clips(vmc_encoder("names=vrm0"), motion(JawOpen=0.3, MouthClose=0.3))
    assert [read[name] for name in "AIUEO"] == [0] * 5


def test_vmc_camel_case_and_map() -> None:
    read = clips(vmc_encoder("names=perfectsync&case=camel&map=jawOpen:Mouth*2,tongueOut:"), motion(JawOpen=0.25))
    assert read["Mouth"] == 0.5
    assert "jawOpen" not in read
    assert "tongueOut" not in read
    assert "eyeBlinkLeft" in read


def test_no_bones_unless_asked() -> None:
    read = [address for address, _ in messages(vmc_encoder().encode(motion(HeadYaw=0.5), stamp()))]
    assert "/VMC/Ext/Bone/Pos" not in read


@pytest.mark.parametrize(
    ("angle", "axis", "sign"),
    [("HeadYaw", 1, -1), ("HeadPitch", 0, 1), ("HeadRoll", 2, -1)],
)
def test_the_head_bone_turns_about_unity_axes(angle: str, axis: int, sign: int) -> None:
    """Unity is left-handed: to the avatar's own left is a negative turn about +Y; down is positive about +X."""
    read = dict(messages(vmc_encoder("bones=head").encode(motion(**{angle: 0.5}), stamp())))
    name, *numbers = read["/VMC/Ext/Bone/Pos"]
    expected = [0.0] * 7
    expected[3 + axis], expected[6] = sign * math.sin(0.25), math.cos(0.25)
    assert name == "Head"
    np.testing.assert_allclose(np.array(numbers, float), expected, atol=1e-6)


def test_a_head_without_angles_is_refused() -> None:
    with pytest.raises(OptionError, match="HeadYaw"):
        vmc_encoder("bones=head", MotionLayout("arkit", (52,), Fraction(30), tuple(SHAPES)))


def test_an_assistant_sends_no_performer_messages() -> None:
    encoder = vmc.from_url("vmc://127.0.0.1:39540")._encoder(LAYOUT)
    assert {address for address, _ in messages(encoder.encode(motion(), stamp()))} == {
        "/VMC/Ext/Blend/Val",
        "/VMC/Ext/Blend/Apply",
    }


def test_vmc_reaches_an_osc_server() -> None:
    heard: list[tuple[object, ...]] = []
    dispatcher = Dispatcher()
    dispatcher.map("/VMC/Ext/Blend/Val", lambda *arguments: heard.append(arguments))
    with BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as server:
        server.timeout = 10
        sink = vmc.from_url(f"vmc://127.0.0.1:{server.server_address[1]}?names=perfectsync")
        sink.open(LAYOUT)
        sink.send(frame(0, motion(JawOpen=0.5)))
        server.handle_request()
        server.handle_request()
        sink.close()
    assert ("/VMC/Ext/Blend/Val", "JawOpen", 0.5) in heard
    assert len(heard) == 52


def test_vrchat_names_and_sums() -> None:
    values = motion(
        JawOpen=0.5, MouthClose=0.25, MouthRollLower=0.75, JawRight=0.5, MouthSmileLeft=1.0, BrowInnerUp=0.5
    )
    read = dict(messages(vrchat_encoder().encode(values, stamp())))
    base = "/avatar/parameters/v2/"
    for name, value in {
        "JawOpen": 0.5,
        "MouthClosed": 0.25,
        "LipSuckLowerLeft": 0.75,
        "LipSuckLowerRight": 0.75,
        "LipSuckUpperLeft": 0.0,
        "JawX": 0.5,
        "MouthCornerPullLeft": 1.0,
        "MouthCornerSlantLeft": 1.0,
        "MouthCornerPullRight": 0.0,
        "SmileFrownLeft": 1.0,
        "SmileFrown": 0.5,
        "BrowInnerUpRight": 0.5,
    }.items():
        assert read[base + name] == [value], name
    assert base + "MouthClose" not in read  # ARKit's own name is none of the standard's


def test_vrchat_eyes_in_degrees() -> None:
    """Both eyes to the person's right: the left one looks in, the right one out. Right and down are positive."""
    values = motion(EyeLookInLeft=1.0, EyeLookOutRight=1.0, EyeLookDownLeft=0.5, EyeLookUpRight=0.5, EyeBlinkLeft=1.0)
    read = dict(messages(vrchat_encoder("gaze=30").encode(values, stamp())))
    assert read["/tracking/eye/LeftRightPitchYaw"] == [15.0, 30.0, -15.0, 30.0]
    assert read["/tracking/eye/EyesClosedAmount"] == [0.5]
    assert not any("EyeLid" in address for address in read)


def test_vrchat_sends_no_gaze_for_a_model_that_has_none() -> None:
    """A stare straight ahead, sent, would stop VRChat's own eye movement."""
    encoder = vrchat_encoder()
    gaze = "/tracking/eye/LeftRightPitchYaw"
    assert gaze not in dict(messages(encoder.encode(motion(EyeBlinkLeft=1), stamp(0.0))))
    assert gaze not in dict(messages(encoder.encode(motion(JawOpen=1), stamp(2.0))))
    assert gaze in dict(messages(encoder.encode(motion(EyeLookUpLeft=0.5), stamp(2.1))))
    assert gaze in dict(messages(encoder.encode(motion(), stamp(2.2))))


def test_vrchat_lids_as_parameters() -> None:
    encoder = vrchat_encoder("eyes=parameters&prefix=FT/v2&combined=no")
    read = dict(messages(encoder.encode(motion(EyeBlinkLeft=1, EyeWideRight=1), stamp())))
    assert read["/avatar/parameters/FT/v2/EyeLidLeft"] == [0.0]
    assert read["/avatar/parameters/FT/v2/EyeLidRight"] == [1.0]
    assert read["/avatar/parameters/FT/v2/EyeClosedLeft"] == [1.0]
    assert not any(address.startswith("/tracking") or address.endswith("JawX") for address in read)


def test_vrchat_sends_what_changed_and_all_every_second() -> None:
    encoder = vrchat_encoder()
    everything = len(encoder.encode(motion(), stamp(0.0)))
    assert everything > 60
    assert list(encoder.encode(motion(), stamp(0.03))) == []
    changed = {address for address, _ in messages(encoder.encode(motion(MouthClose=0.5), stamp(0.06)))}
    assert changed == {"/avatar/parameters/v2/MouthClosed"}
    assert len(encoder.encode(motion(MouthClose=0.5), stamp(1.0))) == everything


def test_vrchat_in_bundles() -> None:
    packets = vrchat_encoder("bundle=yes").encode(motion(JawOpen=1), stamp())
    assert 1 < len(packets) < 5
    assert ("/avatar/parameters/v2/JawOpen", [1.0]) in list(messages(packets))


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(st.lists(st.tuples(names, names, st.integers(-(2**31), 2**31 - 1)), max_size=60), st.floats(-9, 9, width=32))
def test_bundles_hold_every_message_in_order(parts: list[tuple[str, str, int]], value: float) -> None:
    sent = [Message("/" + address, (word, number, Message.Value(0))) for address, word, number in parts]
    packets = [packet.write(np.array([value], np.float32)) for packet in bundles(sent, 256)]
    assert all(len(packet) <= 256 for packet in packets)
    expected = [("/" + address, [word, number, value]) for address, word, number in parts]
    assert list(messages(packets)) == expected
