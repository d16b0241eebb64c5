"""What the tests on the double share. `python -m tests.cuda.torch_on_double` starts them, nothing else does."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob: list[str] = []
if not os.environ.get("EDGETALKER_TORCH_ON_DOUBLE"):
    collect_ignore_glob = ["test_*.py"]  # without the preloads these would run on a real GPU or on nothing
else:
    import torch

    from edgetalker.runtime.talker import Talker
    from tests.cuda.double.control import Double

    torch.backends.cudnn.enabled = False  # its plans come from the GPU itself
    TINY = Path(__file__).parents[2] / "data" / "bundles" / "tiny_voca"

    @pytest.fixture
    def double() -> Iterator[Double]:
        """The double, with two GPUs of 16 GB; afterwards nothing may have been violated."""
        double = Double()
        double.restart()
        double.set("devices", 2)
        double.set("total_memory", 16 << 30)
        yield double
        gc.collect()
        assert double.violations() == (0, "")

    @pytest.fixture
    def open_tiny(double: Double) -> Iterator[Callable[..., Talker]]:
        """Return a function that opens a small bundle with PyTorch's engines on the GPU."""
        opened: list[Talker] = []

        def make(**options: Any) -> Talker:
            opened.append(Talker(TINY, device="cuda", engine="torch", **options))
            return opened[-1]

        yield make
        while opened:
            opened.pop().close()
