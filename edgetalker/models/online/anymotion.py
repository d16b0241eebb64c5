"""Motion of any talker as files: Live Link Face and other CSV with ARKit names, our own npz and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_regular, text_of
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.visemes import FPS

__all__ = ["AnyMotion", "read_motion"]

_KNOWN = {name.lower(): index for index, name in enumerate(MOTION_NAMES)}
_SIDES = {"_l": "left", "_r": "right"}
_MOST_BYTES = 1 << 30  # of text: a day at 30 frames a second has less
_LONGEST = 86_400.0
_RATES = (24, 25, 30, 48, 50, 60, 90, 100, 120)


@dataclass(frozen=True)
class AnyMotion:
    """motion: (T, 55) ARKit shapes and head angles at 30 frames a second, from the sound's begin. absent: shapes of the
    mouth and jaw that the file lacks (they are 0). rate: its own frames a second. frames: how many it has."""

    motion: NDArray[np.float32]
    absent: tuple[str, ...]
    rate: float
    frames: int


def read_motion(path: Path, rate: float | None = None, start: float = 0.0) -> AnyMotion:
    """Read a file by its ending. rate: frames a second, where the file does not say; start: second of its first frame.

    Names are taken as ARKit's in any case, with `_L` and `_R` or with a prefix (`blendShapes.JawOpen`). Raises
    InputError for a file that cannot be read or has no `JawOpen`.
    """
    try:
        names, values, times = _READERS.get(path.suffix.lower(), _unknown)(path, rate)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is no motion that can be read: {error}", hint=_WANTED) from None
    places = [(column, place) for column, name in enumerate(names) if (place := _place(name)) is not None]
    if not any(MOTION_NAMES[place] == "JawOpen" for _, place in places):
        raise InputError(f"{path} has no JawOpen; its names are {', '.join(names[:6]) or 'none'}, …", hint=_WANTED)
    fits = values.ndim == 2 and values.shape == (times.size, len(names)) and times.size >= 2
    if not fits or not np.isfinite(values).all() or not (np.diff(times) >= 0).all() or times[-1] <= times[0]:
        raise InputError(
            f"{path}: {times.size} times and values of shape {list(values.shape)}; at least two finite frames with "
            f"growing times and {len(names)} values each were wanted"
        )
    if times[-1] - times[0] + abs(start) > _LONGEST:
        raise InputError(f"{path}: {times[-1] - times[0]:g} s of motion, from {start:g} s on; a day at most was wanted")
    times = times - times[0] + start
    grid = np.arange(max(int(round(times[-1] * FPS, 3)) + 1, 0)) / FPS
    motion = np.zeros((grid.size, len(MOTION_NAMES)), np.float32)
    for column, place in places:
        motion[:, place] = np.interp(grid, times, values[:, column])
    found = {place for _, place in places}
    absent = [n for i, n in enumerate(MOTION_NAMES) if i not in found and n.startswith(("Jaw", "Mouth"))]
    return AnyMotion(motion, tuple(absent), float((times.size - 1) / (times[-1] - times[0])), int(times.size))


_WANTED = "a CSV with ARKit names (Live Link Face's, say), or an .npz or .jsonl of edgetalker"
_Read = tuple[list[str], NDArray[np.float64], NDArray[np.float64]]


def _place(name: str) -> int | None:
    plain = name.strip().rpartition(".")[2].lower()
    plain = plain[:-2] + _SIDES[plain[-2:]] if plain[-2:] in _SIDES else plain
    return _KNOWN.get(plain)


def _unknown(path: Path, rate: float | None) -> _Read:
    raise InputError(f"{path}: motion ends in .csv, .npz or .jsonl", hint=_WANTED)


def _text(path: Path) -> str:
    return text_of(read_regular(path, _MOST_BYTES))


def _csv(path: Path, rate: float | None) -> _Read:
    rows = [row for row in csv.reader(io.StringIO(_text(path))) if row]
    head, rows = rows[0] if rows else [], rows[1:]
    kept = [place for place, name in enumerate(head) if _place(name) is not None]
    if not kept:
        raise ValueError(f"no column has an ARKit name; it begins with `{','.join(head)[:60]}`")
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < len(head)), 0):
        raise ValueError(f"row {short} has {len(rows[short - 1])} of {len(head)} columns; the file may be cut off")
    values = np.array([[float(row[place]) for place in kept] for row in rows], np.float64)
    clock = next((place for place, name in enumerate(head) if name.strip().lower() in ("timecode", "time")), None)
    told = [row[clock].strip() for row in rows] if clock is not None else []
    return [head[place] for place in kept], values, _times(told, len(rows), rate)


def _times(told: list[str], count: int, rate: float | None) -> NDArray[np.float64]:
    """Seconds of each frame, from time codes, seconds, or the rate alone."""
    if rate is not None:
        return np.arange(count) / rate
    if not told:
        raise ValueError("it has no column of times; give --fps")
    if ":" not in told[0]:
        return np.array([float(text) for text in told])
    parts = [re.split("[:;]", text) for text in told]
    frame = np.array([float(part[3]) for part in parts])
    seconds = np.array([int(part[0]) * 3600 + int(part[1]) * 60 + int(part[2]) for part in parts], np.float64)
    nominal = next((known for known in _RATES if known > frame.max()), 0)
    if not nominal or np.ptp(seconds) < 2:  # a whole second shows how many frames it has
        raise ValueError("its time codes do not tell the frames in a second; give --fps")
    times = seconds + frame / nominal
    return times + 86400.0 * np.cumsum(np.diff(times, prepend=times[0]) < -43200.0)  # midnight


def _npz(path: Path, rate: float | None) -> _Read:
    stored = read_arrays(path, ("names", "motion", "time", "fps"))
    if not isinstance(stored, dict):
        raise ValueError("one array; `names`, `motion` and `fps` were wanted")
    names, values = [str(name) for name in stored["names"]], np.asarray(stored["motion"], np.float64)
    return names, values, _kept_times(stored.get("time"), stored["fps"], values, rate)


def _jsonl(path: Path, rate: float | None) -> _Read:
    lines = [json.loads(line) for line in _text(path).split("\n") if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    head, *frames = lines
    values = np.array([frame["motion"] for frame in frames], np.float64)
    times = np.array([frame["time"] for frame in frames], np.float64)
    return [str(name) for name in head["names"]], values, _kept_times(times, head["fps"], values, rate)


def _kept_times(times: Any, fps: Any, values: NDArray[np.float64], rate: float | None) -> NDArray[np.float64]:
    if rate is not None or times is None:
        return np.arange(len(values)) / (rate or float(fps[0]) / float(fps[1]))
    return np.asarray(times, np.float64)


_READERS = {".csv": _csv, ".npz": _npz, ".jsonl": _jsonl}
