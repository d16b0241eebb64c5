"""A server in a thread of its own, for tests that drive a browser from this one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgetalker.serve import Batch
from edgetalker.serve.options import Address, Door
from edgetalker.serve.server import WebServer


@contextmanager
def served(batch: Batch, port: int = 0, **door: Any) -> Iterator[WebServer]:
    ready, stop, servers = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        async with WebServer(batch, Address("127.0.0.1", port), Door(**door)) as server:
            servers.append((server, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(60)
    server, loop = servers[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
