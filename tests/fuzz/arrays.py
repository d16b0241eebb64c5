"""Changed array files and tables of numbers: whatever came of one is read, or is an InputError.

What reads them: a bundle's states and schedules (their digests put right), recordings (`view`), values of inputs,
clips of motion, templates, shapes of faces.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgetalker.engines.arrays import read_clip
from edgetalker.engines.bundle import MANIFEST
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.export.faces.shapes import read_mesh, read_shapes
from edgetalker.export.streamingtalker.template import read_template
from edgetalker.face.names import ARKIT_SHAPES
from edgetalker.runtime.sources.values import FileValues
from edgetalker.viewer.recorded import read_recording
from tests.fuzz.manifests import play
from tests.fuzz.trying import NUMBERS, Random, cut, flip, splice, tries
from tests.support.toy import toy_bundle

Arrays = Mapping[str, np.ndarray]
FRAMES, PLACES = 12, ("yaw", "pitch")
DTYPES = ("<f4", "<f8", "<i8", "|u1", "|b1", "<U3", "|S4", "<c8", "<f2", "<M8[s]", "|O", "<f4, (3,)i1", "x", "")


def recording() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)
    return {
        "motion": dice.random((FRAMES, 52), np.float32),
        "names": np.array(ARKIT_SHAPES),
        "fps": np.array([30, 1]),
        "index": np.arange(FRAMES),
        "time": np.arange(FRAMES) / 30,
        "outcome": np.array(["on_time"] * FRAMES),
        "cost_ns": np.full(FRAMES, 1000),
        "due_ns": np.arange(FRAMES) * 10**7,
        "done_ns": np.arange(FRAMES) * 10**7 - 5,
        "input.gaze": dice.random((FRAMES, 2)),
        "values": dice.random((FRAMES, 2)),
    }


def faces() -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(1).random((4, 3)) for name in ("neutral", *ARKIT_SHAPES[:3])}


def npz(arrays: Arrays, random: Random) -> bytes:
    """One or two arrays become others; then perhaps the archive itself is changed."""
    arrays = dict(arrays)
    for _ in range(int(random.integers(0, 3))):
        key = list(arrays)[int(random.integers(len(arrays)))]
        with suppress(TypeError, IndexError, ValueError):  # records are no texts, single numbers have no half
            arrays |= {key: other(arrays[key], random)}
    file = io.BytesIO()
    (np.savez_compressed if random.random() < 0.5 else np.savez)(file, **arrays)  # type: ignore[arg-type]
    content = file.getvalue()
    what = int(random.integers(6))
    if what == 0:
        return flip(content, random)
    if what == 1:
        return cut(content, random)
    if what == 2:
        return splice(content, random)
    return in_header(content, random) if what == 3 else content


def other(values: np.ndarray, random: Random) -> np.ndarray:
    """Another type, shape, length, or numbers that are none."""
    kinds: tuple[Callable[[], np.ndarray], ...] = (
        lambda: values.astype(str),
        lambda: values.reshape(-1),
        lambda: values[:0],
        lambda: values[: len(values) // 2],
        lambda: np.array(0),
        lambda: np.zeros((len(values), 0), np.float32),
        lambda: values[..., None],
        lambda: np.full(values.shape, [np.nan, np.inf, -1e39, 1e300][int(random.integers(4))]),
        lambda: np.full(values.shape, NUMBERS[int(random.integers(len(NUMBERS)))]),
        lambda: values.astype(str).astype("S"),
        lambda: np.zeros(values.shape, [("a", "i4"), ("b", "f4")]),
        lambda: np.zeros(values.shape, "M8[s]"),
        lambda: np.zeros(values.shape, np.complex64),
    )
    return kinds[int(random.integers(len(kinds)))]()


def in_header(content: bytes, random: Random) -> bytes:
    """Change an array's own header inside an archive, whose checksums are made anew."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        infos = old.infolist()
        at = int(random.integers(len(infos)))
        for place, info in enumerate(infos):
            data = old.read(info)
            new.writestr(info.filename, header(data, random) if place == at else data)
    return result.getvalue()


