"""The device's checks on a real GPU; `make gpu-check` runs the same ones without pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.machine import NoGpu, probe

_FOUND = probe()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(isinstance(_FOUND, NoGpu), reason=f"no GPU: {_FOUND}"),
]
pytest.importorskip("torch")

from benchmarks.gpu import frame_checks  # noqa: E402
from benchmarks.gpu.device_checks import CHECKS  # noqa: E402
from benchmarks.gpu.setting import NotRunError, Setting  # noqa: E402

TINY = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"
FRAMES = (
    frame_checks.frames_are_the_hosts,
    frame_checks.graphs_change_no_frame,
    frame_checks.nothing_is_made_after_start,
)


@pytest.mark.parametrize("check", [*CHECKS, *FRAMES], ids=lambda check: check.__name__)
def test_on_the_gpu(tmp_path: Path, check: Callable[[Setting], dict[str, Any]]) -> None:
    pytest.importorskip("cuda.bindings")
    try:
        check(Setting({"tiny_voca": TINY}, tmp_path, scale=0.1))
    except NotRunError as reason:
        pytest.skip(str(reason))
