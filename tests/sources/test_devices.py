"""Microphones as people have them: broken ones in the list, arrays, ones that lie, ones that come back as others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.cli.main import main
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.runtime.sinks.speakers import PortAudioSpeaker
from edgetalker.runtime.sources import card, portaudio
from edgetalker.runtime.sources.mic import MicSource
from edgetalker.runtime.sources.portaudio import Input, PortAudio, list_anew, list_inputs
from tests.sources import pyaudio_double as double
from tests.sources.pyaudio_double import Device, Machine, Stream
from tests.sources.test_mic import read, wait_for

RATE = 16000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine([Device()])
    monkeypatch.setitem(sys.modules, "pyaudio", made.module)
    monkeypatch.setattr(portaudio, "_living", [])
    return made


@pytest.fixture
def source(machine: Machine) -> Iterator[MicSource]:
    opened = MicSource(RATE, retry_seconds=0.01, stall_seconds=60.0)
    yield opened
    opened.close()


def find(wanted: str) -> Input:
    made = PortAudio()
    try:
        return made.find(wanted)
    finally:
        made.close()


def tone(stream: Stream, seconds: float, hz: float = 500.0) -> None:
    """Record a tone in packets of 10 ms, the same in every channel."""
    time = np.arange(round(stream.rate * seconds)) / stream.rate
    sound = (16384 * np.sin(2 * np.pi * hz * time)).astype(np.int16)
    packet = stream.rate // 100
    for at in range(0, len(sound), packet):
        stream.record(np.repeat(sound[at : at + packet, None], stream.channels, axis=1))


def pitch(heard: NDArray[np.float32]) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(heard * np.hanning(len(heard))))) * RATE / len(heard))


@pytest.mark.parametrize("error", [OSError(double.INVALID, "Invalid device"), ValueError("no"), KeyError("name")])
def test_a_device_that_cannot_be_asked_is_left_out(
    machine: Machine, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.devices = [Device("broken", asked=error), Device("good"), Device("odd api", api=error)]
    machine.default = 0
    assert [(item.index, item.name, item.host_api) for item in list_inputs()] == [
        (1, "good", "ALSA"),
        (2, "odd api", "?"),
    ]
    assert main(["live", "--list-inputs"]) == 0
    assert "good" in capsys.readouterr().out
    opened = MicSource(RATE)
    assert opened.name == "good"
    opened.close()


def test_a_list_that_cannot_be_had_is_an_error(machine: Machine) -> None:
    machine.listing = OSError(double.HOST, "Unanticipated host error")
    with pytest.raises(DeviceError, match="cannot list its devices"):
        list_inputs()


@pytest.mark.parametrize("channels", [2, 4, 6, 8, 12])
def test_arrays_that_open_with_all_their_channels_only(machine: Machine, channels: int) -> None:
    machine.devices = [Device("array", channels=channels, opens=[channels])]
    opened = MicSource(RATE)
    frames = np.arange(160 * channels, dtype=np.int16).reshape(160, channels)
    machine.streams[0].record(frames)
    assert np.abs(read(opened, 160) - frames.mean(axis=1) / 32768).max() < 1e-6
    opened.close()


@pytest.mark.parametrize("channel", [1, 3, 6])
def test_a_channel_of_an_array_can_be_chosen(machine: Machine, channel: int) -> None:
    machine.devices = [Device("array", channels=6)]
    opened = MicSource(RATE, channel=channel)
    assert machine.streams[0].channels >= channel
    frames = np.arange(160 * machine.streams[0].channels, dtype=np.int16).reshape(160, -1)
    machine.streams[0].record(frames)
    assert (read(opened, 160) * 32768).tolist() == frames[:, channel - 1].tolist()
    opened.close()
    with pytest.raises(OptionError, match="channel 7 was wanted; input `array` has 6"):
        MicSource(RATE, channel=7)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_a_device_that_records_at_another_rate_than_it_says_is_opened_and_resampled(
    machine: Machine, rate: int
) -> None:
    machine.devices = [Device(rate=44_100, rates=[rate])]
    opened = MicSource(RATE)
    tone(machine.streams[0], 1.0)
    heard = read(opened, 15_800)
    assert pitch(heard) == pytest.approx(500, abs=2)
    assert np.abs(heard[1000:]).max() == pytest.approx(0.5, abs=0.01)
    opened.close()


@pytest.mark.parametrize("told", [0, -1, 10**9])
def test_a_device_that_tells_no_rate_is_opened_at_a_usual_one(machine: Machine, told: int) -> None:
    machine.devices = [Device(rate=told, rates=[48_000])]
    MicSource(RATE).close()
    assert machine.streams[0].rate == 48_000


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (double.UNAVAILABLE, "another program"),
        (double.INVALID, "unplugged"),
        (double.RATE, "none of the usual rates"),
        (double.CHANNELS, "numbers of channels"),
        (double.HOST, "group `audio`"),
        (ValueError("nonsense"), "another program"),
    ],
)
def test_the_hint_fits_the_cause(machine: Machine, error: int | Exception, hint: str) -> None:
    machine.devices = [Device(channels=2, error=error)]
    with pytest.raises(DeviceError, match="input `Mic` cannot be opened") as caught:
        MicSource(RATE)
    assert hint in (caught.value.hint or "")
    assert len(caught.value.message) < 200, "the same answer many times"


@pytest.mark.parametrize("error", [double.RATE, double.CHANNELS, double.HOST, None])
@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_hints_name_what_linux_has_on_linux_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, platform: str, error: int | None
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    machine.devices = [Device(error=error)] if error else []
    with pytest.raises(DeviceError) as caught:
        MicSource(RATE)
    hint = caught.value.hint or ""
    assert ("arecord" in hint or "group `audio`" in hint) == (platform == "linux")
    assert len(hint) > 10


USB = "Microphone (USB PnP Audio Device)"
LAPTOP = "Microphone (Realtek Audio)"
HOSTS = ("MME", "Windows DirectSound", "Windows WASAPI", "Windows WDM-KS")


def of_windows(*names: str, hosts: Sequence[str] = HOSTS) -> list[Device]:
    """Return each device under each host API, as PortAudio lists them on Windows."""
    return [Device(name[:31] if host == "MME" else name, host=host) for host in hosts for name in names]


@pytest.mark.parametrize("wanted", ["USB", "usb pnp", USB[:31], USB])
def test_a_device_of_windows_is_taken_from_the_best_of_the_host_apis_that_list_it(
    machine: Machine, wanted: str
) -> None:
    hosts = list(HOSTS)
    for best in ("Windows WASAPI", "Windows DirectSound", "MME", "Windows WDM-KS"):
        machine.devices = of_windows(LAPTOP, USB, hosts=hosts)
        hosts.remove(best)
        if best == "MME" and wanted == USB:
            continue  # MME does not have the whole name
        found = find(wanted)
        assert (found.host_api, found.name) == (best, USB[:31] if best == "MME" else USB)


def test_a_number_is_the_device_that_has_it(machine: Machine) -> None:
    machine.devices = of_windows(LAPTOP, USB)
    assert [find(str(index)).index for index in range(8)] == list(range(8))


def test_devices_that_only_begin_alike_are_not_one(machine: Machine) -> None:
    machine.devices = of_windows("USB", "USB 2", hosts=HOSTS[:3])
    with pytest.raises(OptionError, match=r"may be any of 0 USB \(MME\), 1 USB 2 \(MME\), 2 USB \(Windows Dir"):
        find("us")
    assert find("USB").host_api == "Windows WASAPI"
    with pytest.raises(OptionError) as caught:
        find("Webcam")
    assert "5 USB 2 (Windows WASAPI)" in (caught.value.hint or "")


def test_two_devices_of_one_name_under_one_host_api_are_told_apart_by_number(machine: Machine) -> None:
    machine.devices = [Device("Yeti", host="Core Audio"), Device("Yeti", host="Core Audio")]
    with pytest.raises(OptionError, match=r"0 Yeti \(Core Audio\), 1 Yeti \(Core Audio\)"):
        find("yet")


def lose(machine: Machine, source: MicSource) -> None:
    machine.streams[-1].alive = False
    wait_for(lambda: source.losses > 0)


def test_a_device_that_returns_at_another_rate_keeps_its_pitch(machine: Machine, source: MicSource) -> None:
    tone(machine.streams[0], 0.5)
    assert pitch(read(source, 8000)) == pytest.approx(500, abs=3)
    machine.devices = [Device(rate=48_000)]
    lose(machine, source)
    wait_for(lambda: len(machine.streams) == 2)
    tone(machine.streams[1], 1.0)
    heard = read(source, 15_900)
    assert pitch(heard) == pytest.approx(500, abs=2)


def test_a_device_that_returns_with_other_channels_is_taken_back(machine: Machine, source: MicSource) -> None:
    machine.devices = [Device(channels=4, opens=[4])]
    lose(machine, source)
    wait_for(lambda: len(machine.streams) == 2)
    tone(machine.streams[1], 0.1)
    assert np.abs(read(source, 1600)).max() == pytest.approx(0.5, abs=0.01)


def test_a_device_is_found_again_by_its_name_whatever_its_numbers(
    monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    machine.devices = [Device("HDMI (hw:0,3)"), Device("USB Mic: Audio (hw:1,0)")]
    source = MicSource(RATE, "1", retry_seconds=0.01, stall_seconds=60.0)
    assert source.name == "USB Mic: Audio (hw:1,0)"
    machine.devices = [Device("HDMI (hw:0,3)"), Device("Webcam (hw:1,0)")]
    lose(machine, source)
    tries = machine.tries
    wait_for(lambda: machine.tries > tries + 2)
    assert len(machine.streams) == 1, "another device took its number: it is not what was chosen"
    machine.devices += [Device("USB Mic: Audio (hw:2,0)")]
    wait_for(lambda: len(machine.streams) == 2)
    assert machine.streams[1].device.name == source.name == "USB Mic: Audio (hw:2,0)"
    source.close()


def test_the_default_is_whatever_is_the_default_when_the_device_is_gone_for_good(
    machine: Machine, source: MicSource
) -> None:
    machine.devices = [Device("another")]
    lose(machine, source)
    wait_for(lambda: len(machine.streams) == 2)
    assert source.name == "another"


@pytest.mark.parametrize(
    "error", [OSError(double.HOST, "no"), KeyError("name"), RuntimeError("driver"), SystemError("C")]
)
def test_no_error_of_a_driver_ends_the_watch(machine: Machine, source: MicSource, error: Exception) -> None:
    machine.listing = error
    lose(machine, source)
    tries = machine.tries
    wait_for(lambda: machine.tries > tries + 2)
    machine.listing, machine.devices = None, [Device(error=error)]
    tries = machine.tries
    wait_for(lambda: machine.tries > tries + 2)
    machine.devices = [Device()]
    wait_for(lambda: len(machine.streams) == 2)
    tone(machine.streams[1], 0.1)
    assert len(read(source, 1600)) == 1600


def test_a_card_to_play_on_is_found_and_opened_as_a_microphone_is(machine: Machine) -> None:
    with pytest.raises(DeviceError, match="no device plays sound"):
        PortAudioSpeaker()
    machine.devices += [Device("Card A", plays=1, rate=44_100.0), Device("Card B", plays=1, rate=48_000.0)]
    with pytest.raises(OptionError, match=r"output `card` may be any of 1 Card A \(ALSA\), 2 Card B \(ALSA\)"):
        PortAudioSpeaker("card")
    with pytest.raises(OptionError, match=r"no output `Card C` \(did you mean `Card"):
        PortAudioSpeaker("Card C")
    for wanted, rate in ((None, 44_100), ("card b", 48_000), ("1", 44_100)):
        speaker = PortAudioSpeaker(wanted)
        assert speaker.start(RATE, lambda into, _sounds_ns: into.fill(0.5)) == rate, (
            "16 kHz it refuses, its own it plays"
        )
        block, _ = machine.streams[-1].callback(None, 4, {"output_buffer_dac_time": 1.1, "current_time": 1.0}, 0)
        assert np.frombuffer(block, np.int16).tolist() == [16383] * 4
        speaker.close()
        assert not machine.streams[-1].alive


def test_a_card_that_takes_two_channels_only_plays_the_same_on_both(machine: Machine) -> None:
    machine.devices = [Device("USB Audio: - (hw:2,0)", channels=0, plays=2, opens=[2], rate=48_000.0)]
    speaker = PortAudioSpeaker()
    assert speaker.start(RATE, lambda into, _sounds_ns: np.copyto(into, np.linspace(0, 0.5, len(into)))) == 48_000
    block, _ = machine.streams[-1].callback(None, 2, {"output_buffer_dac_time": 1.1, "current_time": 1.0}, 0)
    assert np.frombuffer(block, np.int16).tolist() == [0, 0, 16383, 16383]
    speaker.close()


@pytest.mark.parametrize(
    ("opens", "rates", "said", "hint"),
    [
        ([8], None, "16000/48000/44100 Hz, 1/2 ch: [Errno -9998]", "none of the usual numbers of channels; `aplay"),
        ([1, 2], [12_345], "16000/48000/44100 Hz, 1/2 ch: [Errno -9997]", "none of the usual rates; `aplay"),
    ],
)
def test_a_card_that_cannot_play_is_named_with_what_was_tried(
    machine: Machine, opens: list[int], rates: list[int] | None, said: str, hint: str
) -> None:
    machine.devices = [Device("HDMI", channels=0, plays=8, opens=opens, rate=48_000.0, rates=rates)]
    speaker = PortAudioSpeaker()
    with pytest.raises(DeviceError, match="output `HDMI` cannot be opened: ") as caught:
        speaker.start(RATE, lambda _into, _sounds_ns: None)
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")
    speaker.close()


def ask(stream: Stream) -> None:
    stream.callback(None, 4, {"output_buffer_dac_time": 1.1, "current_time": 1.0}, 0)


def playing(machine: Machine, name: str) -> Stream | None:
    """Return the stream that is open on a device."""
    return next((stream for stream in machine.streams if stream.alive and stream.device.name == name), None)


@pytest.fixture
def speaker(machine: Machine) -> Iterator[PortAudioSpeaker]:
    """Plays on `Card`, at 44.1 kHz because it takes nothing else."""
    machine.devices += [Device("Card", channels=0, plays=1, rate=44_100.0)]
    opened = PortAudioSpeaker(retry_seconds=0.01)
    opened.start(RATE, lambda into, _sounds_ns: into.fill(0.0))
    yield opened
    opened.close()
    assert not machine.living, "PortAudio was not ended"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock by which a device is silent; it stands unless a test sets it."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(card, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_a_microphone_that_is_plugged_in_again_is_seen_while_sound_is_played(
    clock: SimpleNamespace, machine: Machine, speaker: PortAudioSpeaker, caplog: pytest.LogCaptureFixture
) -> None:
    source = MicSource(RATE, retry_seconds=0.01)
    (output,) = machine.devices[1:]
    machine.devices = [output]
    machine.streams[1].alive = False
    wait_for(lambda: source.losses > 0)
    tries = machine.tries
    wait_for(lambda: machine.tries > tries + 2)
    machine.devices = [output, Device()]
    wait_for(lambda: playing(machine, "Mic") is not None)
    wait_for(lambda: playing(machine, "Card") is not None)
    source.close()
    assert "`Card` was lost" not in caplog.text, "it was let go, for the microphone"


def test_a_microphone_that_records_is_not_stopped_for_one_that_was_lost(
    clock: SimpleNamespace, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.devices = [Device("A"), Device("B")]
    lost, other = MicSource(RATE, "A", retry_seconds=0.01), MicSource(RATE, "B")
    machine.devices, machine.streams[0].device.error = [Device("B")], double.INVALID
    machine.streams[0].alive = False
    wait_for(lambda: "not seen as long as PortAudio is open for the microphone" in caplog.text)
    assert machine.streams[1].alive
    lost.close()
    other.close()
    assert not machine.living


def test_a_card_that_asks_for_no_more_sound_is_reported_and_opened_again(
    clock: SimpleNamespace, machine: Machine, speaker: PortAudioSpeaker, caplog: pytest.LogCaptureFixture
) -> None:
    (stream,) = machine.streams
    for clock.now in (4.0, 8.0):
        ask(stream)
        looks = stream.looks
        wait_for(lambda: stream.looks > looks + 1)  # noqa: B023 - called at once
    machine.devices[1].rates = [48_000]
    clock.now = 13.0
    wait_for(lambda: "sound card `Card` was lost; trying again in 0.01 s" in caplog.text)
    assert not stream.alive
    tries = machine.tries
    wait_for(lambda: machine.tries > tries + 2)
    assert len(machine.streams) == 1, "the player counts samples at the rate of the first time"
    machine.devices[1].rates = [48_000, 44_100]
    wait_for(lambda: "`Card` is back" in caplog.text)
    assert machine.streams[1].rate == 44_100


def test_a_card_that_was_let_go_before_its_first_sound_is_found_again(machine: Machine) -> None:
    machine.devices = [Device("Card", channels=0, plays=1)]
    speaker = PortAudioSpeaker()
    assert list_anew("output") == "playing sound", "of those that play none ends for another"
    assert list_anew("input") == ""
    machine.devices = [Device("HDMI", channels=0, plays=1), Device("Card", channels=0, plays=1)]
    speaker.start(RATE, lambda into, _sounds_ns: into.fill(0.0))
    assert playing(machine, "HDMI"), "the default one"
    speaker.close()
    assert not machine.living


def test_a_device_of_windows_comes_back_under_its_host_api(machine: Machine) -> None:
    machine.devices = of_windows(LAPTOP, USB)
    source = MicSource(RATE, "USB", retry_seconds=0.01, stall_seconds=60.0)
    lose(machine, source)
    wait_for(lambda: len(machine.streams) == 2)
    assert [stream.device.host for stream in machine.streams] == ["Windows WASAPI"] * 2
    source.close()
