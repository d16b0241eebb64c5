"""`edgetalker score`: any ARKit motion against its speech, from files of several talkers to a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.cli.main import main
from edgetalker.engines.errors import InputError
from edgetalker.models.online import metrics
from edgetalker.models.online.anymotion import AnyMotion, read_motion
from edgetalker.models.online.data import align
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.lipgap import LipRuler
from edgetalker.models.online.score import Clip, of_phones, score
from edgetalker.runtime.sinks.files.csv import CSV_NAMES, timecode

SPOKEN = ["m", "aa", "p", "iy", "n", "eh", "b", "uw", "s", "ah", "m", "ih", "k", "ae"]
INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


def segments() -> list[Segment]:
    """Twelve phrases of fourteen phones of a tenth of a second, with pauses of a second between them."""
    found = []
    for phrase in range(12):
        found.append(Segment("sil", 2.4 * phrase, 2.4 * phrase + 1))
        found += [Segment(p, 2.4 * phrase + 1 + 0.1 * k, 2.4 * phrase + 1.1 + 0.1 * k) for k, p in enumerate(SPOKEN)]
    return found


def sound(seconds: float = 30.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(int(seconds * 16000))).astype(np.float32)


def face(mouth: np.ndarray) -> np.ndarray:
    """Return motion (T, 55) with this mouth (T, 14)."""
    motion = np.zeros((len(mouth), len(MOTION_NAMES)), np.float32)
    for column, names in enumerate(MOUTH):
        for name in names:
            motion[:, INDEX[name]] = mouth[:, column]
    return motion


def scored(change: str) -> dict[str, Any]:
    truth = of_phones(sound(), segments())
    motion = face(truth.mouth)
    if change == "late":
        motion = np.roll(motion, 3, 0)
    elif change == "open":
        motion[:, INDEX["JawOpen"]] += 0.2
    elif change == "shut":
        motion[:] = 0.0
    elif change == "half shut":  # shut every other half second, whatever is said
        motion[(np.arange(len(motion)) // 15) % 2 == 0] = 0.0
        motion[(np.arange(len(motion)) // 15) % 2 == 1, INDEX["JawOpen"]] = 0.5
    elif change == "restless":
        motion[:, INDEX["JawOpen"]] += 0.15 * (np.arange(len(motion)) % 10 < 5)
    return score([Clip("a", AnyMotion(motion, (), 30.0, len(motion)), truth)])


def test_the_animators_own_mouth_is_perfect() -> None:
    found = scored("")
    closures = found["closures"]
    assert closures["events"] == 36 and closures["after_pause"] == [12, 12]
    assert closures["recall"] == closures["precision"] == 1.0 and closures["false_by_phone"] == {}
    assert closures["by_phone"] == {"b": [12, 12], "m": [24, 24], "p": [12, 12]}
    assert 0.2 < closures["recall_by_chance"] < 0.9 and closures["precision_by_chance"] < 0.7
    assert found["vowels"] == {"open_vowels": 84, "shut": 0, "share": 0.0}
    assert found["jaw"]["r"] == pytest.approx(1.0) and found["jaw"]["lag_frames"] == pytest.approx(0.0, abs=0.01)
    assert found["pauses"]["open"] == 0.0 and found["jitter"] == pytest.approx(found["jitter_of_animator"])


def test_a_late_motion_is_told_by_its_lag() -> None:
    found = scored("late")
    assert found["jaw"]["lag_frames"] == pytest.approx(3.0, abs=0.05)
    assert found["jaw"]["lag_ms"] == pytest.approx(100.0, abs=2)
    assert found["closures"]["precision"] < 0.9


def test_lips_that_never_meet_and_lips_that_never_part() -> None:
    opened, shut = scored("open"), scored("shut")
    assert opened["closures"]["recall"] == 0.0 and opened["closures"]["precision"] is None
    assert opened["pauses"]["open"] == 1.0
    assert shut["closures"]["recall"] == shut["closures"]["recall_by_chance"] == 1.0, "chance gives it away"
    assert shut["vowels"]["share"] == 1.0
    assert shut["closures"]["precision"] == pytest.approx(shut["closures"]["precision_by_chance"], abs=0.02)
    assert {"n", "ae"} <= set(shut["closures"]["false_by_phone"])


def test_a_mouth_that_knows_nothing_does_no_better_than_chance() -> None:
    closures = scored("half shut")["closures"]
    assert closures["recall"] == pytest.approx(closures["recall_by_chance"], abs=0.12)
    assert closures["precision"] == pytest.approx(closures["precision_by_chance"], abs=0.12)


def test_a_restless_mouth_opens_in_pauses() -> None:
    pauses = scored("restless")["pauses"]
    assert 0.3 < pauses["open"] < 0.7
    assert pauses["openings_a_minute"] > 60
    assert 6 < pauses["seconds"] < 12


def livelink(path: Path, motion: np.ndarray, fps: int = 60, start: str = "23:59:58") -> None:
    """Write a take as the phone app does: wall clock, over midnight."""
    hour, minute, second = (int(part) for part in start.split(":"))
    begin = hour * 3600 + minute * 60 + second
    lines = [",".join(["Timecode", "BlendShapeCount", *CSV_NAMES])]
    for frame, row in enumerate(motion):
        at = begin + frame // fps
        code = f"{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}:{frame % fps:02}.000"
        values = [f"{row[INDEX[name]]:.6f}" if name in INDEX else "0" for name in CSV_NAMES]
        lines.append(",".join([code, "61", *values]))
    path.write_text("\n".join(lines), encoding="utf-8-sig")


def test_a_take_of_the_phone_app_at_60_frames_over_midnight(tmp_path: Path) -> None:
    motion = np.zeros((241, 55), np.float32)
    motion[:, INDEX["JawOpen"]] = np.linspace(0, 1, 241)
    livelink(tmp_path / "take.csv", motion)
    found = read_motion(tmp_path / "take.csv")
    assert found.rate == pytest.approx(60.0) and found.frames == 241 and found.motion.shape == (121, 55)
    np.testing.assert_allclose(found.motion[:, INDEX["JawOpen"]], np.linspace(0, 1, 121), atol=1e-5)
    later = read_motion(tmp_path / "take.csv", start=0.5)
    np.testing.assert_allclose(later.motion[15:, INDEX["JawOpen"]], found.motion[:, INDEX["JawOpen"]], atol=1e-5)


def test_names_with_prefixes_and_sides_and_times_in_seconds(tmp_path: Path) -> None:
    rows = [f"{k / 50},{k / 100},{k / 200},7" for k in range(51)]
    (tmp_path / "a.csv").write_text("timeCode,blendShapes.jawOpen,mouthSmile_L,other\n" + "\n".join(rows))
    found = read_motion(tmp_path / "a.csv")
    assert found.rate == pytest.approx(50) and "MouthClose" in found.absent and "JawOpen" not in found.absent
    assert found.motion[30, INDEX["JawOpen"]] == pytest.approx(0.5)
    assert found.motion[30, INDEX["MouthSmileLeft"]] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "time,MouthClose\n0,1\n1,2", "has no JawOpen"),
        ("a.csv", "JawOpen\n0\n1", "no column of times"),
        ("a.csv", "Timecode,JawOpen\n00:00:00:00,0\n00:00:00:10,1", "--fps"),
        ("a.csv", "time,JawOpen\n0,1\n1,x", "no motion that can be read"),
        ("a.csv", "time,JawOpen\n0,1\n1,nan", "finite frames"),
        ("a.csv", "", "no column has an ARKit name"),
        ("a.csv", "time;JawOpen\n0;1\n1;1", "it begins with `time;JawOpen`"),
        ("a.csv", "time,JawOpen\n0,1\n1,1\n2", "row 3 has 1 of 2 columns; the file may be cut off"),
        ("a.jsonl", "", "it is empty"),
        ("a.bvh", "", "ends in .csv"),
        ("a.jsonl", "{}\n", "no motion that can be read"),
        ("a.npz", "no zip", "no array file"),
        ("a.csv", "time,JawOpen\n0,0.1\n1e12,0.2\n", "a day at most was wanted"),
    ],
)
def test_what_is_no_motion_is_told(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_motion(path)


def test_rates_that_the_file_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("JawOpen\n" + "\n".join(str(k / 30) for k in range(31)))
    assert read_motion(tmp_path / "a.csv", rate=30.0).motion[:, INDEX["JawOpen"]][-1] == pytest.approx(1.0)


def facekit(folder: Path) -> None:
    """A face of four triangles' worth of vertices: three upper, three lower landmarks, and what moves them."""
    marks = list(range(68))
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": marks}))
    base = np.zeros((68, 3))
    base[61:64, 1] = 0.1

    def write(name: str, change: dict[int, float]) -> None:
        moved = base.copy()
        for vertex, value in change.items():
            moved[vertex, 1] += value
        lines = [f"v {x} {y} {z}" for x, y, z in moved] + ["f 1 2 3"]
        (folder / name).write_text("\n".join(lines))

    write("generic_neutral_mesh.obj", {})
    write("jawOpen.obj", {65: -2.0, 66: -2.0, 67: -2.0})
    write("mouthClose.obj", {65: 2.0, 66: 2.0, 67: 2.0})
    write("mouthLowerDown_L.obj", {67: -0.4})
    write("cheekPuff_L.obj", {62: 0.1})
    write("cheekPuff_R.obj", {62: 0.1})


