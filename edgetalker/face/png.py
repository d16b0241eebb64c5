"""PNG files from arrays, with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import PartFile, write_whole

__all__ = ["png_bytes", "write_png"]


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit RGB PNG of an image (H, W, 3) uint8 (ISO/IEC 15948). Raises ValueError on another shape."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"wanted (H, W, 3) uint8, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path | str | PartFile, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) uint8 as a PNG file, whole or not at all."""
    with write_whole(path) as file:
        file.write(png_bytes(image))
