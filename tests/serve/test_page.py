"""The page that sends the browser's microphone: in a real Chromium whose microphone is a file."""

from __future__ import annotations

import asyncio
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.serve import Batch, BatchOptions
from edgetalker.serve.options import Address, Door
from edgetalker.serve.session import Session
from tests.viewer.chromium import PATIENCE, Tab, browser

for package in ("onnx", "onnxruntime", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

from edgetalker.serve import server as serving  # noqa: E402

SPEECH = Path(edgetalker.__file__).parent / "data" / "speech.wav"
TOKEN = "a-token+that%is-long"


def wait(true: Any, told: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


@pytest.mark.slow
def test_the_microphone_moves_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[bytes, int]] = []
    push = Session.push

    async def noted(self: Any, samples: Any, rate: int) -> None:
        if rate > 8000:  # silence between utterances is sent at this rate
            heard.append((bytes(samples), rate))
        await push(self, samples, rate)

    monkeypatch.setattr(Session, "push", noted)
    microphone = (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={SPEECH}", "--autoplay-policy=no-user-gesture-required",
    )  # fmt: skip

    def look(tab: Tab, batch: Batch, port: int) -> None:
        tab.open(f"http://127.0.0.1:{port}/#{TOKEN}")
        wait(lambda: tab.js("document.getElementById('state')?.textContent") == "connected", lambda: tab.problems)
        tab.click("#speak")
        state = "document.getElementById('state').textContent"
        wait(lambda: np.ptp(tab.picture("#face")) > 100, lambda: (tab.js(state), tab.problems))
        still, changed = tab.picture("#face"), list[float]()

        def moved() -> bool:
            changed.append(float((np.abs(tab.picture("#face") - still).max(2) > 60).mean()))
            return sum(later > 0.002 for later in changed) > 3 and len({round(it, 4) for it in changed}) > 3

        wait(moved, lambda: (changed, tab.js(state), batch.figures.summary()))
        tab.click("#again")
        wait(lambda: batch.resets > 0, lambda: tab.js(state))
        button = "document.getElementById('speak').textContent"
        assert tab.js(button) == "Stop"
        tab.js("for (let i = 0; i < 500; i += 1) edgetalker.talker.send({ type: 'position', seconds: 0 })")
        wait(lambda: tab.js(button) == "Microphone", lambda: (tab.js(button), tab.js(state)))
        assert tab.js(state) == "too many messages"
        assert tab.problems == []

    async def both() -> None:
        async with serving.WebServer(batch, Address("127.0.0.1", 0), Door(token=TOKEN)) as server:
            with browser(600, 700, *microphone) as tab:
                await asyncio.to_thread(look, tab, batch, server.port)

    with Batch(options=BatchOptions(talkers=1, schedule="one")) as batch:
        asyncio.run(both())
    rates = {rate for _, rate in heard}
    assert len(rates) == 1
    sound = np.frombuffer(b"".join(data for data, _ in heard), "<i2").astype(np.float32) / 32768
    assert len(sound) / rates.pop() > 0.3
    with wave.open(str(SPEECH)) as file:
        spoken = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    loud = float(np.abs(spoken).max())
    assert loud / 10 < float(np.abs(sound).max()), "what was heard is silence"
