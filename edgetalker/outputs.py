"""Every output that ships, by its name: the runtime's own, and those of the face and the viewer, which lie above it.

Importing this module registers them; `sink_for` makes the sink of a file name or a URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgetalker.runtime.sinks.registry import is_receiver, register, sink_for
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["is_receiver", "register", "sink_for"]


# Imported when used: a head of 21,300 vertices and a web server are nothing that a run without them should load.
def _glb(path: Path) -> Sink:
    from edgetalker.face.sinks import GlbSink

    return GlbSink(path)


def _png(path: Path) -> Sink:
    from edgetalker.face.sinks import PlotSink

    return PlotSink(path)


def _view(url: str, options: Mapping[str, object] | None) -> Sink:
    from edgetalker.viewer.sink import from_url

    return from_url(url, options)


register(".glb", _glb)
register(".png", _png)
register("view", _view)
