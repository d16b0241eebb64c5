"""edgetalker.js in a real Chromium, against a real server: in step, barge-in, a lost connection, faults."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgetalker
from edgetalker.face.names import MOTION_NAMES
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome

for package in ("onnx", "onnxruntime", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

from edgetalker.serve import Batch, BatchOptions  # noqa: E402
from edgetalker.serve.protocol import encode_frame  # noqa: E402
from edgetalker.serve.seat import Event  # noqa: E402
from tests.serve.served import served  # noqa: E402
from tests.viewer.chromium import Tab, browser  # noqa: E402

PACKAGE = Path(edgetalker.__file__).parent
CLIENT = PACKAGE / "viewer" / "static" / "edgetalker.js"
FPS = 30
TOKEN = "a-token-that-is-long-enough"
FLAGS = (
    "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip


def test_names_of_all_spellings_and_frames_as_the_server_packs_them(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    values = np.linspace(-1, 1, 55, dtype=np.float32)
    frame = Frame(7, 0, Fraction(7, 30), values, Outcome.LATE)
    layout = MotionLayout("arkit", (55,), Fraction(30), MOTION_NAMES)
    packed = encode_frame(Event("frame", "u", 3, frame, Fraction(7, 30)), layout, binary=True)
    assert isinstance(packed, bytes)
    (tmp_path / "frame.bin").write_bytes(packed)
    (tmp_path / "edgetalker.mjs").write_bytes(CLIENT.read_bytes())
    (tmp_path / "read.mjs").write_text(
        "import { readFileSync } from 'node:fs'; import { plainName, readFrame } from './edgetalker.mjs';"
        "const bytes = readFileSync('frame.bin');"
        "const frame = readFrame(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));"
        "const names = ['EyeBlinkLeft', 'eyeBlinkLeft', 'eyeBlink_L', 'blendShape1.eyeBlink_L', 'eye_blink_left'];"
        "const told = [{...frame, values: [...frame.values]}, names.map(plainName), plainName('JawRight')];"
        "console.log(JSON.stringify(told));"
    )
    done = subprocess.run([node, "read.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found, names, jaw = json.loads(done.stdout)
    np.testing.assert_array_equal(np.float32(found.pop("values")), values)
    assert found == {"index": 7, "time": 7 / 30, "outcome": list(Outcome).index(Outcome.LATE), "serial": 3}
    assert (set(names), jaw) == ({"eyeblinkleft"}, "jawright")


SOCKET = """
import { EdgeTalker } from './edgetalker.mjs';
globalThis.location = { origin: 'http://here', href: 'http://here/' };
globalThis.WebSocket = class {
  static all = [];
  constructor() { this.sent = []; WebSocket.all.push(this); }
  send(message) { this.sent.push(message); }
  close() {}
  open() { this.onmessage({ data: JSON.stringify({ type: 'layout', names: [], fps: '30/1' }) }); }
};
const later = () => new Promise((done) => { setTimeout(done, 0); });
const kinds = (socket) => socket.sent.map((one) => (typeof one === 'string' ? JSON.parse(one).type : 'sound'));
const talker = new EdgeTalker();
const options = { rate: 16000, play: false };
"""


def run_in_node(tmp_path: Path, script: str) -> Any:
    """Run a script on edgetalker.js and a socket that answers nothing; return what it printed."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    (tmp_path / "edgetalker.mjs").write_bytes(CLIENT.read_bytes())
    (tmp_path / "run.mjs").write_text(SOCKET + script)
    done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_a_talker_that_is_closed_while_it_connects_says_so_and_connects_again(tmp_path: Path) -> None:
    told, sockets, state = run_in_node(
        tmp_path,
        """
        const first = talker.connect().catch((fault) => fault.code);
        talker.close();
        const again = talker.connect();
        WebSocket.all[0].onclose?.({ code: 1006 }); // the first one's end comes late
        WebSocket.all[1].open();
        await again;
        talker.close();
        talker.connect(); // nor does an open one that is going away count
        console.log(JSON.stringify([await first, WebSocket.all.length, talker.state]));
        """,
    )
    assert (told, sockets, state) == ("closed", 3, "connecting")


def test_the_end_of_a_stream_that_was_interrupted_ends_nothing_else(tmp_path: Path) -> None:
    kinds, done = run_in_node(
        tmp_path,
        """
        let end;
        const ended = new Promise((resolve) => { end = resolve; });
        const first = talker.speak((async function* () { yield new Int16Array(160); await ended; })(), options);
        await later();
        WebSocket.all[0].open();
        await later();
        talker.reset();
        talker.speak((async function* () { yield new Int16Array(160); await new Promise(() => {}); })(), options);
        await later();
        end();
        await later();
        console.log(JSON.stringify([kinds(WebSocket.all[0]), await first]));
        """,
    )
    assert kinds == ["start", "sound", "reset", "start", "sound"]
    assert done == {"seconds": 0, "interrupted": True}


