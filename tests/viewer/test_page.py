"""The page in a real Chromium: it shows, moves with the sound, scrubs, loops, steers, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.face.names import SHAPE_INDEX
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.web.server import Asset
from edgetalker.viewer.colours import NAMES
from edgetalker.viewer.files import wav_bytes
from edgetalker.viewer.scene import face_asset, mesh_asset
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.wire import Request, shown
from tests.viewer.chromium import Tab, browser
from tests.viewer.pages import ARKIT, frame, served

pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
pytestmark = pytest.mark.slow
PROBE = "window.edgetalker.probe()"
SECONDS = 20
FPS = 25


def jaw(time: float) -> float:
    """Shut in the first second of each two, open in the second."""
    return 1.0 if time % 2 >= 1 else 0.0


def motion_at(time: float) -> NDArray[np.float32]:
    motion = np.zeros(55, np.float32)
    motion[SHAPE_INDEX["JawOpen"]] = jaw(time)
    return motion


def sound() -> Asset:
    """A tone while the mouth is open."""
    t = np.arange(SECONDS * 24000) / 24000
    samples = 0.3 * np.sin(2 * np.pi * 440 * t) * (t % 2 >= 1)
    return Asset("audio/wav", wav_bytes(samples.astype(np.float32), 24000), private=True)


def clip(title: str = "clip") -> Stream:
    stream = Stream("clip", title)
    stream.describe(ARKIT, audio={"url": "/audio.wav", "seconds": SECONDS}, controls=CONTROLS)
    for index in range(SECONDS * FPS):
        stream.frame(shown(frame(index, motion=motion_at(index / FPS))))
    stream.finish()
    return stream


CONTROLS = [{"name": "emotion", "places": [{"name": "joy", "low": 0.0, "high": 1.0, "value": 0.25}]}]


def assets() -> dict[str, Asset]:
    return {"/face.glb": face_asset(), "/audio.wav": sound()}


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser(800, 460) as tab:
        yield tab


def mouth(picture: NDArray[np.int64]) -> NDArray[np.int64]:
    height, width = picture.shape[:2]
    return picture[int(0.55 * height) : int(0.9 * height), int(0.38 * width) : int(0.62 * width)]


def open_clip(tab: Tab, url: str) -> None:
    tab.open("about:blank")
    tab.problems.clear()
    tab.requests.clear()
    tab.open(url)
    tab.until(f"{PROBE}.ready && {PROBE}.frames === {SECONDS * FPS}")


def drag(tab: Tab, time: float) -> None:
    """Move the slider; in one go, because the page moves it too."""
    tab.js(f"(() => {{ const s = document.querySelector('#scrub'); s.value = {time}; s.oninput(); }})()")


def seek(tab: Tab, time: float) -> None:
    drag(tab, time)
    tab.until(f"Math.abs({PROBE}.shown?.time - {time}) < 0.01")
    tab.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_scrubbing_shows_the_mouth_shut_and_open_and_nothing_is_loaded_from_elsewhere(tab: Tab) -> None:
    with served(clip(), assets=assets()) as server:
        open_clip(tab, server.url)
        pictures = []
        for time_, index in ((0.5, 12), (1.5, 37), (0.52, 13)):
            seek(tab, time_)
            assert tab.js(f"{PROBE}.shown.index") == index
            pictures.append(mouth(tab.picture("#stage")))
        shut, wide, again = pictures
        assert (np.abs(shut - wide).max(2) > 40).mean() > 0.02
        assert (np.abs(shut - again).max(2) > 40).mean() < 0.001
        assert ((wide.sum(2) < 120).sum()) > (shut.sum(2) < 120).sum() + 20  # dark inside
        assert tab.problems == []
        assert {url.split("/")[2] for url in tab.requests if not url.startswith(("data:", "blob:"))} == {
            f"127.0.0.1:{server.port}"
        }


def test_the_face_that_is_seen_belongs_to_the_sound_that_is_heard_within_a_frame(tab: Tab) -> None:
    """While it plays: the frame on the screen against the audio clock, read by the sound card's own account."""
    with served(clip(), assets=assets()) as server:
        open_clip(tab, server.url)
        seek(tab, 0.0)  # drawn once, so that shaders are compiled
        tab.click("#play")
        tab.until(f"{PROBE}.playing && {PROBE}.now > 0.3")
        script = f"""(async () => {{
              const found = [];
              while (found.length < 12 && {PROBE}.playing) {{
                await new Promise((done) => requestAnimationFrame(done));
                const p = {PROBE};
                // the sound card's last stamp, carried on to this moment
                const since = (performance.now() - p.output.performanceTime) / 1000;
                const heard = p.offset + p.output.contextTime + since - p.begun;
                found.push([p.shown.index, p.shown.time, heard, p.now]);
              }}
              return found;
            }})()"""
        error = np.inf
        for _ in range(8):  # a busy machine's sound stutters; in a calm fifth of a second the two agree, or never
            samples: Any = tab.js(script)
            assert len(samples) >= 5
            for index, at, _heard, _now in samples:
                assert index == min(int(at * FPS + 1e-6), SECONDS * FPS - 1)  # the frame that belongs to that moment
            error = min(error, float(np.median([abs(now - heard) for _, _, heard, now in samples])))
            if error < 1 / FPS:
                break
        assert error < 1 / FPS
        tab.click("#play")
        tab.until(f"!{PROBE}.playing")


