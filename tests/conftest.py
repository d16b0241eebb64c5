"""Fixtures that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests compare numbers, and two of them may run side by side

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from edgetalker.engines.bundle import Bundle

# A busy machine is no failure: no test is judged by how long an example took.
settings.register_profile("edgetalker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgetalker")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy bundle; read it, do not change it."""
    pytest.importorskip("onnx", reason="the toy bundle is written with the package onnx")
    from tests.support.toy import toy_bundle

    return toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def data() -> Path:
    """The folder of reference data."""
    return Path(__file__).parent / "data"
