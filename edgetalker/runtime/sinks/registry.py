"""From what a user names to the sink: a file by its suffix, a receiver by the scheme of its URL."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.frame import Sink

__all__ = ["SCHEMES", "SUFFIXES", "is_receiver", "sink_for"]

_SINKS = "edgetalker.runtime.sinks"

SUFFIXES: dict[str, str] = {
    ".npz": f"{_SINKS}.npz:NpzSink",
    ".jsonl": f"{_SINKS}.jsonl:JsonlSink",
    ".csv": f"{_SINKS}.csv:LiveLinkCsvSink",
    ".glb": "edgetalker.face.sinks:GlbSink",
    ".png": "edgetalker.face.sinks:PlotSink",
}
"""Suffix -> `module:factory`, called with the path. Imported when used, so that nothing is loaded in vain."""

SCHEMES: dict[str, str] = {
    "livelink": f"{_SINKS}.livelink:from_url",
    "vmc": f"{_SINKS}.vmc:from_url",
    "vrchat": f"{_SINKS}.vrchat:from_url",
    "ws": f"{_SINKS}.websocket:from_url",
    "view": "edgetalker.viewer.sink:from_url",
}
"""URL scheme -> `module:factory`, called with the URL and the options of a configuration file (or None)."""


def sink_for(target: str | Path, options: Mapping[str, object] | None = None) -> Sink:
    """Return the sink for a file name or a URL; `options` go with URLs only. `view` alone is `view:`.

    A sink that has a method `hear(samples, rate)` also gets the sound: mono float32, valid during the call.
    Raises OptionError for an unknown suffix or scheme, and what the factory raises.
    """
    text = str(target)
    scheme = _scheme(text)
    if scheme is not None:
        if scheme not in SCHEMES:
            raise OptionError(f"`{text}`: no output `{scheme}:`{nearest(scheme, SCHEMES)}", hint=_known())
        return _made(SCHEMES[scheme], text, options)
    suffix = Path(text).suffix.lower()
    if suffix not in SUFFIXES:
        what = f"no output with suffix `{suffix}`" if suffix else "no suffix that says what to write"
        raise OptionError(f"`{text}`: {what}{nearest(suffix, SUFFIXES)}", hint=_known())
    if options:
        raise OptionError(f"`{text}` is a file and takes no options; got {', '.join(options)}")
    return _made(SUFFIXES[suffix], Path(text))


def is_receiver(target: str | Path) -> bool:
    """Return whether `target` names a receiver of live motion rather than a file."""
    return _scheme(str(target)) is not None


def _scheme(text: str) -> str | None:
    """Return the URL's scheme; None for a file name, of which `C:\\motion.npz` is one too."""
    if text in SCHEMES:
        return text
    scheme = urlsplit(text).scheme
    return scheme if len(scheme) > 1 and text[len(scheme)] == ":" else None


def _made(entry: str, *arguments: Any) -> Sink:
    module, _, name = entry.partition(":")
    return cast(Sink, getattr(import_module(module), name)(*arguments))


def _known() -> str:
    schemes = ", ".join(f"{name}://" for name in SCHEMES)
    return f"files: {', '.join(SUFFIXES)}; receivers: {schemes}"
