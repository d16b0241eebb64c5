"""The microphone: real PortAudio on virtual ALSA and PulseAudio devices, and a fake one for faults made to order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError
from edgetalker.runtime.sources import portaudio
from edgetalker.runtime.sources.mic import MicSource
from edgetalker.runtime.sources.portaudio import Heard, Input, PortAudio

RATE = 16000


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait generously: a busy machine is slow, not wrong."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def read(source: MicSource, count: int) -> NDArray[np.float32]:
    pieces: list[NDArray[np.float32]] = []
    while sum(map(len, pieces)) < count:
        pieces.append(np.array(source.read(count - sum(map(len, pieces)), 10.0)))
        assert len(pieces[-1]), "no sound came within 10 s"
    return np.concatenate(pieces)


# --- a fake PortAudio, for faults that no real device makes to order


class FakeStream:
    def __init__(self, rate: int) -> None:
        self.rate, self.channels = rate, 1
        self.alive = True

    def active(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.alive = False


class FakePortAudio:
    """Stands for all PortAudio initialisations of a test: `make` is what MicSource calls."""

    def __init__(self, rates: tuple[int, ...] = (RATE,)) -> None:
        self.rates = rates
        self.present = True
        self.opened: list[FakeStream] = []
        self.tries: list[float] = []
        self.heard: Heard = lambda rate, packet, overflow: None

    def make(self) -> PortAudio:
        self.tries.append(time.monotonic())
        return self  # type: ignore[return-value]

    ended = False

    def inputs(self, kind: str = "input") -> list[Input]:
        return [Input(0, "fake", "ALSA", 1, self.rates[0], True)] if self.present else []

    def find(self, wanted: str | None, kind: str = "input") -> Input:
        if not self.present:
            raise DeviceError("no device records sound")
        return self.inputs()[0]

    def record(self, device: Input, rate: int, heard: Heard, *, channel: int = 1) -> FakeStream:
        self.heard = heard
        self.opened.append(FakeStream(rate if rate in self.rates else self.rates[0]))
        return self.opened[-1]

    def hear(self, packet: NDArray[np.int16], overflow: bool) -> None:
        self.heard(self.opened[-1].rate, packet, overflow)

    def close(self) -> None:
        pass


@pytest.fixture
def fake() -> FakePortAudio:
    return FakePortAudio()


def packet(value: int, count: int = 160) -> NDArray[np.int16]:
    return np.full((count, 1), value, np.int16)


@pytest.fixture
def opened(fake: FakePortAudio) -> Iterator[MicSource]:
    source = MicSource(RATE, portaudio=fake.make, retry_seconds=0.01, stall_seconds=60.0)
    yield source
    source.close()


def test_sound_is_read_as_it_comes(fake: FakePortAudio, opened: MicSource) -> None:
    assert len(opened.read(100, 0.001)) == 0
    fake.hear(packet(16384), False)
    assert opened.read(100, 1.0).tolist() == [0.5] * 100
    assert len(opened.read(100, 1.0)) == 60
    assert not opened.ended
    assert opened.live
    assert opened.warnings() == []


def test_overflow_and_a_loop_too_slow_are_counted(fake: FakePortAudio, opened: MicSource) -> None:
    fake.hear(packet(1), True)
    for _ in range(200):
        fake.hear(packet(2), False)
    assert opened.overflows == 1
    assert opened.dropped == 160
    assert len(read(opened, 32_000)) == 32_000
    assert opened.warnings() == [
        "fake: the device lost sound 1 times (overflow)",
        "fake: 160 samples were dropped because they were not read in time",
    ]


def test_a_device_that_vanishes_is_opened_again_when_it_is_back(fake: FakePortAudio, opened: MicSource) -> None:
    fake.hear(packet(1), False)
    fake.present = False
    fake.opened[0].alive = False
    wait_for(lambda: len(fake.tries) >= 4)
    assert len(read(opened, 160)) == 160
    assert len(opened.read(1, 0.001)) == 0
    assert not opened.ended
    fake.present = True
    wait_for(lambda: len(fake.opened) == 2)
    fake.hear(packet(2), False)
    assert read(opened, 160)[0] == np.float32(2 / 32768)
    assert opened.warnings() == ["fake: the device went away 1 times"]
    waits = np.diff(fake.tries[1:])
    assert (waits[:2] >= [0.02, 0.04]).all(), "each wait is twice the one before"


def test_a_device_that_falls_silent_for_too_long_counts_as_lost(fake: FakePortAudio) -> None:
    source = MicSource(RATE, portaudio=fake.make, retry_seconds=0.001, stall_seconds=0.02)
    wait_for(lambda: source.losses > 0 and len(fake.opened) > 1)
    source.close()
    assert not fake.opened[0].alive, "the old stream was left open"


def test_a_device_with_another_rate_is_resampled() -> None:
    fake = FakePortAudio((48_000,))
    source = MicSource(RATE, portaudio=fake.make)
    for _ in range(20):
        fake.hear(packet(0, 4800), False)
    assert len(read(source, 30_000)) == 30_000
    source.close()


def test_closing_ends_the_stream_and_the_threads(fake: FakePortAudio) -> None:
    before = threading.active_count()
    source = MicSource(RATE, portaudio=fake.make)
    fake.hear(packet(1), False)
    source.close()
    assert not fake.opened[0].alive
    assert threading.active_count() == before
    assert len(source.read(1000, 0.0)) == 160
    assert source.ended


def test_a_device_that_cannot_be_opened_at_first_is_an_error(fake: FakePortAudio) -> None:
    fake.present = False
    with pytest.raises(DeviceError, match="no device records sound"):
        MicSource(RATE, portaudio=fake.make)


INPUTS = [
    Input(0, "USB Audio: Front", "ALSA", 2, 48000, False),
    Input(3, "USB Audio: Back", "ALSA", 2, 48000, False),
    Input(4, "pulse", "ALSA", 32, 44100, True),
]


@pytest.mark.parametrize(("wanted", "index"), [("3", 3), ("pulse", 4), ("back", 3), ("USB Audio: Front", 0)])
def test_inputs_are_chosen_by_index_or_name(wanted: str, index: int) -> None:
    assert portaudio._matching(INPUTS, wanted).index == index


def test_an_input_is_listed_on_one_line_with_the_default_marked() -> None:
    assert str(INPUTS[2]) == "*  4  pulse  (ALSA, up to 32 channels, 44100 Hz)"
    assert str(INPUTS[0]).startswith("   0  USB Audio: Front")


def test_an_input_that_does_not_exist_or_is_not_unique_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"may be any of 0 USB Audio: Front \(ALSA\), 3 USB Audio: Back \(ALSA\)"):
        portaudio._matching(INPUTS, "usb")
    with pytest.raises(OptionError, match=r"no input `puls3` \(did you mean `pulse`\?\)"):
        portaudio._matching(INPUTS, "puls3")


def test_without_pyaudio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    with pytest.raises(MissingPackageError, match="`pyaudio`") as caught:
        MicSource(RATE)
    assert 'pip install "edgetalker[mic]"' in str(caught.value)


# --- real PortAudio


def needs_portaudio() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("virtual ALSA devices exist on Linux only")
    pytest.importorskip("pyaudio", reason="PyAudio is not installed (extra `mic`)")
    if not Path("/usr/share/alsa/alsa.conf").exists():
        pytest.skip("ALSA's configuration /usr/share/alsa/alsa.conf is not installed (libasound2-data)")


def run_with(config: Path, script: str, *arguments: str, timeout: float = 60) -> dict[str, Any]:
    """Run a script in a process of its own (ALSA reads its configuration once) and return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "ALSA_CONFIG_PATH": str(config)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}


