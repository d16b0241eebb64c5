"""Fixtures that many tests share."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests compare numbers, and two of them may run side by side

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from edgetalker.engines.bundle import Bundle

# A busy machine is no failure: no test is judged by how long an example took.
settings.register_profile("edgetalker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgetalker")

# Run under nohup or in a script's background, the tests' children would inherit that these are ignored, and honour it.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


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


STRICT = bool(os.environ.get("EDGETALKER_TEST_STRICT"))
MICROPHONE = ("PyAudio", "PortAudio", "ALSA", "pulseaudio", "pyaudio")


def untested_microphone(skipped: list[str]) -> list[str]:
    """Return the reasons among those of skipped tests that name what the microphone needs and is not here."""
    return sorted({reason for reason in skipped if any(word in reason for word in MICROPHONE)})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """`make test STRICT=1`: a microphone that was not tested is a failure."""
    missing = untested_microphone(_skipped(session.config))
    if STRICT and missing and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: object, config: pytest.Config) -> None:
    """Say at the end what of the microphone was not tested, and why."""
    for reason in untested_microphone(_skipped(config)):
        how = "which STRICT=1 refuses" if STRICT else "STRICT=1 would refuse this"
        terminalreporter.write_line(f"the microphone was not tested: {reason} ({how})")  # type: ignore[attr-defined]


def _skipped(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return [str(report.longrepr) for report in reporter.stats.get("skipped", [])] if reporter else []
