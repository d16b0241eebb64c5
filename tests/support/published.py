"""A bundle of published size that several files' tests want: exporting it takes a minute and a half, and 1.2 GB."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch

from edgetalker.engines.bundle import Bundle
from edgetalker.export.streamingtalker import export_streamingtalker
from edgetalker.models.streamingtalker.random_weights import random_tensors


def published(dataset: str, factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """Return the bundle of `vocaset` or `biwi`, with random weights, and the checkpoint that it was exported from.

    Made once a test run, by the process that wants it first; the others wait. Read them, do not change them.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    checkpoint, folder = root / f"{dataset}.ckpt", root / dataset
    with (root / f"{dataset}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            torch.save({"state_dict": random_tensors(dataset)}, checkpoint)
            export_streamingtalker(checkpoint, None, folder)  # which appears whole, or not at all
    return Bundle.open(folder), checkpoint
