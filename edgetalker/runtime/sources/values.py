"""Where values of a bundle's inputs and controls come from: a CSV or npz file beside the sound, or OSC over UDP.

gaze=gaze.csv            columns `time` (seconds of sound) and the values, by their names or in order
gaze=take.npz            arrays `time` (n,) and `gaze` or `values` (n, places); a recording has `input.gaze`
gaze=udp-osc://:9015     each message with as many floats as the input has places is a value; one float whose
                         address ends in a place's name changes that place. udp-osc://0.0.0.0:9015/eyes hears other
                         machines, and messages to /eyes and below alone
emotion=tags.csv         rows time,tag,intensity: tags of one time are a blend, which holds until the next time. Or
                         columns `time` and some of the control's places; the others stay as they were set
"""

from __future__ import annotations

import csv
import io
import logging
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import fits, read_arrays
from edgetalker.engines.errors import DeviceError, InputError, OptionError, nearest
from edgetalker.engines.files import read_text
from edgetalker.engines.lazy import required
from edgetalker.runtime.clock import Clock
from edgetalker.runtime.inputs import PRESENCE, Control, Track

__all__ = ["SYNONYMS", "FileValues", "InputSource", "OscValues", "input_source"]

Value = tuple["float | None", int, NDArray[np.float32]]
"""Seconds of sound (None: when it came), when it came on the run's clock in ns, the places' values."""

Table = tuple[NDArray[Any], NDArray[Any]]
"""Times (n,) and values (n, places) of a file."""

SYNONYMS = {"happy": "joy", "happiness": "joy", "sad": "sadness", "angry": "anger", "surprised": "surprise"}
"""Other words for places of the control `emotion`."""
_NEUTRAL = ("neutral", "")
_BUNDLE_HEAD, _DEEPEST = 16, 8
"""Bytes of a bundle's name and time tag; bundles within bundles that are read."""
AHEAD = 2.0
"""Seconds of values that a file gives before their time: the value after a frame's is wanted too."""


class InputSource(Protocol):
    """Where values of one input or control come from. Called from the loop's thread, before every frame."""

    name: str

    def take(self, time: float) -> Iterable[Value]:
        """Return what came since the last call; `time` is the next frame's in seconds of sound."""
        ...

    def warnings(self) -> list[str]:
        """What was wrong with what came, a sentence each."""
        return []

    def close(self) -> None: ...


def input_source(text: str, fed: Mapping[str, Track | Control], clock: Clock) -> InputSource:
    """Return the source that `NAME=SOURCE` names, of a talker's `fed`. Raises UserError subclasses for what does not
    exist or fit."""
    name, _, where = text.partition("=")
    if name not in fed:
        known = f"the bundle's inputs are {', '.join(fed)}" if fed else "the bundle has no inputs"
        raise OptionError(f"--input {text}: {known}{nearest(name, fed)}")
    if not where:
        raise OptionError(f"--input {text}: no file and no udp-osc:// came", hint=f"--input {name}=values.csv")
    into, tensor = fed[name], fed[name].tensor
    names = tensor.names or tuple(str(place) for place in range(tensor.spec.shape[-1]))
    control = into if isinstance(into, Control) else None
    if "://" in where:
        return OscValues(name, where, names, into.told.reshape(-1), clock, control)
    return FileValues(name, Path(where), names, control)