def test_millimetres_come_from_the_meshes(tmp_path: Path) -> None:
    facekit(tmp_path)
    ruler = LipRuler(tmp_path)
    motion = np.zeros((4, 55), np.float32)
    motion[1, INDEX["JawOpen"]] = 0.5  # 1 cm
    motion[2, [INDEX["JawOpen"], INDEX["MouthClose"]]] = 0.5
    motion[3, [INDEX["MouthLowerDownLeft"], INDEX["CheekPuff"]]] = 1.0
    np.testing.assert_allclose(ruler.millimetres(motion), [0.0, 10.0, 0.0, 4.0], atol=1e-6)
    truth = of_phones(sound(), segments())
    found = score([Clip("a", AnyMotion(face(truth.mouth), (), 30.0, 1), truth)], ruler)["millimetres"]
    assert found["p_b_m"] < 0.5 and found["p_b_m_under_1_mm"] == 1.0 and found["open_vowels"] > 3
    assert found["pauses"] == pytest.approx(0.0, abs=0.1)


def test_a_folder_that_is_no_facekit_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tells no landmarks"):
        LipRuler(tmp_path)


def wav(path: Path, samples: np.ndarray) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_take(path: Path, motion: np.ndarray) -> None:
    from fractions import Fraction

    lines = [",".join(["Timecode", "BlendShapeCount", *CSV_NAMES])]
    for frame, row in enumerate(motion):
        values = [f"{row[INDEX[name]]:.6f}" if name in INDEX else "0" for name in CSV_NAMES]
        lines.append(",".join([timecode(Fraction(frame, 30), Fraction(30)), "61", *values]))
    path.write_text("\n".join(lines))


