"""examples/talkinghead.html with the real TalkingHead in a real Chromium, where NODE_PATH has it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.face.glb import face_document
from edgetalker.runtime.sinks.options import camel

for package in ("onnx", "onnxruntime", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

from edgetalker.serve import Batch, BatchOptions  # noqa: E402
from tests.serve.served import served  # noqa: E402
from tests.serve.test_browser import CLIENT, FLAGS, FPS, PREPARE, TAP, played, spoken  # noqa: E402
from tests.viewer.chromium import browser  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(edgetalker.__file__).parents[1]


def modules() -> Path:
    for folder in os.environ.get("NODE_PATH", "").split(os.pathsep):
        if folder and (Path(folder) / "@met4citizen" / "talkinghead").is_dir():
            return Path(folder)
    pytest.skip("no TalkingHead: npm install @met4citizen/talkinghead, and NODE_PATH=…/node_modules")


def avatar(talkinghead: str) -> bytes:
    """Return our face with ARKit's names as web avatars have them, under the skeleton that TalkingHead asks for."""
    words = set(re.findall(r"'(\w+)\.(?:quaternion|position|rotation|scale)'", talkinghead))
    for side in ("Left", "Right"):
        words |= {side + part for part in ("Leg", "UpLeg", "Arm", "ForeArm", "Hand", "Eye", "ToeBase")}
        words |= {f"{side}Hand{f}{k}" for f in ("Thumb", "Index", "Middle", "Ring", "Pinky") for k in (1, 2, 3, 4)}
    gltf = face_document()
    nodes: Any = gltf.document["nodes"]
    mesh = gltf.document["meshes"][0]
    mesh["extras"]["targetNames"] = [camel(name) for name in mesh["extras"]["targetNames"]]
    bones = [{"name": word, "translation": [0, 1.6 if "Eye" in word else 0, 0]} for word in sorted(words)]
    first = len(nodes)
    # TalkingHead's skeleton stands on the floor; our face has its middle at 0.
    nodes += [*bones, {"name": "shown", "translation": [0, 1.6, 0], "children": [0, 3]}]
    nodes.append({"name": "Armature", "children": list(range(first, first + len(bones) + 1))})
    gltf.document["scenes"][0]["nodes"] = [len(nodes) - 1]
    return gltf.pack()


@contextmanager
def site(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Quiet.extensions_map[".mjs"] = "text/javascript"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_talkinghead_says_it_with_our_motion_in_step(tmp_path: Path) -> None:
    found = modules()
    (tmp_path / "node_modules").symlink_to(found)
    (tmp_path / "talkinghead.html").write_bytes((ROOT / "examples" / "talkinghead.html").read_bytes())
    (tmp_path / "edgetalker.js").write_bytes(CLIENT.read_bytes())
    source = (found / "@met4citizen" / "talkinghead" / "modules" / "talkinghead.mjs").read_text(encoding="utf-8")
    (tmp_path / "avatar.glb").write_bytes(avatar(source))
    with (
        site(tmp_path) as origin,
        Batch(options=BatchOptions(talkers=1, schedule="one")) as batch,
        served(batch, origins=(origin,)) as server,
        browser(320, 240, *FLAGS) as tab,
    ):
        tab.open(f"{origin}/talkinghead.html?server=http://127.0.0.1:{server.port}")
        tab.until("window.edgetalker.head?.isRunning")
        tab.js("window.edgetalker.head.renderer.setPixelRatio(0.25)")  # drawn without a GPU
        tab.js(PREPARE)
        tab.js("(window.edgetalker.talker.gain.disconnect(), window.played = [])")  # the sound is TalkingHead's
        said: Any = tab.js(
            """(async () => {
              const { talker, head, speak } = window.edgetalker;
              const ended = new Promise((done) => { window.ended = done; });
              const frames = [];
              let place;
              talker.addEventListener('frame', ({ detail }) => {
                place ??= talker.layout.names.indexOf('JawOpen');
                frames.push([detail.time, detail.values[place]]);
              });
              const start = head.streamStart.bind(head);
              head.streamStart = async (options) => {
                await start(options, null, () => window.ended());
                const blob = new Blob([`TAP`], { type: 'text/javascript' });
                await head.audioCtx.audioWorklet.addModule(URL.createObjectURL(blob));
                const tap = new AudioWorkletNode(head.audioCtx, 'tap', { numberOfOutputs: 0 });
                head.streamWorkletNode.connect(tap); // its loudspeaker, listened to
                tap.port.onmessage = ({ data }) => window.played.push(data);
              };
              const given = [];
              const stream = head.streamAudio.bind(head);
              head.streamAudio = (piece) => {
                given.push([piece.anims[0].delay, piece.anims[0].vs.jawOpen[0], piece.audio.length]);
                stream(piece);
              };
              const mesh = head.morphs[0];
              const shown = [];
              head.opt.update = () => {
                if (talker.current) shown.push(mesh.morphTargetInfluences[mesh.morphTargetDictionary.jawOpen]);
              };
              const done = await speak(window.speech);
              await ended;
              return { done, frames, given, shown, rate: head.audioCtx.sampleRate, problems: window.problems };
            })()""".replace("TAP", TAP)
        )
        assert said["problems"] == []
        # Said once, whole; a busy machine's pauses in it are TalkingHead's, which plays what is there.
        sound, heard = spoken(tab), played(tab)[1]
        assert np.linalg.norm(heard) == pytest.approx(np.linalg.norm(sound), rel=0.1)
        # Each frame goes with its own sound, and is there when that is: TalkingHead's clock begins with the sound.
        frames, given = np.array(said["frames"]), np.array(said["given"])
        np.testing.assert_allclose(given[:, 0], 1000 * (frames[:, 0] - 1 / FPS), atol=1e-3)
        np.testing.assert_allclose(given[:, 1], frames[:, 1], atol=1e-6)
        before = np.concatenate([[0], np.cumsum(given[:, 2])[:-1]])
        np.testing.assert_allclose(before / said["rate"], frames[:, 0], atol=1.5 / said["rate"])
        # What it makes of them in pictures depends on how fast it draws, which without a GPU is slow.
        jaw = np.array(said["shown"])
        assert jaw.max() > 0.25 * frames[:, 1].max() > 0.02
