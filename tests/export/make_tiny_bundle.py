"""Writes tests/data/bundles/tiny_voca again: `python -m tests.export.make_tiny_bundle`.

The runtime's tests play that bundle, so that they need no PyTorch. It holds the template of the reference arrays.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgetalker.export.streamingtalker import ExportOptions, ExportReport, export_streamingtalker
from edgetalker.models.streamingtalker import Untold

DATA = Path(__file__).parents[1] / "data"


def make(out: Path) -> ExportReport:
    """Export the tiny checkpoint with the default contract to `out`, replacing a bundle that is there."""
    with tempfile.TemporaryDirectory() as folder, np.load(DATA / "streamingtalker" / "tiny_voca.npz") as arrays:
        template = Path(folder) / "template.npy"
        np.save(template, arrays["template"])
        options = ExportOptions(
            untold=Untold(audio_heads=4, vae_heads=4), template=template, fast_steps=10, collapse=False
        )
        return export_streamingtalker(
            DATA / "streamingtalker" / "tiny_voca.ckpt", None, out, options, replace=True, say=print
        )


if __name__ == "__main__":
    make(DATA / "bundles" / "tiny_voca")