class FileValues(InputSource):
    """The values of a file, in the order of their times."""

    def __init__(self, name: str, path: Path, places: Sequence[str], control: Control | None = None) -> None:
        """Read the whole file. control: whose values they are, if a control's. Raises InputError that says what was
        found and what was wanted."""
        self.name = name
        self._path, self._places, self._control = path, places, control
        try:
            times, values = self._npz() if path.suffix == ".npz" else self._csv()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if self._places[-1] == PRESENCE and values.shape == (len(times), len(self._places) - 1):
            values = np.column_stack([values, np.ones(len(times))])  # who is there in every row need not say so
        wrong = values.shape != (len(times), len(places)) or not fits(values)
        if wrong or not fits(times) or not len(times):
            raise InputError(
                f"{path}: {len(times)} times and values of shape {list(values.shape)}; finite times (n,) and values "
                f"(n, {len(places)}) were wanted"
            )
        order = np.argsort(times, kind="stable")
        self._times, self._values, self._given = times[order], values[order].astype(np.float32), 0
        self._until = 0.0
        if control is not None:
            self._check(control)

    def _check(self, control: Control) -> None:
        for time, row in zip(self._times, self._values, strict=True):
            try:
                control.check(row)
            except OptionError as error:
                raise InputError(f"{self._path}: at {time:g} s: {error}") from None

    def _npz(self) -> Table:
        keys = (f"input.{self.name}", self.name, "values")
        stored = read_arrays(self._path, ("time", *keys))
        key = next((key for key in keys if key in stored), None) if isinstance(stored, dict) else None
        if key is None or not isinstance(stored, dict) or "time" not in stored:
            raise InputError(f"{self._path} has no `time`, or neither of `{self.name}` and `values`")
        return stored["time"].reshape(-1), stored[key]

    def _csv(self) -> Table:
        try:
            head, *rows = [row for row in csv.reader(io.StringIO(read_text(self._path, 1 << 28))) if row] or [[]]
            head = [column.strip() for column in head]
            if twice := sorted({column for column in head if head.count(column) > 1}):
                raise InputError(f"{self._path} has a column twice: {', '.join(twice)}")
            if self._control is not None and "time" in head and not all(place in head for place in self._places):
                return (self._tags if "tag" in head else self._some)(self._control, head, rows)
            told = [place for place in self._places if place != PRESENCE or place in head]
            by_name = all(place in head for place in told)
            columns = [head.index(place) for place in told] if by_name else list(range(1, len(head)))
            if "time" not in head or (not by_name and len(columns) not in (len(self._places), len(told))):
                wanted = ", ".join(["time", *self._places])
                raise InputError(f"{self._path} has columns {', '.join(head)}; {wanted} were wanted")
            table = self._numbers(rows, [head.index("time"), *columns])
            return table[:, 0], table[:, 1:]
        except (ValueError, csv.Error) as error:
            raise InputError(f"{self._path} is no table of numbers: {error}") from None

    def _numbers(self, rows: list[list[str]], columns: Sequence[int]) -> NDArray[np.float64]:
        """Return these columns of a table, (n, columns). Raises InputError that names the first row that is none."""
        table = np.zeros((len(rows), len(columns)))
        for place, row in enumerate(rows):
            try:
                table[place] = [float(row[column]) for column in columns]
                wrong = not fits(table[place])
            except (ValueError, IndexError):
                wrong = True
            if wrong:
                raise InputError(
                    f"{self._path}: row {place + 2} is `{','.join(row)}`; {len(columns)} finite numbers were wanted"
                )
        return table

    def _tags(self, control: Control, head: list[str], rows: list[list[str]]) -> Table:
        """Return the times and blends of a voice agent's tags; a new time's tags take the place of those before."""
        blends: dict[float, NDArray[np.float64]] = {}
        for number, row in enumerate(rows, 2):
            told = dict(zip(head, (cell.strip() for cell in row), strict=False))
            if not {"time", "tag"} <= told.keys():
                raise InputError(f"{self._path}: row {number} is `{','.join(row)}`; {', '.join(head)} were wanted")
            blend = blends.setdefault(float(told["time"]), np.array(control.tensor.default, np.float64))
            if told["tag"].lower() not in _NEUTRAL:
                blend[self._place(told["tag"])] = float(told.get("intensity") or 1.0)
        return np.array(list(blends)), np.array(list(blends.values()))

    def _some(self, control: Control, head: list[str], rows: list[list[str]]) -> Table:
        """Return the times and values of a table of some places, or of all of them in order."""
        at, columns = head.index("time"), [place for place in range(len(head)) if head[place] != "time"]
        by_order = len(columns) == len(self._places) and not set(head) & set(self._places)
        places = list(range(len(columns))) if by_order else [self._place(head[column]) for column in columns]
        values = np.tile(control.told.astype(np.float64), (len(rows), 1))
        table = self._numbers(rows, [at, *columns])
        values[:, places] = table[:, 1:]
        return table[:, 0], values

    def _place(self, name: str) -> int:
        known = name if name in self._places else SYNONYMS.get(name.lower(), name.lower())
        if known not in self._places:
            names = ", ".join(self._places)
            raise InputError(
                f"{self._path}: `{self.name}` has no `{name}`; it has {names}{nearest(known, self._places)}"
            )
        return self._places.index(known)

    def take(self, time: float) -> Iterator[Value]:
        """Return the values up to `AHEAD` seconds after `time` that were not given yet."""
        if time < self._until:
            self._given = 0  # the talker began anew, and the sound with it
        self._until = time
        end = int(np.searchsorted(self._times, time + AHEAD, side="right"))
        for row in range(self._given, end):
            yield float(self._times[row]), 0, self._values[row]
        self._given = max(end, self._given)

    def warnings(self) -> list[str]:
        """What of the file was not reached: times in another unit are seen by that."""
        late = self._times[self._times > self._until]
        if not late.size:
            return []
        return [
            f"input `{self.name}`: {late.size} of {self._times.size} rows of {self._path} were not reached: frames "
            f"ended at {self._until:.1f} s of sound, the next row is at {late[0]:g} s"
        ]

    def close(self) -> None:
        pass


