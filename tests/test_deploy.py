"""What lies in deploy/ is what the command line takes."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from edgetalker.cli.main import COMMANDS

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_the_unit_runs_a_command_that_exists() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "edgetalker.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert words[1] in COMMANDS
    assert unit["Service"]["SuccessExitStatus"] == "143"


def test_the_configuration_names_options_of_live() -> None:
    pytest.importorskip("tomllib", reason="tomllib is part of Python from 3.11")
    from edgetalker.cli.config import read_toml

    settings = read_toml(DEPLOY / "live.toml")
    assert settings["mic"] is True
    assert set(settings) <= {"mic", "late", "to"}
