"""Changed sound files: whatever came of them plays, or is an InputError, soon and in little memory."""

from __future__ import annotations

import io
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.file import FileSource
from tests.fuzz.trying import HANG_SECONDS, MOST_MEMORY, Wrong, hang, peak_bytes

RATE = 16000
NUMBERS = (
    0,
    1,
    2,
    127,
    255,
    1 << 15,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    1 << 40,
    (1 << 63) - 1,
)
KINDS = (
    *(("WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16")),
    *(
        ("AIFF", "PCM_16"),
        ("AIFF", "FLOAT"),
        ("AU", "PCM_16"),
        ("AU", "G721_32"),
        ("VOC", "PCM_16"),
        ("NIST", "PCM_16"),
    ),
    *(("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
)


@lru_cache(maxsize=64)
def sound_file(form: str, subtype: str, channels: int) -> bytes:
    """Return half a second of a noisy tone as a file of this format."""
    time_axis = np.arange(RATE // 2) / RATE
    tone = 0.4 * np.sin(2 * np.pi * 220 * time_axis) + np.random.default_rng(0).normal(0, 0.02, len(time_axis))
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone] * channels, axis=1), RATE, format=form, subtype=subtype)
    return file.getvalue()


def files() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda kind, channels: sound_file(*kind, 1 if kind[1] in ("GSM610", "G721_32") else channels),
        st.sampled_from(KINDS),
        st.sampled_from([1, 2]),
    )


class Changed(bytes):
    """A file whose content nobody wants to see in a terminal."""

    def __repr__(self) -> str:
        return f"a file of {len(self)} bytes that begins with {self[:48]!r}"


@st.composite
def changed_files(draw: st.DrawFn) -> Changed:
    """A file of a known format with one to four changes, most of them in the first 200 bytes, its structure."""
    content = draw(files())
    for _ in range(draw(st.integers(1, 4))):
        change: Callable[[st.DrawFn, bytes], bytes] = draw(
            st.sampled_from([numbers, numbers, flip, flip, cut, splice, join])
        )
        content = change(draw, content)
    return Changed(content)


def place(draw: st.DrawFn, content: bytes) -> int:
    end = len(content)
    return draw(st.one_of(st.integers(0, min(200, end)), st.integers(0, min(200, end)), st.integers(0, end)))


def numbers(draw: st.DrawFn, content: bytes) -> bytes:
    """A size, rate, count or offset becomes another, small or huge."""
    at, width, order = place(draw, content), draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from(["little", "big"]))
    number = draw(st.sampled_from(NUMBERS)) & ((1 << 8 * width) - 1)
    return content[:at] + number.to_bytes(width, "big" if order == "big" else "little") + content[at + width :]


def flip(draw: st.DrawFn, content: bytes) -> bytes:
    at = place(draw, content)
    return content[:at] + draw(st.binary(min_size=1, max_size=3)) + content[at + 1 :]


def cut(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: place(draw, content)]


def splice(draw: st.DrawFn, content: bytes) -> bytes:
    start, at = place(draw, content), place(draw, content)
    return content[:at] + content[start : start + draw(st.integers(1, 512))] + content[at:]


def join(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: 1 << 18] + draw(st.one_of(st.just(content), files(), st.binary(max_size=100)))[: 1 << 18]


CHANGES: tuple[Callable[[st.DrawFn, bytes], bytes], ...] = (numbers, numbers, flip, flip, cut, splice, join)


def play(path: Path) -> None:
    """Play a file to its end. Raises Wrong for sound that no receiver may be given."""
    try:
        source = FileSource(path, RATE)
    except InputError:
        return
    with closing(source):
        while not source.ended:
            heard = source.read(1 << 16)
            if heard.dtype != np.float32 or not np.isfinite(heard).all() or np.abs(heard).max(initial=0) > 1:
                raise Wrong(f"{heard.dtype}, {heard.min()} to {heard.max()}")
        source.warnings()


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Play changed files until so many were, or so long; returns how many. The same seed changes them alike.

    Raises whatever came out but an InputError, Wrong for more than 1 GiB or sound that is none. The smallest file
    that shows it is left in the temporary folder.
    """
    before, started, count = peak_bytes(), time.monotonic(), 0
    left = Path(tempfile.gettempdir()) / f"fuzz-sound-{seed}"

    def one(content: bytes) -> None:
        nonlocal count
        count += 1
        left.write_bytes(content)
        signal.alarm(HANG_SECONDS)
        play(left)
        signal.alarm(0)
        if peak_bytes() - before > MOST_MEMORY:
            raise Wrong(f"took {peak_bytes() - before} bytes more")

    previous = signal.signal(signal.SIGALRM, hang)
    try:
        while (examples is None or count < examples) and (seconds is None or time.monotonic() - started < seconds):
            batch = 100 if examples is None else min(100, examples - count)
            options = settings(
                max_examples=batch,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            seeded(seed + count)(options(given(changed_files())(one)))()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    left.unlink(missing_ok=True)
    return count
