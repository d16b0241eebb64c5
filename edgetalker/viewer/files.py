"""What the page loads: a fixed table of paths, so that no path from outside ever reaches the disk."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.web.server import Asset

__all__ = ["content_policy", "page_assets", "read_assets", "wav_bytes"]

STATIC = Path(__file__).resolve().parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@lru_cache(maxsize=1)
def page_assets() -> dict[str, Asset]:
    """Return URL path -> asset for every file that ships with the page; `/` is the page itself."""
    return read_assets(STATIC)


def read_assets(folder: Path) -> dict[str, Asset]:
    """Return URL path -> asset for every file of a page's folder; `/` is its index.html."""
    assets = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix in _TYPES:
            path = "/" + file.relative_to(folder).as_posix()
            assets[path] = Asset(_TYPES[file.suffix], file.read_bytes(), foreign=True)
    assets["/"] = assets["/index.html"]
    return assets


@lru_cache(maxsize=2)
def content_policy(page: bytes | None = None) -> str:
    """Return the Content-Security-Policy of a page (default: the viewer's): nothing from elsewhere; the one inline
    script is the import map."""
    page = page_assets()["/"].body if page is None else page
    inline = re.findall(rb'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inline)
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def wav_bytes(samples: NDArray[np.float32], rate: int) -> bytes:
    """Return mono float32 samples in [-1, 1] as the bytes of a 16-bit WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