@pytest.fixture
def file_mic(tmp_path: Path) -> Path:
    """An ALSA device that plays a file as if it were recorded, faster than real time."""
    needs_portaudio()
    sound = (np.random.default_rng(0).standard_normal(64_000) * 6000).astype("<i2")
    sound.tofile(tmp_path / "known.raw")
    config = tmp_path / "asound.conf"
    config.write_text(f"""</usr/share/alsa/alsa.conf>
        pcm.virtualmic {{ type file slave.pcm "null" file "/dev/null" infile "{tmp_path}/known.raw" format "raw"
                          hint {{ show on description "a file as a microphone" }} }}
        pcm.!default {{ type plug slave {{ pcm "virtualmic" rate 16000 channels 1 format S16_LE }} }}
    """)
    return config


@pytest.mark.parametrize("device", ["default", "virtualmic", ""])
def test_real_portaudio_hands_over_every_sample_bit_for_bit(file_mic: Path, device: str) -> None:
    result = run_with(
        file_mic,
        """
        import json, sys
        import numpy as np
        from edgetalker.runtime.sources.mic import MicSource

        known = np.fromfile(sys.argv[1], "<i2")
        source = MicSource(16000, sys.argv[2] or None, buffer_seconds=3600)
        heard = np.zeros(0, np.float32)
        while len(heard) < 48000:
            heard = np.append(heard, source.read(48000 - len(heard), 10.0))
        source.close()
        equal = bool(np.array_equal(heard * 32768, known[:48000]))
        print(json.dumps({"name": source.name, "equal": equal, "warnings": source.warnings()}))
        """,
        str(file_mic.parent / "known.raw"),
        device,
    )
    assert result == {"name": device or "default", "equal": True, "warnings": [], "stderr": ""}


def test_real_inputs_are_listed_without_the_noise_of_alsa_and_jack(file_mic: Path) -> None:
    result = run_with(
        file_mic,
        """
        import json
        from edgetalker.runtime.sources.portaudio import list_inputs
        print(json.dumps({"inputs": {i.name: [i.host_api, i.default] for i in list_inputs()}}))
        """,
    )
    assert result["inputs"]["virtualmic"] == ["ALSA", False]
    assert result["inputs"]["default"] == ["ALSA", True]
    assert result["stderr"] == ""


