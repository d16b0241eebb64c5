"""From what a user names to the sink: a file by its suffix, a receiver by the scheme of its URL.

Other packages add outputs without a change here: `register` at run time, or an entry point of the group
`edgetalker.sinks` whose name is a scheme (`fbx`) or a suffix (`.fbx`), found when a user asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.sinks.files.csv import LiveLinkCsvSink
from edgetalker.runtime.sinks.files.recordings import JsonlSink, NpzSink
from edgetalker.runtime.sinks.net import livelink, vmc, vrchat, websocket
from edgetalker.runtime.sinks.options import read_query
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["GROUP", "SCHEMES", "SUFFIXES", "is_receiver", "register", "sink_for", "split_file"]

GROUP = "edgetalker.sinks"
FileFactory = Callable[[Path, "Mapping[str, object] | None"], Sink]
UrlFactory = Callable[[str, "Mapping[str, object] | None"], Sink]

SUFFIXES: dict[str, FileFactory] = {".npz": NpzSink, ".jsonl": JsonlSink, ".csv": LiveLinkCsvSink}
"""Suffix -> what makes the sink of a path and a table of options (or None)."""

SCHEMES: dict[str, UrlFactory] = {
    "livelink": livelink.from_url,
    "vmc": vmc.from_url,
    "vrchat": vrchat.from_url,
    "ws": websocket.from_url,
}
"""URL scheme -> what makes the sink of a URL and the options of a configuration file (or None)."""


def register(name: str, factory: FileFactory | UrlFactory) -> None:
    """Add an output: a suffix such as `.fbx`, or a scheme. The factory takes path or URL, and options (or None)."""
    if name.startswith("."):
        SUFFIXES[name] = cast(FileFactory, factory)
    else:
        SCHEMES[name] = cast(UrlFactory, factory)


def sink_for(target: str | Path, options: Mapping[str, object] | None = None) -> Sink:
    """Return the sink for a file name or a URL, with options over those that follow its `?`.

    `view` alone is `view:`; `-` writes JSON lines to stdout.

    Raises OptionError for an unknown suffix or scheme, and what the factory raises.
    """
    text = str(target)
    scheme = _scheme(text)
    if scheme is not None:
        if not _found(scheme, SCHEMES):
            raise OptionError(f"`{text}`: no output `{scheme}:`{nearest(scheme, SCHEMES)}", hint=_receivers())
        return SCHEMES[scheme](text, options)
    text, query = split_file(text)
    suffix, faults = ".jsonl" if text == "-" else Path(text).suffix.lower(), list[str]()
    options = {**read_query(query, faults), **(options or {})}
    if faults:
        raise OptionError(f"{text}: {faults[0]}")
    if not suffix or not _found(suffix, SUFFIXES):
        what = f"no output with suffix `{suffix}`" if suffix else "no suffix that says what to write"
        known = f"files: {', '.join(SUFFIXES)}; {_receivers()}"
        raise OptionError(f"`{text}`: {what}{nearest(suffix, SUFFIXES)}", hint=known)
    return SUFFIXES[suffix](Path(text), options)


def split_file(text: str) -> tuple[str, str]:
    """Return a file's name and the query of options behind its suffix; a name may hold a `?` elsewhere."""
    found = re.fullmatch(r"(.*\.[A-Za-z0-9]+|-)\?([a-z]+=.*)", text, re.DOTALL)
    return (found[1], found[2]) if found else (text, "")


def is_receiver(target: str | Path) -> bool:
    """Return whether `target` names a receiver of live motion rather than a file."""
    return _scheme(str(target)) is not None


def _scheme(text: str) -> str | None:
    """Return the URL's scheme; None for a file name, of which `C:\\motion.npz` is one too."""
    if text in SCHEMES:
        return text
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    return match[1].lower() if match else None


def _found(name: str, known: Mapping[str, object]) -> bool:
    """Return whether there is such an output, after a look at what other packages bring."""
    if name not in known:
        for entry in entry_points(group=GROUP, name=name):
            register(name, entry.load())
    return name in known


def _receivers() -> str:
    return f"receivers: {', '.join(f'{name}://' for name in SCHEMES)}"