def test_sound_that_somebody_else_plays_goes_on_where_its_frames_ended(tmp_path: Path) -> None:
    sent, kept = run_in_node(
        tmp_path,
        """
        const frame = (index) => {
          const view = new DataView(new ArrayBuffer(28));
          view.setUint32(4, index, true);
          view.setFloat64(8, index / 30, true);
          return { data: view.buffer };
        };
        const minute = (async function* () {
          for (let second = 0; second < 40; second += 1) yield new Int16Array(16000);
        })();
        talker.speak(minute, options);
        await later();
        WebSocket.all[0].open();
        await later();
        for (let index = 0; index < 600; index += 1) { WebSocket.all[0].onmessage(frame(index)); await later(); }
        const kept = talker.current.pieces.map(({ first }) => first / 16000);
        WebSocket.all[0].onclose({ code: 1006 });
        clearTimeout(talker.timer);
        talker.open();
        WebSocket.all[1].open();
        const sound = WebSocket.all[1].sent.filter((one) => typeof one !== 'string');
        console.log(JSON.stringify([[talker.current.base, sound[0].length], kept]));
        process.exit();
        """,
    )
    assert sent == [pytest.approx(20.0), 16000]  # 600 frames are 20 s; nothing is said twice
    assert kept[0] == 11  # what was played long ago is not kept


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    with Batch(options=BatchOptions(talkers=2, schedule="one")) as batch:
        yield batch


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser(640, 480, *FLAGS) as tab:
        tab.call("Page.setBypassCSP", enabled=True)  # the tests' own worklet, which listens to what is played
        yield tab


SPEECH = (PACKAGE / "data" / "speech.wav").read_bytes()
TAP = """
class Tap extends AudioWorkletProcessor {
  process([input]) { if (input[0]) this.port.postMessage([currentFrame, input[0].slice()]); return true; }
}
registerProcessor('tap', Tap);
"""
PREPARE = f"""(async () => {{
  const {{ talker }} = window.edgetalker;
  window.bytes = Uint8Array.from(atob('{base64.b64encode(SPEECH).decode()}'), (c) => c.charCodeAt(0));
  talker.audio ??= new AudioContext();
  window.speech = await talker.audio.decodeAudioData(window.bytes.slice().buffer);
  await talker.sounding();
  await talker.audio.audioWorklet.addModule(URL.createObjectURL(new Blob([`{TAP}`], {{ type: 'text/javascript' }})));
  const tap = new AudioWorkletNode(talker.audio, 'tap', {{ numberOfOutputs: 0 }});
  talker.gain.connect(tap);
  window.played = [];
  tap.port.onmessage = ({{ data }}) => window.played.push(data);
  window.problems = [];
  talker.addEventListener('error', ({{ detail }}) => window.problems.push(detail.code));
  return talker.audio.sampleRate;
}})()"""


def open_page(tab: Tab, url: str) -> int:
    """Open the server's page, with an ear at its loudspeaker; return the samples a second of what it plays."""
    tab.open("about:blank")
    tab.problems.clear()
    tab.open(url)
    tab.until("window.edgetalker.probe().state === 'open' && window.edgetalker.probe().shown")
    return int(tab.js(PREPARE))


def played(tab: Tab) -> tuple[int, NDArray[np.float64]]:
    """Return number of the first sample on the audio clock, and what was played from there on."""
    pieces = tab.js("window.played.map(([at, samples]) => [at, Array.from(samples)])")
    first = pieces[0][0]
    heard = np.zeros(pieces[-1][0] + 128 - first)
    for at, samples in pieces:
        heard[at - first : at - first + len(samples)] = samples
    return first, heard


def spoken(tab: Tab) -> NDArray[np.float64]:
    return np.array(tab.js("Array.from(window.speech.getChannelData(0))"))


def place_of(sound: NDArray[np.float64], heard: NDArray[np.float64]) -> tuple[int, float]:
    """Return where a sound begins in what was heard, and how like it is there (1: the same)."""
    size = len(heard) + len(sound)
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sound, size)), size)
    at = int(product.argmax())
    piece = heard[at : at + len(sound)]
    return at, float(product[at] / (np.linalg.norm(piece) * np.linalg.norm(sound)))


def as_loud(sound: NDArray[np.float64], heard: NDArray[np.float64]) -> bool:
    """Return whether a sound was played whole and once, with or without a busy machine's pauses in it."""
    return bool(0.9 < np.linalg.norm(heard) / np.linalg.norm(sound) < 1.1)