def header(content: bytes, random: Random) -> bytes:
    """Another type, shape, order or length in the header of an .npy; or bytes anywhere."""
    what = int(random.integers(6))
    if what > 3:
        return (flip, cut)[what - 4](content, random)
    end = content.find(b"\n") + 1
    number = NUMBERS[int(random.integers(len(NUMBERS)))]
    shape = (f"({number},)", f"({number}, 3)", "()", "(1, 2", "((1,),)", f"({'9' * 5000},)", "None", "(True,)")
    descr = DTYPES[int(random.integers(len(DTYPES)))]
    chosen = shape[int(random.integers(len(shape)))]
    text = f"{{'descr': '{descr}', 'fortran_order': {what == 1}, 'shape': {chosen}, }}"
    if what == 2:
        text = content[10:end].decode("latin-1").replace("'shape': (", f"'shape': ({number}, ").strip()
    if what == 3:
        text = "(" * int(random.integers(1, 5000)) + text
    text = text[:65_000].ljust(117) + "\n"
    return content[:8] + len(text).to_bytes(2, "little") + text.encode("latin-1") + content[end:]


def table(random: Random) -> bytes:
    """A CSV with cells, separators, columns or encodings exchanged."""
    rows = [["time", *PLACES], *([f"{k / 30:.3f}", "0.1", "-0.2"] for k in range(FRAMES))]
    words = ("", "nan", "inf", "1e999", "x", "1,5", '"', '"\n"', "\0", "0x10", "1_000", "٣", "9" * 5000, "-0", "time")
    for _ in range(int(random.integers(1, 4))):
        row = rows[int(random.integers(len(rows)))]
        what, word = int(random.integers(4)), words[int(random.integers(len(words)))]
        if what == 0 and row:
            row[int(random.integers(len(row)))] = word
        elif what == 1:
            row.append(word)
        elif what == 2 and row:
            row.pop()
        else:
            rows.insert(int(random.integers(len(rows))), [word])
    text = (",", ";", "\t")[int(random.integers(3))].join(["\n".join([",".join(row) for row in rows])])
    content = text.encode(("utf-8", "utf-8-sig", "utf-16", "latin-1")[int(random.integers(4))], "replace")
    return flip(content, random) if random.random() < 0.3 else content


def attempt(path: Path) -> None:
    """Read a file in every way that a user can have it read."""
    if path.is_dir():
        play(path)
        return
    readers: list[Callable[[], object]] = [
        lambda: read_recording(path),
        lambda: list(FileValues("gaze", path, PLACES).take(1e9)),
        lambda: read_clip(path, 52, 100),
        lambda: read_template(path, 4, None),
        lambda: read_template(path, 4, "neutral"),
        lambda: read_shapes(path),
        lambda: read_mesh(path),
    ]
    for read in readers:
        with suppress(InputError, OptionError):
            read()


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try changed files; return how many. Raises Wrong for anything but an InputError."""
    with tempfile.TemporaryDirectory() as folder:
        toy = toy_bundle(Path(folder) / "toy").path
        files = {name: (toy / name).read_bytes() for name in ("history.npy", "full.npy", "one.npy")}
        manifest = (toy / MANIFEST).read_bytes()
        plain = io.BytesIO()
        np.save(plain, np.random.default_rng(2).random((4, 3)))

        def in_bundle(random: Random) -> Path:
            for name, content in files.items():
                (toy / name).write_bytes(content)
            name = list(files)[int(random.integers(len(files)))]
            content = header(files[name], random)
            (toy / name).write_bytes(content)
            document = json.loads(manifest)
            document["files"][name] = hashlib.sha256(content).hexdigest()
            (toy / MANIFEST).write_text(json.dumps(document))
            return toy

        def make(random: Random, count: int) -> tuple[str, Path]:
            kind = ("bundle", "recording", "faces", "plain", "table")[count % 5]
            if kind == "bundle":
                return kind, in_bundle(random)
            suffix = {"table": "csv", "plain": "npy"}.get(kind, "npz")
            path = Path(folder) / f"changed.{suffix}"
            if kind == "plain":
                path.write_bytes(header(plain.getvalue(), random))
            elif kind == "table":
                path.write_bytes(table(random))
            else:
                path.write_bytes(npz(recording() if kind == "recording" else faces(), random))
            return kind, path

        return tries(make, attempt, examples, seconds, seed)
