"""ARTalk's bundles with FLAME's vertices and with ARKit shapes, as `edgetalker view` shows them in a real Chromium."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.export.faces.attach import FaceOptions
from edgetalker.face.head import head
from edgetalker.runtime.sinks.names import ARKIT_SHAPES
from tests.export.test_faces import EXPRESSIONS, save, with_face
from tests.live.test_stream import write_wav
from tests.viewer.chromium import Tab, browser
from tests.viewer.test_page import PROBE, seek

pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
pytestmark = pytest.mark.slow
PARTS = ("skin", "eyes", "mouth")
SECONDS, FPS = 3, 25

Array = NDArray[Any]


def face_files(folder: Path) -> FaceOptions:
    """Write a file of FLAME's layout whose face is our own head's, moved by small ARKit shapes, and those shapes."""
    parts = [part for part in head().parts if part.name in PARTS]
    places = np.cumsum([0, *(len(part.positions) for part in parts)])
    template = np.concatenate([part.positions for part in parts]).astype(np.float64)
    deltas = np.zeros((len(ARKIT_SHAPES), *template.shape))
    for part, first, last in zip(parts, places[:-1], places[1:], strict=True):
        for name, moved in part.deltas.items():
            if name in ARKIT_SHAPES:
                deltas[ARKIT_SHAPES.index(name), first:last] = moved
    count, joints = len(template), np.zeros((5, len(template)))
    joints[:, 0] = 1.0
    weights = np.zeros((count, 5))
    weights[:, 1] = 1.0  # all of it turns with the neck
    shapes = np.zeros((count, 3, 300 + EXPRESSIONS))
    shapes[:, :, 300 : 300 + len(deltas)] = 0.3 * np.moveaxis(deltas, 0, -1)
    save(
        folder / "flame.npz",
        {
            "v_template": template,
            "shapedirs": shapes,
            "posedirs": np.zeros((count, 3, 36)),
            "J_regressor": joints,
            "weights": weights,
            "f": np.concatenate([part.triangles + first for part, first in zip(parts, places, strict=False)]),
            "kintree_table": np.array([[0xFFFFFFFF, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        },
    )
    named = {name: template + delta for name, delta in zip(ARKIT_SHAPES, deltas, strict=True)}
    save(folder / "shapes.npz", {"neutral": template, **named})
    return FaceOptions(flame=folder / "flame.npz", arkit=folder / "shapes.npz")


@contextmanager
def viewed(*words: str | Path) -> Iterator[str]:
    """Start `edgetalker view`; yield the page's address."""
    command = [sys.executable, "-m", "edgetalker", "view", *map(str, words), "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.fullmatch(r"open (\S+)\n", line := process.stderr.readline())
        assert found, line + process.stderr.read()
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said, said


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser(800, 460) as tab:
        yield tab


@pytest.mark.parametrize("kind", ["vertices", "arkit"])
def test_the_page_plays_a_bundle_with_flame_and_one_with_arkit(tab: Tab, tmp_path: Path, kind: str) -> None:
    options = face_files(tmp_path)
    with_face(tmp_path / "bundle", options if kind == "arkit" else replace(options, arkit=None))
    sound = 0.1 * np.random.default_rng(3).standard_normal(SECONDS * 16000)
    write_wav(tmp_path / "speech.wav", sound.astype(np.float32))
    pictures = []
    with viewed(tmp_path / "speech.wav", "--bundle", tmp_path / "bundle") as url:
        tab.open(url)
        tab.until(f"{PROBE}.ready && {PROBE}.frames === {SECONDS * FPS}")
        for at in (0.0, 1.2, 0.0):  # the random network turns the head in between
            seek(tab, at)
            pictures.append(tab.picture("#stage"))
        problems = [*tab.problems]
        tab.open("about:blank")
    assert problems == []
    first, turned, again = pictures
    skin = (first[:, :, 0] > first[:, :, 2] + 25).mean()
    assert 0.05 < skin < 0.5, "a face stands in the middle, whole"
    assert (np.abs(first - turned).max(2) > 40).mean() > 0.05, "it moves"
    assert (np.abs(first - again).max(2) > 40).mean() < 0.001
