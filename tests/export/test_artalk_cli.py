"""ARTalk as a user has it: a checkpoint of another window, exported, played from a file and live from a pipe."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.engines.bundle import Bundle
from edgetalker.export.faces.flame import read_flame
from edgetalker.models.artalk import finished
from edgetalker.runtime.sinks.names import ARKIT_SHAPES
from edgetalker.runtime.talker import Talker
from tests.export.test_faces import EXPRESSIONS, VERTICES, flame_arrays, save
from tests.live.test_stream import write_wav
from tests.support.artalk import DATA, TOY, checkpoint

pytestmark = pytest.mark.slow

HEADS = ("--audio-heads", "4", "--vae-heads", "4", "--heads", "4")
SECONDS, FRAMES = 2.5, 63


def edgetalker(*words: str | Path, heard: bytes = b"") -> str:
    """Return what the command wrote to stderr."""
    command = [sys.executable, "-m", "edgetalker", *map(str, words)]
    done = subprocess.run(command, input=heard, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


def motion(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.load(path) as arrays:
        assert "input.style_motion" not in arrays.files  # a clip is no value of a frame
        return np.asarray(arrays["motion"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """FLAME, ARKit's shapes on its topology, and a sound."""
    save(tmp_path / "flame.npz", flame_arrays())
    flame, random = read_flame(tmp_path / "flame.npz", EXPRESSIONS), np.random.default_rng(13)
    shapes = {name: flame.template + flame.expression @ random.normal(0, 1, EXPRESSIONS) for name in ARKIT_SHAPES[:40]}
    save(tmp_path / "shapes.npz", {"neutral": flame.template, **shapes})
    write_wav(tmp_path / "speech.wav", 0.1 * random.standard_normal(int(SECONDS * 16000), np.float32))
    return tmp_path


@pytest.mark.parametrize("patches", [(1, 3, 6, 12, 25), (1, 2, 4, 8)], ids=["25", "8"])
def test_a_variant_of_another_window_plays_from_a_file_and_live_from_a_pipe(
    folder: Path, patches: tuple[int, ...]
) -> None:
    speech, bundle, frames = folder / "speech.wav", folder / "bundle", patches[-1]
    torch.save(checkpoint(dataclasses.replace(TOY, patches=patches)), folder / "random.pt")
    edgetalker("export", "artalk", folder / "random.pt", "-o", bundle, *HEADS)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["notes"]["token_evaluations"] == sum(patches)
    assert (manifest["audio"]["window"], manifest["audio"]["block"]) == (640 * frames, frames)
    edgetalker("animate", speech, "--bundle", bundle, "-o", folder / "file.npz")
    said = edgetalker(
        *("live", "-", "--bundle", bundle, "--rate", "16000", "--late", "send", "--to", folder / "pipe.npz"),
        heard=speech.read_bytes()[44:],
    )
    assert f"{FRAMES} frames due" in said and "nobody fed" not in said
    assert f"look-ahead {40 * (frames - 1 + frames // 4 + 4)}.0" in said  # chunk, spread and smoothing
    assert motion(folder / "file.npz").shape == (FRAMES, 106)
    np.testing.assert_array_equal(motion(folder / "pipe.npz"), motion(folder / "file.npz"))


def test_the_reference_network_with_style_played_from_sound_in_odd_sizes(tmp_path: Path) -> None:
    """The published code's streamer gave its three chunks of the same sound whole: `style_motion_out`."""
    with np.load(DATA / "tiny.npz") as arrays:
        sound, wanted = arrays["wav"], finished(arrays["style_motion_out"])
        np.savez(tmp_path / "style.npz", motion=arrays["style_motion"])
    torch.save(checkpoint(), tmp_path / "tiny.pt")
    heads = ("--audio-heads", "4", "--vae-heads", "4", "--heads", "12")
    words = ("--style-motion", tmp_path / "style.npz", "--no-smooth", "-o", tmp_path / "bundle")
    edgetalker("export", "artalk", tmp_path / "tiny.pt", *heads, *words)
    made, random = list[np.ndarray](), np.random.default_rng(5)
    with Talker(Bundle.open(tmp_path / "bundle")) as talker:
        sound = np.pad(sound, (0, talker.end(len(wanted)) - len(sound)))
        while len(sound):
            part, sound = np.split(sound, [random.integers(1, 20_000)])
            talker.hear(part)
            while talker.ready() and len(made) < len(wanted):
                made.append(talker.make().motion.copy())
    np.testing.assert_allclose(np.stack(made), wanted, atol=1e-4)


def test_flame_and_arkit_by_the_command_line(folder: Path) -> None:
    torch.save(checkpoint(TOY), folder / "random.pt")
    words = ("export", "artalk", folder / "random.pt", *HEADS, "--flame", folder / "flame.npz")
    edgetalker(*words, "-o", folder / "vertices")
    said = edgetalker(*words, "--arkit", folder / "shapes.npz", "-o", folder / "arkit")
    for sentence in ("40 of 52 shapes, condition number", "% of the model's motion", f"held at 0: {ARKIT_SHAPES[40]}"):
        assert sentence in said
    speech, outputs = folder / "speech.wav", ("npz", "glb", "csv", "png")
    for kind, names in (("vertices", outputs[:2]), ("arkit", outputs)):
        files = [folder / f"{kind}.{name}" for name in names]
        edgetalker("animate", speech, "--bundle", folder / kind, *(word for file in files for word in ("-o", file)))
        assert all(file.stat().st_size for file in files)
    assert motion(folder / "vertices.npz").shape == (FRAMES, VERTICES, 3)
    assert motion(folder / "arkit.npz").shape == (FRAMES, 55)
    glb = (folder / "vertices.glb").read_bytes()
    document = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    primitive = document["meshes"][0]["primitives"][0]
    assert document["accessors"][primitive["attributes"]["POSITION"]]["count"] == VERTICES
    assert document["accessors"][primitive["indices"]]["count"] == 3 * len(flame_arrays()["f"])  # the user's triangles
    head = (folder / "arkit.csv").read_text().splitlines()
    assert len(head) == FRAMES + 1 and "HeadYaw" in head[0]