class OscValues(InputSource):
    """OSC messages to one UDP port. A value's time is that of its arrival."""

    def __init__(
        self,
        name: str,
        url: str,
        places: Sequence[str],
        default: NDArray[np.float32],
        clock: Clock,
        control: Control | None = None,
    ) -> None:
        """Bind the port. control: whose values they are, if a control's.

        Raises OptionError for a URL that is none, DeviceError when the port is taken.
        """
        self.name, self._clock, self._control = name, clock, control
        self._places, self._now = {place: k for k, place in enumerate(places)}, default.copy()
        self._packet = required("pythonosc.osc_packet", "values over OSC", extra="net", package="python-osc").OscPacket
        logging.getLogger().addFilter(_not_the_parsers)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "127.0.0.1", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        if parts.scheme != "udp-osc" or not port or parts.query:
            raise OptionError(f"--input {name}={url}: udp-osc://[host]:port[/address] was wanted")
        self._below = parts.path.rstrip("/")
        self.refused = 0
        try:
            self._port = _Port.join(name, host, port)
        except OSError as error:
            raise DeviceError(f"--input {name}={url}: the port cannot be opened: {error.strerror}") from None
        self.address = self._port.socket.getsockname()

    def take(self, time: float) -> Iterator[Value]:
        """Return a value for every message since the last call that has one."""
        self._port.read()
        waiting = self._port.waiting[self.name]
        while waiting:
            yield from self._values(waiting.popleft())

    def _values(self, data: bytes) -> Iterator[Value]:
        try:
            _check_sizes(data)
            messages = [timed.message for timed in self._packet(data).messages]
        except Exception:  # whatever bytes from outside make of the parser
            self.refused += 1
            return
        for message in messages:
            numbers = [value for value in message.params if isinstance(value, (int, float))]
            if not (message.address == self._below or message.address.startswith(self._below + "/")):
                continue
            place = self._places.get(message.address.rpartition("/")[2])
            if not numbers or not fits(np.array(numbers, np.float64)):  # a double may be too large for the input
                self.refused += 1
            elif len(numbers) == len(self._now):
                yield from self._told(np.array(numbers, np.float32))
            elif len(numbers) == 1 and place is not None:
                row = self._now.copy()
                row[place] = numbers[0]
                yield from self._told(row)
            elif len(self._port.waiting) == 1:  # where several inputs hear a port, it is another's
                self.refused += 1

    def _told(self, row: NDArray[np.float32]) -> Iterator[Value]:
        try:
            if self._control is not None:
                self._control.check(row)
        except OptionError:  # out of the control's range
            self.refused += 1
            return
        self._now = row
        yield None, self._clock.now_ns(), row

    def warnings(self) -> list[str]:
        """How many messages were of no use."""
        if not self.refused:
            return []
        wanted = f"{len(self._now)} numbers" + (" in its range" if self._control is not None else "")
        return [f"input `{self.name}`: {self.refused} OSC messages had another form than {wanted}"]

    def close(self) -> None:
        self._port.leave(self.name)


def _check_sizes(data: bytes, depth: int = 0) -> None:
    """Raise ValueError for a bundle (OSC 1.0) whose elements have no size that fits: python-osc reads one below 0 for
    ever, and a bundle in a bundle as deep as a packet is long."""
    if not data.startswith(b"#bundle\0"):
        return
    at = _BUNDLE_HEAD
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        at += 4
        if depth == _DEEPEST or not 0 < size <= len(data) - at:
            raise ValueError("no bundle of OSC")
        _check_sizes(data[at : at + size], depth + 1)
        at += size


def _not_the_parsers(record: logging.LogRecord) -> bool:
    """Leave out what python-osc logs of packets, on the root logger: anybody could fill a disk with it."""
    return Path(record.pathname).parent.name != "pythonosc"


class _Port:
    """One UDP port, heard by as many inputs as name it: a tracker sends gaze and lids to the same."""

    opened: ClassVar[dict[tuple[str, int], _Port]] = {}

    def __init__(self, place: tuple[str, int]) -> None:
        self.place, self.waiting = place, dict[str, deque[bytes]]()
        self.socket = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.bind(place)
        except OSError:
            self.socket.close()
            raise

    @classmethod
    def join(cls, name: str, host: str, port: int) -> _Port:
        """Return the port, opened or shared. Raises OSError when it is taken, by an input of the same name too."""
        shared = cls.opened.get((host, port))
        found = cls((host, port)) if shared is None or name in shared.waiting else shared
        found.waiting[name] = deque(maxlen=4096)
        cls.opened[found.place] = found
        return found

    def read(self) -> None:
        """Hand what came to every input."""
        for _ in range(1024):  # more than any tracker sends between two frames: a flood must not hold the loop
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # an ICMP answer to somebody else's packet
                continue
            for waiting in self.waiting.values():
                waiting.append(data)

    def leave(self, name: str) -> None:
        """Let go of the port, and close it after the last one."""
        self.waiting.pop(name, None)
        if not self.waiting:
            self.socket.close()
            self.opened.pop(self.place, None)
