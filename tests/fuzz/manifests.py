"""Changed manifests: whatever came of one is a bundle that plays, or a UserError, soon and in little memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.cli.inspect import describe
from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.runtime.model import Model
from tests.fuzz.trying import NUMBERS, Random, cut, flip, splice, tries
from tests.support.toy import toy_bundle

DATA = Path(__file__).parents[1] / "data" / "bundles"
FRAMES = 3
HOSTILE: tuple[Any, ...] = (
    *NUMBERS,
    *(3, 4, 30, 1600, 10**30, -(10**30), 1e39, 1e-9, 1e-320, 0.5, float("nan"), float("inf")),
    *(True, False, None, [], {}, [[]], [{}], [0], [1] * 9, [10**9, 10**9], {"": {}}, {"a": 1}),
    *("", " ", "\0", "\ud800", "\uffff", "é" * 300, "a" * 5000, "@row", "x[phase]", "x[0:0]", "x[1:999999999]"),
    *("1/0", "1/10^36", "30000/1001", "1e9", "0.000000001", "999999999/1", "-30", "nan", "float16", "int64", "bool"),
    *("../x", "/dev/zero", "/etc/passwd", "manifest.json", ".", "..", "a/../../b", "a\\b", "CON", "~", "full.npy"),
    *("audio", "heard", "count", "noise", "control", "input", "constant", "state", "value", "copy", "shift", "linear"),
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of everything in a document but the document."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield (*path, key)
        yield from nodes(inner, (*path, key))


def change(document: dict[str, Any], random: Random) -> None:
    """Make one change: a value, a key, a number everywhere, two places exchanged, something twice or not at all."""
    places = list(nodes(document))
    if not places:
        return
    path = places[int(random.integers(len(places)))]
    holder = at(document, path[:-1])
    hostile = HOSTILE[int(random.integers(len(HOSTILE)))]
    what = int(random.integers(7))
    if what == 0:
        del holder[path[-1]]
    elif what == 1 and isinstance(holder, dict):
        holder[hostile if isinstance(hostile, str) else "files"] = holder.pop(path[-1])
    elif what == 2 and isinstance(holder, list):
        holder.insert(path[-1], json.loads(json.dumps(holder[path[-1]])))
    elif what == 3:
        other = places[int(random.integers(len(places)))]
        holder[path[-1]] = json.loads(json.dumps(at(document, other)))
    elif what == 4:
        everywhere(document, holder[path[-1]], hostile)
    else:
        holder[path[-1]] = hostile


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def everywhere(document: Any, old: Any, new: Any) -> None:
    """Change a number or a text wherever it stands, so that what must agree does."""
    if isinstance(old, (dict, list)):
        return
    for path in list(nodes(document)):
        holder = at(document, path[:-1])
        if type(holder[path[-1]]) is type(old) and holder[path[-1]] == old:
            holder[path[-1]] = new


def in_bytes(content: bytes, random: Random) -> bytes:
    kinds = (flip, cut, splice, deep, digits, wide)
    return kinds[int(random.integers(len(kinds)))](content, random)


def deep(content: bytes, random: Random) -> bytes:
    return content.replace(b'"name":', b'"name":' + b"[" * int(random.integers(1, 100_000)), 1)


def digits(content: bytes, random: Random) -> bytes:
    return content.replace(b'"version": 2', b'"version": ' + b"9" * int(random.integers(1, 10_000)), 1)


def wide(content: bytes, random: Random) -> bytes:
    return content.decode().encode(("utf-16", "utf-8-sig", "utf-32", "utf-7")[int(random.integers(4))])


def play(folder: Path) -> None:
    """Open a bundle, tell of it, and make some frames."""
    bundle = Bundle.open(folder)
    for line in describe(bundle):
        line.encode("utf-8", "backslashreplace")
    with Model(bundle, threads=1) as model:
        talker = model.talker()
        talker.hear(np.full(min(talker.end(FRAMES), 1 << 20), 0.1, np.float32))
        for _ in range(FRAMES):
            if talker.ready():
                talker.make()


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try changed manifests of two bundles; return how many. Raises Wrong for anything but a UserError."""
    with tempfile.TemporaryDirectory() as folder:
        toy = toy_bundle(Path(folder) / "toy").path
        tiny = Path(folder) / "tiny"
        link(DATA / "tiny_voca", tiny)
        whole = {path: (path / MANIFEST).read_bytes() for path in (toy, tiny)}

        def make(random: Random, count: int) -> tuple[str, Path]:
            path, content = list(whole.items())[count % len(whole)]
            if random.random() < 0.15:
                (path / MANIFEST).write_bytes(in_bytes(content, random))
                return "bytes", path
            document = json.loads(content)
            for _ in range(int(random.integers(1, 4))):
                change(document, random)
            (path / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
            return f"manifest of {path.name}", path

        return tries(make, play, examples, seconds, seed)


def link(source: Path, target: Path) -> None:
    """Make a bundle of links, whose manifest is its own."""
    for file in source.rglob("*"):
        if file.is_file():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).symlink_to(file)
    (target / MANIFEST).unlink()
    (target / MANIFEST).write_bytes((source / MANIFEST).read_bytes())
