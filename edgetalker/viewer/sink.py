"""The viewer as a sink: `--to view`, or `view://?port=8080&browser=no`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.engines.mesh import read_template
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.options import Option, choice, read_endpoint, switch, text
from edgetalker.runtime.sinks.sink import Running, Sink
from edgetalker.runtime.web.admission import host_names, is_loopback, read_token
from edgetalker.viewer.colours import colour
from edgetalker.viewer.controls import controls_of
from edgetalker.viewer.scene import face_asset, mesh_asset
from edgetalker.viewer.screen import open_page
from edgetalker.viewer.server import HOST, ViewerServer
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.wire import Request, shown

if TYPE_CHECKING:
    from edgetalker.runtime.talker import Talker

__all__ = ["OPTIONS", "ViewerSink", "from_url", "page_query"]

OPTIONS = {
    "browser": Option(switch, True, "open the page in a browser; without it only its address is printed"),
    "template": Option(text, "", "mesh, .obj or .ply, with the triangles of motion that is vertices"),
    "public": Option(switch, False, "listen where other machines, or a container's published port, can reach it"),
    "allow": Option(host_names, (), "further names that the page may be opened under: a proxy's, a tunnel's"),
    "token-file": Option(text, "", "the page's word stands in this file, so that its address stays the same"),
    "face-only": Option(switch, False, "the face and nothing else: for a kiosk, or for OBS"),
    "background": Option(colour, "", "behind the face: transparent, a name, or a colour such as 202830"),
    "framing": Option(choice("close", "head", "bust"), "head", "how much is seen: close, head or bust"),
}


def page_query(options: Mapping[str, Any]) -> str:
    """Return how the page is to look, as its address says it."""
    words = {"face": "" if options["face-only"] else None, "background": options["background"] or None}
    words["framing"] = options["framing"] if options["framing"] != "head" else None
    return urlencode({name: word for name, word in words.items() if word is not None})


class ViewerSink(Sink):
    """Shows live motion in a page on this machine; `hear` lets the page play the sound too.

    The page's sliders reach the session that was given to `attach`; without one it has no sliders. `send` copies
    the frame and returns: pages, however slow, never hold it up.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        browser: bool = True,
        template: Path | str | None = None,
        title: str = "live",
        host: str = HOST,
        public: bool = False,
        allow: Sequence[str] = (),
        token: str = "",
        query: str = "",
        say: Callable[[NDArray[Any], int], None] | None = None,
    ) -> None:
        """Builds the face now, so that nothing is slow once sound is being recorded.

        say: takes what a page wants to have said, samples (n,) at a rate in Hz. token, query: see ViewerServer.
        template: the .obj or .ply mesh of motion that is vertices. Raises InputError when it cannot be read.
        """
        self._triangles = read_template(template)[1] if template is not None else None
        self._browser, self._say = browser, say
        self._session: Talker | None = None
        self._running: Running | None = None
        self.stream = Stream("live", title)
        assets = {"/face.glb": face_asset()}
        self._server = ViewerServer(
            self.stream,
            port=port,
            assets=assets,
            answer=self._answer,
            host=host,
            public=public,
            allow=allow,
            token=token,
            query=query,
        )

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
            self._server.routes[mesh] = asset
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
        elif request.type == "say":
            if self._say is None or request.samples is None:
                hint = "`edgetalker view` without a file hears what is said"
                raise OptionError("this talker has a sound of its own", hint=hint)
            self._say(request.samples, request.rate)
        elif self._session is None:
            raise OptionError("this talker has no controls")
        else:
            self._session.set(request.name, request.values or {})


def from_url(url: str, options: Mapping[str, object] | None = None) -> ViewerSink:
    """Return the sink of `view` or `view://127.0.0.1:8080?browser=no`; without a port any that is free.

    Raises OptionError for unknown options and, unless `public=yes` is given, for an address beyond this machine.
    """
    form = "view://" if url in ("view", "view:") else url
    endpoint = read_endpoint(form, "view", (HOST, 0), OPTIONS, options, common={})
    given = endpoint.options
    if not given["public"] and not is_loopback(endpoint.host):
        raise OptionError(
            f"{url}: listening on {endpoint.host} would let other machines connect",
            hint="use view://127.0.0.1, or add public=yes: the token in the address still guards the page",
        )
    return ViewerSink(
        port=endpoint.port,
        browser=given["browser"],
        template=given["template"] or None,
        host=endpoint.host,
        public=given["public"],
        allow=given["allow"],
        token=read_token(Path(given["token-file"])) if given["token-file"] else "",
        query=page_query(given),
    )