def test_a_machine_without_inputs_says_so(tmp_path: Path) -> None:
    needs_portaudio()
    config = tmp_path / "asound.conf"
    config.write_text("</usr/share/alsa/alsa.conf>\n")
    result = run_with(
        config,
        """
        import json
        from edgetalker.engines.errors import DeviceError
        from edgetalker.runtime.sources.mic import MicSource
        from edgetalker.runtime.sources.portaudio import list_inputs
        inputs = [i.name for i in list_inputs()]
        try:
            if not inputs: MicSource(16000)
            print(json.dumps({"inputs": inputs}))
        except DeviceError as error:
            print(json.dumps({"inputs": inputs, "error": error.message, "hint": error.hint}))
        """,
    )
    if result["inputs"]:
        pytest.skip(f"this machine has microphones: {result['inputs']}")
    assert result["error"] == "no device records sound"
    assert "arecord -l" in result["hint"]
    assert result["stderr"] == ""


class Pulse:
    """A PulseAudio daemon of our own, with a null sink whose monitor is the microphone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:{folder}/sock"
        self.environment = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        self.start()

    def start(self) -> None:
        (self.folder / "sock").unlink(missing_ok=True)
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--disable-shm=yes"]
        modules = [
            f"module-native-protocol-unix socket={self.folder}/sock auth-anonymous=1",
            "module-null-sink sink_name=vmic rate=16000 channels=1 format=s16le",
        ]
        loads = [word for module in modules for word in ("-L", module)]
        log = (self.folder / "log").open("w")
        self.daemon = subprocess.Popen(
            [*command, "--exit-idle-time=-1", *loads], env=self.environment, stdout=log, stderr=log
        )
        log.close()
        wait_for((self.folder / "sock").exists)

    def kill(self) -> None:
        self.daemon.kill()
        self.daemon.wait()


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    needs_portaudio()
    if not shutil.which("pulseaudio") or not shutil.which("paplay"):
        pytest.skip("pulseaudio and paplay are not installed (apt install pulseaudio pulseaudio-utils)")
    if not any(Path("/usr/lib").glob("**/alsa-lib/libasound_module_pcm_pulse.so")):
        pytest.skip("ALSA's PulseAudio plugin is not installed (apt install libasound2-plugins)")
    tmp_path.chmod(0o700)
    daemon = Pulse(tmp_path)
    yield daemon
    daemon.kill()


@pytest.mark.slow
def test_real_sound_in_real_time_survives_the_death_of_its_server(pulse: Pulse) -> None:
    """Known sound is heard exactly; the server is killed and started again; the microphone comes back by itself."""
    config = pulse.folder / "asound.conf"
    config.write_text(f"""</usr/share/alsa/alsa.conf>
        pcm.vmic {{ type pulse server "{pulse.address}" device "vmic.monitor"
                    hint {{ show on description "a null sink's monitor" }} }}
    """)
    sound = (1 + np.arange(24_000) % 9973).astype("<i2")
    sound.tofile(pulse.folder / "known.raw")
    script = """
        import sys
        import numpy as np
        from edgetalker.runtime.sources.mic import MicSource
        source = MicSource(16000, "vmic", stall_seconds=2.0, retry_seconds=0.1)
        print("open", flush=True)
        losses = 0
        while True:
            heard = source.read(16000, 0.05)
            for value in (heard[heard != 0] * 32768).astype(int):
                print(value, flush=False)
            if source.losses != losses:
                losses = source.losses
                print("lost", flush=True)
            elif losses and len(heard):
                print("back", flush=True)
                break
            sys.stdout.flush()
        source.close()
        print("warnings", source.warnings(), flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "ALSA_CONFIG_PATH": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # PortAudio prints its own account of the loss
        text=True,
    ) as recorder:
        watchdog = threading.Timer(120, recorder.kill)
        watchdog.start()
        try:
            assert recorder.stdout is not None
            assert recorder.stdout.readline() == "open\n"
            play = ["paplay", "--raw", "--rate=16000", "--channels=1", "--format=s16le", "--device=vmic"]
            environment = {**pulse.environment, "PULSE_SERVER": pulse.address}
            subprocess.run([*play, str(pulse.folder / "known.raw")], env=environment, check=True, timeout=60)
            heard: list[int] = []
            while len(heard) < 20_000 and (line := recorder.stdout.readline()).strip().isdigit():
                heard.append(int(line))
            pulse.kill()
            pulse.start()
            rest = recorder.stdout.read().splitlines()
        finally:
            watchdog.cancel()
            recorder.kill()
    start = heard[0] - 1  # the daemon may swallow the first samples while it wakes up
    assert heard == sound[start : start + len(heard)].tolist()
    words = [line for line in rest if not line.isdigit()]
    assert words[0] == "lost"
    assert words[-2:] == ["back", "warnings ['vmic: the device went away 1 times']"]


def test_the_system_library_that_pyaudio_needs_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "pyaudio":
                raise ImportError("libportaudio.so.2: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "pyaudio", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"libportaudio\.so\.2") as caught:
        PortAudio()
    assert "libportaudio2" in str(caught.value)
