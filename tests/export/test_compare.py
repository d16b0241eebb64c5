"""`compare` and `offline`: distances that mean something, sweeps, and clips as the papers evaluate them."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.cli.main import main
from edgetalker.engines.errors import InputError
from edgetalker.export.streamingtalker.compare import Distance, Regions, regions_of
from edgetalker.models.streamingtalker import StreamingTalker
from tests.export.conftest import Commanded
from tests.models.streamingtalker.conftest import TINY, TINY_BIWI, Reference

FRAMES = 8


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes((np.clip(reference["wav"][:8000], -1, 1) * 32767).astype("<i2").tobytes())
    return path


def words(command: str, windowed: Commanded, speech: Path, *more: str) -> list[str]:
    return [command, str(windowed.bundle.path), str(TINY), str(speech), "--frames", str(FRAMES), *more]


def test_a_comparison_with_yardsticks(
    windowed: Commanded, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lips.txt").write_text("1, 2\n3")
    files = ["--json", str(tmp_path / "d.json"), "--png", str(tmp_path / "tracks.png")]
    assert main(words("compare", windowed, speech, "--lips", str(tmp_path / "lips.txt"), *files)) == 0
    document = json.loads((tmp_path / "d.json").read_text())
    distances = document["distances"]
    assert all(set(ratios) == {"face", "lips"} for ratios in distances.values())
    # What must agree does: the bundle with its contract in PyTorch, the steps with their exact collapse.
    assert distances["the contract in PyTorch"]["face"] < 1e-3
    assert distances["schedule collapsed"]["face"] < 1e-3
    for other in ("bundle against streaming_inference", "bundle against predict", "another seed"):
        assert distances[other]["face"] > 1e-3
    assert distances["another seed"]["face"] < distances["bundle against streaming_inference"]["face"]
    assert (tmp_path / "tracks.png").read_bytes()[:4] == b"\x89PNG"
    assert set(document["drawn"]) == {1, 2, 3}
    assert "bundle against predict" in capsys.readouterr().out


def test_a_sweep_names_the_shortest_contract(
    windowed: Commanded, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = ["--lookahead", "0,100", "--history", "20,8"]
    assert (
        main(words("compare", windowed, speech, *choices, "--within", "100", "--json", str(tmp_path / "s.json"))) == 0
    )
    document = json.loads((tmp_path / "s.json").read_text())
    assert len(document["sweep"]) == 4
    assert document["shortest"]["lookahead_ms"] == 0 and document["shortest"]["history"] == 8
    assert "the shortest within 100: lookahead 0, history 8: latency 200 ms" in capsys.readouterr().out
    assert main(words("compare", windowed, speech, "--phase", "absolute", "--within", "0")) == 0
    assert "none is within 0; the nearest is phase absolute" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--within", "0.1"], "--within is for a sweep"),
        (["--lookahead", "30"], "look-ahead of 30 ms"),
        (["--history", "many"], "`many` is no whole number"),
    ],
)
def test_sweeps_that_do_not_fit(
    windowed: Commanded, speech: Path, more: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words("compare", windowed, speech, *more))
    except SystemExit as stopped:
        code = int(str(stopped.code))
    assert code == 64
    assert text in capsys.readouterr().err


def test_the_checkpoint_of_another_bundle_is_refused(
    windowed: Commanded, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(windowed.bundle.path), str(TINY_BIWI), str(speech)]) == 64
    assert "from latents of 64 at 30 fps; the checkpoint 60 from 48 at 25" in capsys.readouterr().err


def test_a_distance_is_relative_to_what_moves() -> None:
    motion: NDArray[np.float32] = np.tile(np.sin(np.arange(12)).reshape(12, 1, 1), (1, 2, 3)).astype(np.float32)
    regions = Regions(lips=np.array([0]))
    shifted: NDArray[np.float32] = motion + np.float32(100)  # where a face stands is no motion
    assert Distance.between("", motion, motion, regions).ratios == {"face": 0.0, "lips": 0.0}
    assert Distance.between("", 0 * motion + motion.mean(axis=0), motion, regions).ratios["face"] == pytest.approx(1.0)
    twice = Distance.between("", shifted + 2 * (motion - motion.mean(axis=0)), shifted, regions)
    assert twice.ratios["lips"] == pytest.approx(2.0, rel=1e-3)


def test_regions(model: StreamingTalker, tmp_path: Path) -> None:
    assert regions_of(model.config).lips is None
    np.save(tmp_path / "upper.npy", np.array([5, 59]))
    assert regions_of(model.config, upper=tmp_path / "upper.npy").named()["upper face"].tolist() == [5, 59]  # type: ignore[union-attr]
    (tmp_path / "lips.txt").write_text("1 60")
    with pytest.raises(InputError, match="the face has 0 to 59"):
        regions_of(model.config, tmp_path / "lips.txt")
    with pytest.raises(InputError, match="no list of vertices"):
        regions_of(model.config, tmp_path / "absent.txt")


def test_a_clip_offline(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = ["--audio-heads", "4", "--vae-heads", "4", "--steps", "2"]
    takes = {}
    for path in ("predict", "streaming_inference"):
        out = tmp_path / f"{path}.npz"
        assert main(["offline", str(TINY), str(speech), "-o", str(out), "--path", path, *heads]) == 0
        with np.load(out) as arrays:
            takes[path] = arrays["motion"]
    assert takes["predict"].shape == takes["streaming_inference"].shape == (14, 60, 3)
    assert np.abs(takes["predict"] - takes["streaming_inference"]).max() > 1e-3
    assert "14 frames of predict" in capsys.readouterr().err
    assert main(["offline", str(TINY), str(speech), "-o", "vmc://127.0.0.1", *heads]) == 64
    fps = ["-o", str(tmp_path / "fps.npz"), "--fps", "60"]
    assert main(["offline", str(TINY), str(speech), *fps, *heads]) == 0
    with np.load(tmp_path / "fps.npz") as arrays:
        assert (arrays["fps"].tolist(), len(arrays["motion"])) == ([60, 1], 28)
    assert main(["offline", str(TINY), str(speech), "-o", str(tmp_path / "a.npz"), "--identity", "8", *heads]) == 64


def test_files_that_cannot_be_are_told_before_the_work(
    windowed: Commanded,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def works(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    for place in ("models.streamingtalker.load_checkpoint", "export.streamingtalker.export_streamingtalker"):
        monkeypatch.setattr(f"edgetalker.{place}", works)
    export = ["export", "streamingtalker", str(TINY), "-o", str(tmp_path / "new")]
    for wrong, code in (
        (["--json", str(tmp_path / "no" / "d.json")], 74),
        (["--png", str(tmp_path)], 74),
        (["--lips", str(tmp_path / "no.txt")], 65),
    ):
        assert main(words("compare", windowed, speech, *wrong)) == code
        assert main([*export, "--compare", str(speech), *wrong]) == code
        assert main([*export, *wrong]) == 64
    assert main([*export, "--compare", str(tmp_path / "no.wav")]) == 65
    messages = capsys.readouterr().err
    assert messages.count("error:") == 10 and "add --compare SPEECH.wav" in messages
    assert not (tmp_path / "new").exists()


def test_a_clip_offline_into_a_file_that_cannot_hold_it(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def works(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("edgetalker.export.streamingtalker.compare.published", works)
    heads = ["--audio-heads", "4", "--vae-heads", "4"]
    assert main(["offline", str(TINY), str(speech), "-o", str(tmp_path / "a.png"), *heads]) == 64
    assert "curves need motion with names" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
