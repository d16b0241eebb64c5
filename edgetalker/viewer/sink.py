"""The viewer as a sink: `--to view`, or `view://?port=8080&browser=no`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.options import switch
from edgetalker.runtime.sinks.sink import Running, Sink
from edgetalker.viewer.controls import controls_of
from edgetalker.viewer.scene import face_asset, mesh_asset
from edgetalker.viewer.screen import open_page
from edgetalker.viewer.server import HOST, ViewerServer
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.template import read_template
from edgetalker.viewer.wire import Request, shown

if TYPE_CHECKING:
    from edgetalker.runtime.talker import Talker

__all__ = ["ViewerSink", "from_url"]

_FORM = "view://127.0.0.1:8080?browser=no&template=MESH.obj"
_OPTIONS = ("browser", "template")


class ViewerSink(Sink):
    """Shows live motion in a page on this machine; `hear` lets the page play the sound too.

    The page's sliders reach the session that was given to `attach`; without one it has no sliders. `send` copies
    the frame and returns: pages, however slow, never hold it up.
    """

    def __init__(
        self, *, port: int = 0, browser: bool = True, template: Path | str | None = None, title: str = "live"
    ) -> None:
        """Builds the face now, so that nothing is slow once sound is being recorded.

        template: the .obj or .ply mesh of motion that is vertices. Raises InputError when it cannot be read.
        """
        self._triangles = read_template(template)[1] if template is not None else None
        self._browser = browser
        self._session: Talker | None = None
        self._running: Running | None = None
        self.stream = Stream("live", title)
        self._server = ViewerServer(self.stream, port=port, assets={"/face.glb": face_asset()}, answer=self._answer)

    @property
    def url(self) -> str:
        """The address of the page, known once the sink is open."""
        return self._server.url

    @property
    def viewers(self) -> int:
        """How many pages look on."""
        return self._server.viewers

    def attach(self, talker: Talker, running: Running | None = None) -> None:
        """Let the page's sliders set this session's controls, and its reset button let the talker begin anew."""
        self._session, self._running = talker, running

    def open(self, layout: MotionLayout) -> None:
        """Start the page and print its address. Raises DeviceError when the port is taken."""
        mesh = None
        if layout.kind == "vertices":
            mesh, asset = mesh_asset(layout, self._triangles)
            self._server.assets[mesh] = asset
        elif layout.kind != "arkit":
            raise OptionError(f"view: motion of kind `{layout.kind}` cannot be shown on a face")
        controls = controls_of(self._session) if self._session is not None else []
        self.stream.describe(layout, mesh=mesh, controls=controls)
        self._server.start()
        sys.stderr.write(f"viewer: {self.url}\n")
        if self._browser:
            open_page(self.url)

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        """Let pages hear this sound."""
        self.stream.sound(samples, rate)

    def send(self, frame: Frame) -> None:
        """Show one frame."""
        self.stream.frame(shown(frame))

    def reset(self) -> None:
        """Begin anew: the talker was reset."""
        self.stream.begin()

    def close(self) -> None:
        """Say goodbye to the pages and stop the server."""
        self.stream.finish()
        self._server.close()

    def _answer(self, request: Request) -> None:
        if request.type == "reset":
            if self._running is None:
                raise OptionError("this talker cannot be reset from the page")
            self._running.reset()
        elif self._session is None:
            raise OptionError("this talker has no controls")
        else:
            self._session.set(request.name, request.values or {})


def from_url(url: str, options: Mapping[str, object] | None = None) -> ViewerSink:
    """Return the sink of `view` or `view://127.0.0.1:8080?browser=no`; without a port any that is free.

    browser=no only prints the address; template=MESH.obj gives the triangles of motion that is vertices. Raises
    OptionError for other hosts and options.
    """
    parts = urlsplit("view://" if url in ("view", "view:") else url)
    given: dict[str, object] = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **(options or {})}
    faults = [f"unknown option `{name}`{nearest(name, _OPTIONS)}" for name in given if name not in _OPTIONS]
    if parts.hostname not in (None, HOST, "localhost"):
        faults.append(f"the page is served on {HOST} only")
    browser, port = True, 0
    try:
        port, browser = parts.port or 0, switch(given.get("browser", "yes"))
    except ValueError as fault:
        faults.append(str(fault))
    if faults:
        raise OptionError("\n".join([f"{url}:", *(f"  - {fault}" for fault in faults)]), hint=_FORM)
    template = given.get("template")
    return ViewerSink(port=port, browser=browser, template=str(template) if template else None)
