"""Tells by its first bytes what a file is, for messages about files that were given by mistake."""

from __future__ import annotations

import codecs
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgetalker.engines.files import open_regular

__all__ = ["kind_of", "kind_of_file", "kind_of_open"]

HEAD = 1024
"""Bytes of a file's beginning that are enough to tell."""

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
    (b"fLaC", "a FLAC sound"),
    (b"OggS", "an Ogg sound"),
    (b"ID3", "an MP3 sound"),
    (b"\xff\xfb", "an MP3 sound"),
    (b"\x93NUMPY", "an array file (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"(\xb5/\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ply", "a mesh (.ply)"),
    (b"glTF", "a glTF model"),
    (b"PK", "a ZIP archive"),
)
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<script", b"<body")


def kind_of_file(path: Path) -> str:
    """Return what the file at `path` is, such as `a WAV sound`; "" when its beginning does not tell. Raises OSError."""
    with open_regular(path) as file:
        return kind_of_open(file)


def kind_of_open(file: IO[bytes]) -> str:
    """Return what an open file is that can be sought in, as `kind_of_file` does; an .npz is told from other ZIPs."""
    file.seek(0)
    kind = kind_of(file.read(HEAD))
    if kind == "a ZIP archive":
        with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(file) as archive:
            if all(name.endswith(".npy") for name in archive.namelist()):
                return "an archive of arrays (.npz)"
    return kind


def kind_of(head: bytes) -> str:
    """Return what a file is that begins with `head`, with its article; "" when that does not tell."""
    if not head:
        return "an empty file"
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "a WAV sound"
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return "an AIFF sound"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_MARKUP):
        return "a web page"
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document"
    if not head.strip(b"\0"):
        return "nothing but zeros"
    if _is_onnx(head):
        return "an ONNX network"
    if _is_text(head):
        return "JSON text" if text.startswith((b"{", b"[")) else "text"
    return ""


def _is_onnx(head: bytes) -> bool:
    """A ModelProto begins with its ir_version (field 1), then its producer's name (field 2) or its graph (field 7)."""
    return len(head) > 3 and head[0] == 0x08 and 3 <= head[1] <= 20 and head[2] in (0x12, 0x3A, 0x42)


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # which leaves out a letter that is cut off
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\ufeff" for character in text)
