"""Opening the page where there is a screen."""

from __future__ import annotations

import os
import sys
import webbrowser

__all__ = ["open_page"]


def open_page(url: str) -> bool:
    """Open the address in the user's browser; return whether one was started.

    Without a screen nothing is tried: `webbrowser` would start a browser in the terminal that `view` speaks to.
    """
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not screen and sys.platform not in ("win32", "darwin"):
        return False
    return webbrowser.open(url)
