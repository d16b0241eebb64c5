"""What the exporter and `inspect` say of the ladder's rungs, and identities by number."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from edgetalker.cli.inspect import describe
from edgetalker.cli.options import set_controls
from edgetalker.engines.errors import OptionError
from edgetalker.export.streamingtalker import ExportOptions, ExportReport
from edgetalker.runtime.talker import Talker
from tests.export.conftest import Commanded


def chosen(**values: object) -> argparse.Namespace:
    nothing: dict[str, object] = {
        "emotion": None,
        "style": None,
        "set": [],
        "fix_pose": False,
        "style_motion": None,
        "identity": None,
    }
    return argparse.Namespace(**nothing | values)


def test_the_exact_collapse_is_the_lower_rung(windowed: Commanded) -> None:
    assert dataclasses.asdict(ExportOptions())["collapse"] is True
    assert windowed.bundle.manifest.ladder == ("full", "collapsed")
    differs = windowed.bundle.manifest.schedules["collapsed"].differs
    assert differs is not None and differs < 1e-4
    text = f"  collapsed: no rows, differs from full by {differs:.2g} of the motion's RMS (rounding)"
    assert text in list(describe(windowed.bundle))


def test_a_shorter_schedule_is_measured_against_full(absolute: ExportReport) -> None:
    assert absolute.bundle.manifest.ladder == ("full", "fast", "collapsed")
    differs = absolute.bundle.manifest.schedules["fast"].differs
    assert differs is not None and differs > 0.01
    text = f"  fast: 1 rows, differs from full by {differs:.2g} of the motion's RMS (another function in mid-sentence)"
    assert text in list(describe(absolute.bundle))
    assert absolute.bundle.manifest.schedules["full"].differs is None


def test_an_identity_by_number(windowed: Commanded, capsys: pytest.CaptureFixture[str]) -> None:
    talker = Talker(windowed.bundle)
    for args in (chosen(identity=3), chosen(set=["identity=3"])):
        set_controls(talker, args)
        assert talker.controls["identity"].target.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert capsys.readouterr().err == ""
    with pytest.raises(OptionError, match="identity 8; the bundle has 0 to 7"):
        set_controls(talker, chosen(identity=8))


@pytest.mark.parametrize("text", ["identity=identity_3:1", "identity=0.5,0.5,0,0,0,0,0,0"])
def test_a_mixture_of_identities_warns(windowed: Commanded, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_controls(Talker(windowed.bundle), chosen(set=[text]))
    assert "warning: identity is" in capsys.readouterr().err


def test_the_floor_of_pauses_is_a_control(windowed: Commanded, tmp_path: Path) -> None:
    control = windowed.bundle.manifest.tensors["floor"]
    assert (control.role, control.default) == ("control", (-50.0,))
