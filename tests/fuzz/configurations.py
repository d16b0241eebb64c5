"""Changed configuration files of `edgetalker live`: whatever stands in one is taken or answered by a UserError."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetalker.cli.config import targets
from edgetalker.cli.main import whole_parser
from edgetalker.outputs import sink_for
from tests.fuzz.trying import Random, tries

SEEDS = (
    'speech = "a.wav"\nloop = true\nto = ["vmc://127.0.0.1:39540"]\nduration = 1.5\n',
    'mic = true\nschedule = "one"\nemotion = { joy = 0.3 }\n[[to]]\nurl = "livelink://[::1]:11111?rate=60"\nrate = 60\n'
    'map = { JawOpen = "JawOpen*1.2" }\n',
    'speech = "-"\nrate = 16000\nchannels = 2\nbudget = 20\nset = ["emotion=joy:1"]\n[[to]]\nurl = "ws://127.0.0.1:0"\n'
    'token = "x"\n[[to]]\nurl = "vrchat://"\nprefix = "v2"\n[[to]]\nurl = "out.csv"\n',
)
KEYS = (
    "speech mic rate channels format loop to duration schedule late budget emotion style set device engine precision "
    "graphs threads gpu wait seed bundle rest quiet url smooth map queue names "
    "case bones role prefix combined eyes gaze "
    "origin public token clients stall subject"
).split()
VALUES = (
    "0 -1 1e400 nan inf 9223372036854775808 1e-320 true [] {} [[]] '' '\\u0000' 'vmc://[::1' 'vmc://[' 'ws://a:99999' "
    "'livelink://\\uffff' 'vmc://h:1?rate=1/0' 'vmc://h?rate=10/1e9' 'vrchat://?smooth=1e99s' 'view://x?y' 'x://' ':' "
    "'://[' '://' '//' '?' '#' 'vmc://:' 'ws://127.0.0.1:0?map=:' 'vmc://%00' 'vmc://a..b' '\\U0001F600' 1979-05-27 "
    "0xffffffffffffffffffffffff 'a.b.c' '.csv' '-' 'NUL' '1e9' '60000/1001' '29.97' \"''\" { joy = 1e400 } "
    "'\"' { url = 1 } { url = 'vmc://' } [1, 2] [{}]"
).split(" ")


@contextmanager
def inside(folder: str) -> Iterator[None]:
    """Be in a folder: names of files in a configuration are relative to it. (contextlib.chdir is for 3.11.)"""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def changed(random: Random) -> bytes:
    """Return a configuration with a few keys, values and bytes exchanged."""
    lines = SEEDS[int(random.integers(len(SEEDS)))].splitlines()
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(lines) + 1))
        key, value = KEYS[int(random.integers(len(KEYS)))], VALUES[int(random.integers(len(VALUES)))]
        kind = int(random.integers(5))
        if kind == 0 and place < len(lines):
            lines[place] = lines[place].partition("=")[0] + "= " + value.replace("'", '"')
        elif kind == 1 and place < len(lines):
            lines[place] = key + " =" + lines[place].partition("=")[2]
        elif kind == 2:
            lines.insert(place, f"{key} = {value.replace(chr(39), chr(34))}")
        elif kind == 3:
            lines.insert(place, f"{key} = " + "[" * int(random.integers(2000)) + "]" * int(random.integers(2000)))
        else:
            lines.insert(place, f"{key} = [{', '.join([value.replace(chr(39), chr(34))] * 3)}]")
    content = bytearray("\n".join(lines).encode())
    if random.random() < 0.3:
        for _ in range(int(random.integers(1, 4))):
            content[int(random.integers(len(content)))] = int(random.integers(256))
    return bytes(content)


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try changed configurations; return how many. Raises Wrong for anything but a UserError."""
    parser = whole_parser()

    def make(random: Random, _: int) -> tuple[str, Path]:
        Path("live.toml").write_bytes(changed(random))
        return "changed", Path("live.toml")

    def attempt(path: Path) -> None:
        args = parser.parse_args(["live", "--config", str(path)])
        for url, options in targets(args.settings.merge(args, args.config).to):
            sink_for(url, options)

    with tempfile.TemporaryDirectory() as folder, inside(folder):
        return tries(make, attempt, examples, seconds, seed)