def say_and_listen(tab: Tab) -> tuple[Any, int, int, float]:
    """Say the speech; return what was logged, and where and how well the sound was found in what was played.

    On a busy machine the browser's own sound may break off for a moment: then it is said again, three times at most.
    """
    for _ in range(3):
        said: Any = tab.js(
            """(async () => {
              window.played = [];
              const { talker, stage } = window.edgetalker;
              const mesh = [];
              stage.shown.traverse((part) => part.morphTargetDictionary && mesh.push(part));
              const log = [];
              const update = talker.update.bind(talker);
              talker.update = () => {
                const shown = update();
                const stamp = talker.audio.getOutputTimestamp();
                const now = stamp.contextTime + (performance.now() - stamp.performanceTime) / 1000;
                const jaw = mesh[0].morphTargetInfluences[mesh[0].morphTargetDictionary.JawOpen];
                if (talker.current) log.push([shown.utterance, shown.time, now, jaw]);
                return shown;
              };
              const done = await talker.speak(window.speech);
              talker.update = update;
              return { done, log, stats: talker.stats, problems: window.problems };
            })()"""
        )
        first, heard = played(tab)
        at, likeness = place_of(spoken(tab), heard)
        if likeness > 0.99:
            break
    return said, first, at, likeness


@pytest.mark.slow
def test_the_face_that_is_applied_belongs_to_the_sound_that_is_played_within_a_frame(tab: Tab, batch: Batch) -> None:
    """The sound is found again in what went to the card; the card's own stamp says when that is heard."""
    with served(batch) as server:
        rate = open_page(tab, f"http://127.0.0.1:{server.port}/")
        said, first, at, likeness = say_and_listen(tab)
        assert said["problems"] == []
        assert said["done"]["interrupted"] is False
        assert likeness > 0.99  # played once, whole, without a gap
        zero = (first + at) / rate
        shown = [(time, now - zero, jaw) for name, time, now, jaw in said["log"] if name.startswith("u")]
        shown = [row for row in shown if 0 < row[1] < said["done"]["seconds"] - 0.2]
        assert len(shown) > 10
        assert np.ptp([jaw for _, _, jaw in shown]) > 0.1  # the face of the page did move
        # A frame is on for 1/30 s from its time on; how far outside of that was it heard?
        offsets = np.array([max(time - now, now - time - 1 / FPS, 0.0) for time, now, _ in shown])
        middle = np.array([now - time - 0.5 / FPS for time, now, _ in shown])
        print(
            f"offset ms: median {1e3 * np.median(middle):+.1f}, 95 % within {1e3 * np.quantile(abs(middle), 0.95):.1f}"
        )
        assert float(np.median(offsets)) < 1 / FPS
        assert tab.problems == []


@pytest.mark.slow
def test_barge_in_is_silent_at_once_and_the_next_word_is_said(tab: Tab, batch: Batch) -> None:
    with served(batch) as server:
        rate = open_page(tab, f"http://127.0.0.1:{server.port}/")
        done: Any = tab.js(
            """(async () => {
              const { talker } = window.edgetalker;
              const said = talker.speak(window.speech);
              const waits = talker.speak(window.speech);
              await new Promise((done) => talker.addEventListener('begin', done, { once: true }));
              await new Promise((done) => setTimeout(done, 700));
              window.stopped = talker.audio.currentTime;
              const heard = talker.reset();
              return [await said, await waits, heard];
            })()"""
        )
        assert done[0]["interrupted"]
        assert done[1] == {"seconds": 0, "interrupted": True}
        assert 0.2 < done[2] < 1.5
        tab.js("new Promise((done) => setTimeout(done, 300))")
        first, heard = played(tab)
        after = heard[int((tab.js("window.stopped") + 0.05) * rate) - first :]
        assert np.abs(heard).max() > 0.05
        assert not len(after) or np.abs(after).max() == 0
        again = tab.js("(window.played = [], window.edgetalker.talker.speak(window.speech))")
        assert not again["interrupted"]
        assert as_loud(spoken(tab), played(tab)[1])
        assert tab.js("window.problems") == []


