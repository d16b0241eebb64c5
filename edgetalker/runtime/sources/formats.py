"""Sound files that are not WAV: which ones they are, joined ones part by part, through libsndfile or ffmpeg."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, install
from edgetalker.engines.kinds import kind_of_open
from edgetalker.runtime.sources.file import BLOCK, UNKNOWN_SIZE, Reader, WavReader
from edgetalker.runtime.sources.source import stderr_hidden

__all__ = ["frame_bytes", "kind_of", "readers"]

LARGEST_PIPE = 1 << 30
"""Bytes of a pipe that are kept in a temporary file: a day of MP3, an hour and a half of stereo CD sound."""
UNKNOWN_FRAMES = 1 << 60
"""libsndfile's number of samples from here on stands for a length that is not known."""

_STARTS = (
    (rb"RIFF|RIFX|RF64|BW64", "WAV"),
    (rb"riff\x2e\x91\xcf\x11", "W64"),
    (rb"FORM....AIF[FC]", "AIFF"),
    (rb"\.snd|dns\.", "AU"),
    (rb"fLaC", "FLAC"),
    (rb"OggS", "Ogg"),
    (rb"caff", "CAF"),
    (rb"ID3", "MP3"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC"),
    (rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xfd][\x10-\xef]", "MP3"),
    (rb"....(?:ftyp|moov|moof|mdat|styp)", "MP4"),
    (rb"\x1aE\xdf\xa3", "WebM or Matroska"),
    (rb"0&\xb2u\x8ef\xcf\x11", "WMA"),
    (rb"#!AMR", "AMR"),
    (rb"wvpk", "WavPack"),
    (rb"MAC ", "Monkey's Audio"),
    (rb"Creative Voi", "VOC"),
    (rb"FLV\x01", "FLV"),
)


def kind_of(start: bytes) -> str | None:
    """Return which container a file's first bytes (12 are enough) begin, None for none that is known.

    The bytes are those of each format's own text: RFC 3533 (Ogg), RFC 9639 (FLAC), ISO/IEC 14496-12 (MP4), 11172-3
    (MPEG audio's sync word, with a layer, rate and bit rate that exist), and so on.
    """
    return next((kind for magic, kind in _STARTS if re.match(magic, start, re.DOTALL)), None)


_KBIT = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by (MPEG version, layer), ISO/IEC 11172-3 and 13818-3; version 2's layer 3 is as its layer 2."""


def frame_bytes(start: bytes) -> int:
    """Return how long the frame is that MPEG audio or ADTS AAC begins with; 0 for none.

    Raw sound may begin with a sync word too: only a second one at the end of the first frame tells it from a file.
    """
    if len(start) < 6 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return 0
    if start[1] & 0xF6 == 0xF0:  # ADTS (ISO/IEC 13818-7): no layer, 13 bits of length
        return (start[3] & 3) << 11 | start[4] << 3 | start[5] >> 5
    version, layer, bits, rate = start[1] >> 3 & 3, 4 - (start[1] >> 1 & 3), start[2] >> 4, start[2] >> 2 & 3
    if version == 1 or layer == 4 or bits == 15 or rate == 3:
        return 0
    kbit = _KBIT[(1, layer) if version == 3 else (2, min(layer, 2))][bits]
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    padding = start[2] >> 1 & 1
    if layer == 1:
        return 4 * (12_000 * kbit // hertz + padding)
    return (144_000 if version == 3 or layer == 2 else 72_000) * kbit // hertz + padding


def readers(file: IO[bytes], start: bytes, *, pipe: bool) -> Iterator[Reader]:
    """Yield the streams of a file that is no plain WAV, in order. start: its first bytes, read already.

    Raises InputError for one that is no sound.
    """
    kept = _spooled(start, file) if pipe else file
    try:
        kept.seek(0)
        kind = kind_of(kept.read(12))
        size = kept.seek(0, io.SEEK_END)
        starts = _starts(kept, kind, size)
        for begin, end in zip(starts, [*starts[1:], size], strict=True):
            promised = _promised_end(kept, kind, begin)
            window = _Window(kept, begin, end if kind == "MP3" else min(end, promised or end))
            if kind == "CAF" and (promised or 0) > end:
                at = next(at for name, at, _ in _caf_chunks(kept, begin + 8) if name == b"data") - begin
                window.mended = at + 4, (end - begin - at - 12).to_bytes(8, "big")
            reader = _open(kept, window, whole=len(starts) == 1, noisy=kind in ("MP3", "AAC", None))
            reader.notes += _leftovers(kept, kind, begin, end, promised)
            yield reader
    finally:
        if pipe:
            kept.close()


def _spooled(start: bytes, pipe: IO[bytes]) -> IO[bytes]:
    """Copy a pipe into a temporary file without a name, because decoders seek."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `readers`
    kept.write(start)
    while block := pipe.read(1 << 20):
        if kept.write(block) and kept.tell() > LARGEST_PIPE:
            kept.close()
            raise InputError(
                f"is a pipe of more than {LARGEST_PIPE >> 20} MiB; only WAV may be as long as it likes",
                hint="ffmpeg -i IN -f wav - gives WAV",
            )
    return kept


_OTHERS = {
    "an archive of arrays (.npz)": "edgetalker view shows the .npz that `animate` writes",
    "JSON text": "a program that reads JSON shows it; edgetalker view shows the .npz that `animate` writes",
    "text": "samples as text are no sound file; motion in a .csv is played by the program that it was made for",
    "a glTF model": "any 3D program shows it",
}


def _refuse_what_is_no_sound(file: IO[bytes]) -> None:
    """Say what a file is that somebody took for a sound, rather than what decoders say of it."""
    kind = kind_of_open(file)
    if kind and not kind.endswith("sound"):
        raise InputError(f"is {kind}; a sound file was wanted", hint=_OTHERS.get(kind))


def _open(file: IO[bytes], window: _Window, *, whole: bool, noisy: bool) -> Reader:
    """Open one stream with libsndfile; what that does not know (or is missing for), with ffmpeg where it is."""
    reason, hint = "a package that reads it is not installed", install("audio")
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, the library libsndfile is not
        pass
    else:
        try:
            return _SoundFileReader(window, soundfile, noisy=noisy)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            reason = re.sub(r"^Error opening .*?>: ", "", str(error))
            hint = "ffmpeg -i IN -ar 16000 OUT.wav makes a file that plays; with ffmpeg installed it is read directly"
    _refuse_what_is_no_sound(file)
    if whole and (ffmpeg := shutil.which("ffmpeg")):
        return _FfmpegReader(ffmpeg, file, reason)
    raise InputError(f"cannot be read as sound: {reason}", hint=hint)


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0
        self.mended: tuple[int, bytes] = 0, b""
        """Where, and what is read there instead: libsndfile refuses a CAF file whose size goes beyond its end."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def left(self) -> int:
        """Return the bytes that were not read."""
        return self._size - self._at

    def readinto(self, into: Any) -> int:
        data = _bytes(self._file, self._start + self._at, max(0, min(len(into), self._size - self._at)))
        into[: len(data)] = data
        for at, byte in enumerate(self.mended[1], self.mended[0] - self._at):
            if 0 <= at < len(data):
                into[at : at + 1] = bytes([byte])
        self._at += len(data)
        return len(data)


class _SoundFileReader:
    """Anything that libsndfile reads, from its beginning to its end."""

    def __init__(self, window: _Window, soundfile: Any, *, noisy: bool) -> None:
        """noisy: the decoder tells stderr what it thinks of damage; `notes` tell the user."""

        class Sequential(soundfile.SoundFile):  # type: ignore[misc]
            """soundfile seeks after every block it reads, which damages MP3 and FLAC of unknown length: let it not."""

            def seekable(self) -> bool:
                return False

        self._quietly = stderr_hidden if noisy else nullcontext
        with self._quietly():
            self._file, self._window = Sequential(window), window
        self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.frames = int(self._file.frames) if 0 < self._file.frames < UNKNOWN_FRAMES else None
        self.notes: list[str] = []
        self._read = 0

    def read(self) -> NDArray[Any]:
        # Not beyond what is promised: FLAC decoders take what follows a stream for damage, and drop its last block.
        want = BLOCK if self.frames is None else min(BLOCK, self.frames - self._read)
        with self._quietly():
            block: NDArray[Any] = self._file.read(want, dtype="float32", always_2d=True)
        self._read += len(block)
        if not len(block) and self.frames is not None and self._read < self.frames:
            self.notes.append(f"breaks off after {self._read} of {self.frames} samples")
        elif not want and self._file.format == "FLAC" and (left := self._window.left()) > 4096:
            self.notes.append(f"{left} bytes after its end were left")
        return block

    def close(self) -> None:
        self._file.close()


_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tak,tta,w64,wv"


class _FfmpegReader:
    """What ffmpeg decodes, as WAV through a pipe. It opens this file and no other: no playlist, no address."""

    def __init__(self, ffmpeg: str, file: IO[bytes], reason: str) -> None:
        """`reason`: why libsndfile cannot read it."""
        self._error = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        file.seek(0)
        name = f"/dev/fd/{file.fileno()}" if os.name == "posix" else Path(file.name).resolve()
        guard = ["-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS]
        output = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        self._process = subprocess.Popen(
            [ffmpeg, "-nostdin", "-v", "error", *guard, "-i", f"file:{name}", *output],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._error,
            pass_fds=[file.fileno()] if os.name == "posix" else [],
        )
        assert self._process.stdout is not None, "it was asked for"
        try:
            self._wav = WavReader(self._process.stdout, self._process.stdout.read(12), pipe=True)
        except InputError:
            said = self._said()
            self.close()
            raise InputError(f"cannot be read as sound: {reason} ffmpeg: {said}") from None
        self.rate, self.channels, self.notes = self._wav.rate, self._wav.channels, self._wav.notes
        self.frames: int | None = None

    def read(self) -> NDArray[Any]:
        block = self._wav.read()
        if not len(block) and (code := self._process.wait()):
            self.notes.append(f"ffmpeg ended with {code}: {self._said()}")
        return block

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._error.close()

    def _said(self) -> str:
        self._process.wait()
        self._error.seek(0)
        lines = self._error.read(1 << 16).decode(errors="replace").strip().splitlines()
        return re.sub(r"^\[[^]]*\] |(file:)?/dev/fd/\d+: ", "", lines[0]) if lines else "no sound in it"


# --- joined files, and files whose size is not what they say


_INFO_FRAME = re.compile(rb"\xff[\xe2-\xff][\x10-\xef].(?:.{32}|.{17}|.{9})(?:Xing|Info)(?=....)", re.DOTALL)
"""What LAME, ffmpeg and others write before a file's first frame: a frame without sound that tells its size."""


_JOINABLE = ("WAV", "W64", "AIFF", "AU", "CAF")


def _starts(file: IO[bytes], kind: str | None, size: int) -> list[int]:
    """Return where the streams of a file begin: files that were joined play one after the other."""
    if kind == "Ogg":
        return [start for start, _ in _ogg_pages(file, first_only=True)] or [0]
    if kind == "FLAC":  # a stream's mark, and the first metadata block, which is 34 bytes long
        return [0, *_found(file, re.compile(rb"fLaC\x00\x00\x00\x22"))[1:]]
    if kind == "MP3":
        head = _bytes(file, 0, 10)  # the first frame comes after an ID3 tag, whose size has 7 bits a byte
        tag = sum(byte << 7 * (3 - place) for place, byte in enumerate(head[6:])) + 10 if head[:3] == b"ID3" else 0
        return [0, *(start for start in _found(file, _INFO_FRAME) if start > tag + 4096)]
    starts, end = [0], _promised_end(file, kind, 0)
    while kind in _JOINABLE and end is not None and end < size and kind_of(_bytes(file, end, 12)) == kind:
        starts.append(end)
        promised = _promised_end(file, kind, end)
        end = promised if promised is not None and promised > end else None
    return starts


def _found(file: IO[bytes], pattern: re.Pattern[bytes]) -> list[int]:
    """Return where a pattern of at most 64 bytes begins in a file."""
    starts: list[int] = []
    at, overlap = 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        text = overlap + block
        places = [at - len(overlap) + match.start() for match in pattern.finditer(text)]
        starts += [place for place in places if not starts or place > starts[-1]]
        at, overlap = at + len(block), text[-64:]
    return starts


def _ogg_pages(file: IO[bytes], *, first_only: bool = False, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (offset, flags) of the pages (RFC 3533, 6); first_only: those that begin a link of a chain."""
    at, began = start, False
    while len(head := _bytes(file, at, 27)) == 27 and head[:4] == b"OggS":
        begins = bool(head[5] & 2)
        if not first_only or (begins and not began):
            yield at, head[5]
        began = begins
        at += _page_size(file, at)


def _page_size(file: IO[bytes], at: int) -> int:
    segments = _bytes(file, at + 26, 1)[0]
    return 27 + segments + sum(_bytes(file, at + 27, segments))


def _leftovers(file: IO[bytes], kind: str | None, start: int, end: int, promised: int | None) -> list[str]:
    """Return what a stream lacks at its end, or has after it, as far as its container can say. promised: its end."""
    if kind == "Ogg":
        flags, stop = 0, start
        for at, found in _ogg_pages(file, start=start):
            if at >= end:
                break
            flags, stop = found, at + _page_size(file, at)
        if stop > end or not flags & 4:
            return ["breaks off: its last page is missing"]
        return [f"{end - stop} bytes after its end were left"] if stop < end else []
    if promised is None:
        return []
    if promised > end:
        return [f"breaks off {promised - end} bytes before its end"]
    rest = _bytes(file, promised, min(4096, end - promised)).lstrip(b"\0")  # zeros only pad, and tags are no sound
    tags = rest.startswith((b"ID3", b"TAG", b"APE", b"LYRICS", b"LIST", b"id3 ", b"bext", b"cue ", b"JUNK"))
    return [f"{end - promised} bytes after its end were left"] if len(rest) > 1 and not tags else []


def _promised_end(file: IO[bytes], kind: str | None, start: int) -> int | None:
    """Return where a container that begins at `start` ends by its own header, None where it does not say."""
    head = _bytes(file, start, 24)
    if kind == "WAV" and head[:4] == b"RIFF" and len(head) >= 8:  # compressed, or WavReader would have it
        size = int.from_bytes(head[4:8], "little")
        return start + 8 + size + size % 2 if 0 < size < UNKNOWN_SIZE else None
    if kind == "AIFF" and len(head) >= 8:
        size = int.from_bytes(head[4:8], "big")
        return start + 8 + size + size % 2
    if kind == "AU" and len(head) >= 12:
        order: Any = "big" if head[:4] == b".snd" else "little"
        size = int.from_bytes(head[8:12], order)
        return None if size == 0xFFFF_FFFF else start + int.from_bytes(head[4:8], order) + size
    if kind == "W64" and len(head) >= 24:
        size = int.from_bytes(head[16:24], "little")
        return start + size + -size % 8
    if kind == "CAF":
        return _caf_end(file, start + 8)
    if kind == "MP3":
        return _mp3_end(file, start)
    if kind == "MP4":
        return _mp4_end(file, start)
    return None


def _caf_chunks(file: IO[bytes], at: int) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield (name, offset, end) of the chunks; end is None for one that reaches as far as the file."""
    while len(head := _bytes(file, at, 12)) == 12 and re.fullmatch(rb"(?!caff)[\x20-\x7e]{4}", head[:4]):
        size = int.from_bytes(head[4:], "big", signed=True)
        yield head[:4], at, None if size < 0 else at + 12 + size
        if size < 0:
            return
        at += 12 + size


def _caf_end(file: IO[bytes], at: int) -> int | None:
    """CAF has no size of its own: it ends after its `data` chunk, or the chunks that follow."""
    chunks = list(_caf_chunks(file, at))
    return chunks[-1][2] if any(name == b"data" for name, _, _ in chunks) else None


def _mp4_end(file: IO[bytes], at: int) -> int | None:
    """Boxes follow each other (ISO/IEC 14496-12, 4.2); a second `ftyp` begins another file, which is not played."""
    begun = False
    while len(head := _bytes(file, at, 16)) >= 8 and re.fullmatch(rb"[\x20-\x7e]{4}", head[4:8]):
        size = int.from_bytes(head[:4], "big")
        if (head[4:8] == b"ftyp" and begun) or size == 0:
            return at if size else None
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        begun, at = True, at + max(size, 8)
    return at


def _mp3_end(file: IO[bytes], start: int) -> int | None:
    """Return where the stream ends by the size in its `Xing` or `Info` frame, which counts from that frame."""
    text = _bytes(file, start, 1 << 16)
    match = _INFO_FRAME.search(text)
    if match is None or not text[match.end() + 3] & 2:  # the size is not among what it tells
        return None
    at = match.end() + (8 if text[match.end() + 3] & 1 else 4)
    return start + match.start() + int.from_bytes(text[at : at + 4], "big")


def _bytes(file: IO[bytes], at: int, count: int) -> bytes:
    try:
        file.seek(at)
    except (OSError, OverflowError, ValueError):  # a header may say anything: beyond what a file can be
        return b""
    return file.read(count)
