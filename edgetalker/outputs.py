"""Every output that ships, by its name: the runtime's own, and those of the face and the viewer, which lie above it.

Importing this module registers them; `sink_for` makes the sink of a file name or a URL, `sinks_for` those of a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.sinks.registry import is_receiver, register, sink_for, split_file
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["Target", "is_receiver", "register", "sink_for", "sinks_for", "split_file"]

Target = tuple[str, "Mapping[str, object] | None"]
"""An output: its URL or file name, and a table of options over the URL's."""


def sinks_for(
    targets: Iterable[str | Target], read: Iterable[Path | str] = (), written: Iterable[Path | str] = ()
) -> list[Sink]:
    """Return the sinks of one run, two receivers with one URL by two names.

    read: files that the run reads; written: those that it writes beside. Raises OptionError when a file is written that
    is read, or is written twice.
    """
    named = [(target, None) if isinstance(target, str) else target for target in targets]
    files = [split_file(text)[0] for text, _ in named if not is_receiver(text)]
    _check_files([*files, *written], [file for file in read if str(file) != "-"])
    sinks, seen = [], dict[str, int]()
    for text, options in named:
        sink = sink_for(text, options)
        seen[text] = seen.get(text, 0) + 1
        sink.name = text if seen[text] == 1 else f"#{seen[text]} {text}"
        sinks.append(sink)
    return sinks


def _check_files(written: Sequence[Path | str], read: Sequence[Path | str]) -> None:
    for place, file in enumerate(written):
        if any(_same(file, other) for other in read):
            raise OptionError(f"{file} is a file that is read", hint="name another file")
        if any(_same(file, other) for other in written[:place]):
            raise OptionError(f"{file} is written twice", hint="name another file")


def _same(one: Path | str, other: Path | str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # one of them is not there yet
        with suppress(OSError):
            return os.path.realpath(one) == os.path.realpath(other)
        return False  # nor is the folder that they are named from


# Imported when used: a head of 21,300 vertices and a web server are nothing that a run without them should load.
def _glb(path: Path, options: Mapping[str, object] | None) -> Sink:
    from edgetalker.face.sinks import GlbSink

    return GlbSink(path, options)


def _png(path: Path, options: Mapping[str, object] | None) -> Sink:
    from edgetalker.face.sinks import PlotSink

    return PlotSink(path, options)


def _view(url: str, options: Mapping[str, object] | None) -> Sink:
    from edgetalker.viewer.sink import from_url

    return from_url(url, options)


register(".glb", _glb)
register(".png", _png)
register("view", _view)