def test_the_command_pairs_folders_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, jaw in (("quiet", 0.0), ("loud", 0.3)):
        for folder in ("motion", "sound"):
            (tmp_path / folder).mkdir(exist_ok=True)
        motion = np.zeros((90, 55), np.float32)
        motion[30:60, INDEX["JawOpen"]] = jaw
        write_take(tmp_path / "motion" / f"{name}.csv", motion)
        wav(tmp_path / "sound" / f"{name}.wav", sound(3.0))
    words = ["score", str(tmp_path / "motion"), str(tmp_path / "sound"), "--no-speech"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert "mouth open in pauses           17 % of 6.0 s, 10 openings a minute" in capsys.readouterr().out
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["clips"] == ["loud", "quiet"] and kept["pauses"]["open"] == pytest.approx(30 / 180)
    for name in ("quiet.flac", "loud.mp3"):
        (tmp_path / "sound" / name).touch()
    assert main(words) == 65
    assert "which file is meant? loud.mp3, loud.wav, quiet.flac, quiet.wav" in capsys.readouterr().err
    for name in ("quiet.flac", "loud.mp3", "quiet.wav"):
        (tmp_path / "sound" / name).unlink()
    assert main(words) == 65
    assert "without a partner: quiet" in capsys.readouterr().err


def test_a_file_and_a_folder_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path), str(tmp_path / "a.wav")]) == 64
    assert "two files, or two folders" in capsys.readouterr().err


def test_what_the_phone_loop_prints_becomes_phones() -> None:
    found = align._heard("a S 0 T -9 A -8 L -7 0 -33 0 SIL 35 -16 -10 P 43 -17 -12 AY 51 -10 -1 +NSN+ 60")
    assert [(s.phone, s.start) for s in found] == [("sil", 0.0), ("p", 0.35), ("aa", 0.43), ("iy", 0.47), ("sil", 0.51)]
    assert found[-1].end == 0.6
    with pytest.raises(InputError, match="heard no phones"):
        align._heard("")


@pytest.mark.slow
@pytest.mark.skipif(not align.available(), reason="pocketsphinx is not installed")
def test_the_shipped_clip_with_words_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import edgetalker

    clip = Path(edgetalker.__file__).parent / "data" / "speech.wav"
    said = "Peter Piper bought a big pepper pot, but maybe my mother would prefer a purple plum. Please, bring me both."
    (tmp_path / "said.txt").write_text(said)
    motion = tmp_path / "a.csv"
    assert main(["animate", str(clip), "-o", str(motion), "--schedule", "one", "--quiet"]) == 0
    capsys.readouterr()
    for words in (["--words", str(tmp_path / "said.txt")], []):
        assert main(["score", str(motion), str(clip), *words, "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["closures"]["events"] >= 14
        assert found["closures"]["recall"] > 0.85 and found["closures"]["precision"] > 0.8
        assert found["closures"]["recall"] > found["closures"]["recall_by_chance"] + 0.1
        assert abs(found["jaw"]["lag_frames"]) < 1
    assert metrics.CLOSED == 0.05


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_motion_is_read_in_any_encoding_that_editors_write(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_text("time,JawOpen\n0,0.25\n1,0.25\n", encoding=encoding)
    assert read_motion(tmp_path / "a.csv").motion[0, INDEX["JawOpen"]] == 0.25


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_motion_that_never_ends_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="a folder, a device or a pipe"):
        read_motion(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_words_that_never_end_are_not_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["score", str(tmp_path / "a.csv"), str(tmp_path / "a.wav"), "--words", "/dev/zero"]) == 65
    assert "cannot be read as text: it has more than" in capsys.readouterr().err
