"""Warnings as trtexec gives them: what about a measurement should make its reader suspicious."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgetalker.calibration.profile.report import Piece
from edgetalker.runtime.stats import Summary

__all__ = ["ENQUEUE_LIMIT", "UNSTABLE", "warnings_for"]

ENQUEUE_LIMIT = 0.8
"""Enqueueing above this part of the device's time holds the device up (trtexec's limit)."""
UNSTABLE = 0.025
"""Coefficient of variation above which times are called unstable (trtexec's limit)."""


def warnings_for(
    kind: str, device: Summary, host: Mapping[str, Summary], transfer: Summary | None, pieces: Sequence[Piece]
) -> list[str]:
    """Return a sentence for each; kind: of the device. On the host, enqueueing is computing and is not judged."""
    found = []
    if kind != "host" and host["enqueue"].median > ENQUEUE_LIMIT * device.median:
        found.append(
            f"enqueueing takes {host['enqueue'].median / 1e3:.0f} us of the host for {device.median / 1e3:.0f} us of "
            "the device: the device waits for the host; --graphs frame enqueues once a frame"
        )
    if transfer is not None and transfer.median > device.median:
        found.append(f"copies take longer ({transfer.median / 1e3:.0f} us) than computing")
    shaky = [piece for piece in pieces if piece.row < 0 and piece.times.cv > UNSTABLE]
    if shaky:
        worst = max(shaky, key=lambda piece: piece.times.cv)
        found.append(
            f"times are unstable: {len(shaky)} stages vary by more than {100 * UNSTABLE:g} %, {worst.name} by "
            f"{100 * worst.times.cv:.1f} %; lock the clocks (docs/profiling.md) or close other programs"
        )
    return found
