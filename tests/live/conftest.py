"""The talker of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetalker.engines.bundle import Bundle
from tests.live.meter import meter_bundle


@pytest.fixture(scope="session")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return meter_bundle(tmp_path_factory.mktemp("meter") / "bundle")


@pytest.fixture(scope="session")
def meter_path(meter: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meter_bundle(tmp_path_factory.mktemp("meter-path") / "bundle").path