def test_play_goes_to_the_end_and_loop_begins_again(tab: Tab) -> None:
    with served(clip(), assets=assets()) as server:
        open_clip(tab, server.url)
        seek(tab, SECONDS - 0.4)
        tab.click("#play")
        tab.until(f"!{PROBE}.playing && {PROBE}.now >= {SECONDS} - 0.01")
        tab.click("#loop")
        tab.click("#play")
        tab.until(f"{PROBE}.playing")
        drag(tab, SECONDS - 0.3)
        tab.until(f"{PROBE}.playing && {PROBE}.now < 9")
        tab.click("#play")


def test_a_slider_is_sent_and_a_refusal_is_shown_as_text(tab: Tab) -> None:
    from edgetalker.engines.errors import OptionError

    came: list[Request] = []

    def answer(request: Request) -> None:
        came.append(request)
        if len(came) > 1:
            raise OptionError("<img src=x onerror=alert(1)> is no emotion")

    with served(clip("<b>bold</b>"), answer, assets=assets()) as server:
        open_clip(tab, server.url)
        assert tab.js("document.querySelector('#title').textContent") == "<b>bold</b>"
        slide = "(() => {{ const s = document.querySelector('[data-name=joy]'); s.value = {}; s.oninput(); }})()"
        tab.js(slide.format(0.75))
        wait_for(lambda: len(came) == 1)
        assert came[0].values == {"joy": 0.75}
        tab.js(slide.format(0.5))
        tab.until("document.querySelector('#notice').textContent.includes('<img')")
        assert tab.js("document.querySelector('#notice').children.length") == 0


def wait_for(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_clip_that_is_animated_anew_takes_the_place_of_the_old_one(tab: Tab) -> None:
    stream = clip()
    with served(stream, assets=assets()) as server:
        open_clip(tab, server.url)
        seek(tab, 0.5)
        before = mouth(tab.picture("#stage"))
        stream.begin()
        for index in range(SECONDS * FPS):
            stream.frame(shown(frame(index, motion=motion_at(index / FPS + 1))))
        tab.until(f"{PROBE}.take === 1")
        seek(tab, 0.53)
        assert (np.abs(before - mouth(tab.picture("#stage"))).max(2) > 40).mean() > 0.02


def test_the_page_comes_back_when_the_talker_does(tab: Tab) -> None:
    first = clip("first")
    with served(first, assets=assets()) as server:
        open_clip(tab, server.url)
        port, token = server.port, server.token
    tab.until("document.querySelector('#link').textContent === 'reconnecting'")
    from edgetalker.viewer.server import ViewerServer

    # The same session, as after a dropped connection.
    second = ViewerServer(clip("second"), port=port, assets=assets(), answer=lambda _request: None, token=token)
    second.start()
    try:
        tab.until("document.querySelector('#title').textContent === 'second'")
        tab.until(f"{PROBE}.ready && {PROBE}.frames === {SECONDS * FPS}")
    finally:
        second.close()


def test_a_live_talker_is_shown_as_it_speaks(tab: Tab) -> None:
    stream = Stream("live", "live")
    with served(stream, assets=assets()) as server:
        tab.open("about:blank")
        tab.problems.clear()
        tab.open(server.url)
        tab.until("document.querySelector('#link').textContent === 'connected'")
        stream.describe(ARKIT)
        for index in range(30):
            stream.frame(shown(frame(index, motion=motion_at(0.0))))
        tab.until(f"{PROBE}.ready && {PROBE}.shown?.index === 29")
        shut = mouth(tab.picture("#stage"))
        for index in range(30, 35):
            stream.sound(np.zeros(640, np.float32), 16000)
            stream.frame(shown(frame(index, motion=motion_at(1.0))))
        tab.until(f"{PROBE}.shown?.index === 34")
        tab.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert (np.abs(shut - mouth(tab.picture("#stage"))).max(2) > 40).mean() > 0.02
        stream.frame(shown(frame(35, motion=np.full(55, np.nan, np.float32))))  # a broken model
        tab.until("document.querySelector('#notice').textContent.includes('not finite')")
        stream.begin()  # barge-in
        stream.frame(shown(frame(0, motion=motion_at(0.0))))
        tab.until(f"{PROBE}.shown?.index === 0")
        assert tab.problems == []


def test_vertices_move_the_users_own_mesh(tab: Tab) -> None:
    square = np.array([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]], np.float32)
    layout = MotionLayout("vertices", (4, 3), Fraction(25), units="millimetres")
    path, asset = mesh_asset(layout, np.array([[0, 1, 2], [0, 2, 3]]))
    stream = Stream("clip", "mesh")
    stream.describe(layout, mesh=path)
    for index in range(50):
        stream.frame(shown(frame(index, motion=square * (1.0 if index < 25 else 0.4))))
    with served(stream, assets={path: asset}) as server:
        tab.open("about:blank")
        tab.problems.clear()
        tab.open(server.url)
        tab.until(f"{PROBE}.ready && {PROBE}.frames === 50")
        covered = []
        for at in (0.5, 1.5):
            seek(tab, at)
            picture = tab.picture("#stage")
            covered.append(int((picture[:, :, 0] > picture[:, :, 2] + 25).sum()))
        assert covered[0] > 4 * covered[1] > 0
        assert tab.problems == []


def test_the_names_of_colours_are_those_that_a_browser_knows(tab: Tab) -> None:
    tab.open("about:blank")
    assert tab.js(f"{sorted(NAMES)}.filter((name) => !CSS.supports('color', name))") == []
    assert not tab.js("CSS.supports('color', 'nope')")
