"""A session's controls as the page's sliders see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetalker.runtime.talker import Talker

__all__ = ["controls_of"]

MOST = 24
"""A control with more places than a person can slide is not offered."""


def controls_of(session: Talker) -> list[dict[str, Any]]:
    """Return what can be slid: controls with names and bounds; each `{name, places: [{name, low, high, value}]}`."""
    found = []
    for name, control in session.controls.items():
        tensor = control.tensor
        if not tensor.names or not tensor.low or not tensor.high or len(tensor.names) > MOST:
            continue
        places = [
            {"name": place, "low": float(low), "high": float(high), "value": float(value)}
            for place, low, high, value in zip(tensor.names, tensor.low, tensor.high, control.target, strict=True)
        ]
        found.append({"name": name, "places": places})
    return found
