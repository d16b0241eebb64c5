"""What a machine has, as far as no GPU is needed to say it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgetalker.engines.machine import usable_cores


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, 8),  # no control group of version 2
        ("max 100000", 8),
        ("200000 100000", 2),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("nonsense", 8),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, wanted: int
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    if given is not None:
        (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
        (tmp_path / "sys" / "fs" / "cgroup" / "cpu.max").write_text(given + "\n")
    assert usable_cores(tmp_path) == wanted


def test_elsewhere_the_cores_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores() == 12