@pytest.mark.slow
def test_a_stream_cut_anywhere_is_said_without_a_gap(tab: Tab, batch: Batch) -> None:
    """Bytes as a fetch brings them, an odd number in each, as fast as they come."""
    with served(batch) as server:
        open_page(tab, f"http://127.0.0.1:{server.port}/")
        said: Any = tab.js(
            """(async () => {
              const { talker } = window.edgetalker;
              const times = [];
              talker.addEventListener('frame', ({ detail: { rate, time, sound } }) => {
                if (rate === 16000) times.push([time, sound.length]);
              });
              let at = 44;
              const stream = new ReadableStream({ pull(out) {
                if (at >= window.bytes.length) return out.close();
                out.enqueue(window.bytes.slice(at, at += 4097));
              } });
              return [await talker.speak(stream, { rate: 16000 }), times, window.problems];
            })()"""
        )
        done, frames, problems = said
        assert (done["interrupted"], problems) == (False, [])
        seconds = (len(SPEECH) - 44) / 32000
        assert done["seconds"] == pytest.approx(seconds, abs=0.01)
        times = np.array([time for time, _ in frames])
        np.testing.assert_allclose(np.diff(times), 1 / FPS, atol=1e-5)
        assert len(times) == pytest.approx(seconds * FPS, abs=2)
        assert {count for _, count in frames[:-2]} <= {533, 534}  # each frame's own sound
        assert as_loud(spoken(tab), played(tab)[1])  # samples that were cut in two would be noise


@pytest.mark.slow
def test_a_connection_that_breaks_in_mid_word_comes_back_and_goes_on(tab: Tab, batch: Batch) -> None:
    with served(batch) as server:
        port = server.port
        open_page(tab, f"http://127.0.0.1:{port}/")
        tab.js(
            """(() => {
              const { talker } = window.edgetalker;
              window.times = [];
              talker.addEventListener('frame', ({ detail }) => detail.rate === 16000 && window.times.push(detail.time));
              const stream = (async function* () { yield window.bytes.slice(44); })();
              window.said = talker.speak(stream, { rate: 16000 });
            })()"""
        )
        heard = "window.edgetalker.talker.heard(window.edgetalker.talker.current)"
        tab.until(f"window.times.length > 15 && {heard} > 0.3")
    tab.until("window.edgetalker.probe().state !== 'open'")
    before, at = tab.js(f"[window.times.length, {heard}]")
    with served(batch, port):
        done = tab.js("window.said")
        times = tab.js("window.times")
        assert not done["interrupted"]
        assert len(times) > before + 10
        assert at > 0.3
        assert times[before] > at - 1 / FPS  # it went on from what was heard, however far its frames were ahead
        assert times[-1] == pytest.approx(done["seconds"], abs=0.2)


@pytest.mark.slow
def test_a_microphone_moves_the_face_and_is_not_played(tab: Tab, batch: Batch) -> None:
    with served(batch) as server:
        open_page(tab, f"http://127.0.0.1:{server.port}/")
        tab.click("#speak")
        tab.until("window.edgetalker.talker.microphone?.frames.length > 20")
        tab.until("window.edgetalker.probe().shown.utterance.startsWith('m')")
        tab.click("#speak")
        tab.until("window.edgetalker.talker.quiet?.frames.length > 0")  # and is alive all the same
        assert tab.js("window.played.every(([, samples]) => samples.every((value) => value === 0))")
        assert tab.js("window.problems") == []


@pytest.mark.slow
def test_faults_are_told_with_what_mends_them(tab: Tab, batch: Batch) -> None:
    with served(batch, token=TOKEN) as server:
        tab.open("about:blank")
        tab.open(f"http://127.0.0.1:{server.port}/#wrong")
        tab.until("document.querySelector('#state').textContent.includes('token')")
        tab.open("about:blank")
        tab.open(f"http://127.0.0.1:{server.port}/#{TOKEN}")
        tab.until("window.edgetalker.probe().state === 'open'")
        found: Any = tab.js(
            f"""(async () => {{
              const {{ EdgeTalker }} = await import('/edgetalker.js');
              const caught = (work) => work.then(() => null, (fault) => [fault.code, fault.message]);
              const told = async (work) => caught((async () => work())());
              const one = new EdgeTalker(location.href, {{ token: '{TOKEN}' }});
              const two = new EdgeTalker(location.href, {{ token: '{TOKEN}' }});
              const away = new EdgeTalker('http://127.0.0.1:9');
              const mesh = {{ morphTargetDictionary: {{ smile: 0 }}, morphTargetInfluences: [0] }};
              const still = async function* () {{ yield new Int16Array(48000); }};
              const beep = (talker) => talker.speak(still(), {{ rate: 16000 }});
              const first = beep(one);
              await new Promise((done) => one.addEventListener('begin', done, {{ once: true }}));
              const found = [
                await told(() => one.attach(mesh)), await told(() => two.speak([])), await told(() => away.connect()),
                await caught(beep(two)),
              ];
              one.close(); two.close(); away.close();
              return [...found, await caught(first)];
            }})()"""
        )
        mesh, rate, away, taken, first = found
        assert mesh[0] == "mesh"
        assert "smile" in mesh[1]
        assert rate[0] == "rate"
        assert away[0] == "unreachable"
        assert "--origin" in away[1]
        assert taken[0] == "device"
        assert "talkers are taken" in taken[1]
        assert first is None
