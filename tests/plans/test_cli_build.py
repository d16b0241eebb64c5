"""`edgetalker build` and `inspect --plans`, as a user runs them."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgetalker.cli import build as command
from edgetalker.cli.plans_view import show_plans
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.engines.plan import find
from tests.plans.conftest import MachineOf

pytestmark = pytest.mark.usefixtures("rtx")


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    return command.run(parser.parse_args(["build", *words]))


def test_build_reports_each_stage_and_then_finds_everything_built(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(bundle.path), "--target", "rtx:sm86,sm120") == 0
    words = capsys.readouterr().out
    for stage in bundle.manifest.stages:
        assert f"  {stage}: " in words
    assert words.count("built in") == len(bundle.manifest.stages)
    assert "MiB" in words
    assert run(str(bundle.path), "--target", "rtx:sm120,sm86") == 0
    assert capsys.readouterr().out.count("was built already") == len(bundle.manifest.stages)


def test_one_stage_can_be_built_alone_and_again(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(bundle.path), "--target", "rtx:sm86", "--stage", "decode"]
    assert run(*words) == 0
    assert [found.path.stem for found in find(bundle)] == ["decode"]
    capsys.readouterr()
    assert run(*words, "--force") == 0
    assert "built in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "kind", "part"),
    [
        (["--target", "rtx:sm86", "--stage", "decod"], OptionError, "did you mean `decode`"),
        (["--target", "rtx:sm86", "--precision", "fp16"], OptionError, "no precision `fp16`"),
        (["--target", "rtx:sm86", "--level", "9"], OptionError, "0 to 5"),
        (["--target", "rtx"], DeviceError, "this machine's GPU"),
    ],
)
def test_mistakes_are_said_before_anything_is_built(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, machine_of: MachineOf, words: list[str], kind: type, part: str
) -> None:
    monkeypatch.setattr(command, "this_machine", lambda: machine_of(None))
    with pytest.raises(kind, match=part):
        run(str(bundle.path), *words)
    assert not (bundle.path / "plans").exists()


def test_inspect_tells_state_reason_and_cure(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, machine_of: MachineOf, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(bundle.path), "--target", "rtx:sm86", "--stage", "decode", "--stage", "blend", "--stage", "audio")
    paths = {path.stem: path for path in (bundle.path / "plans").rglob("*.plan")}
    paths["audio"].write_bytes(b"?" * paths["audio"].stat().st_size)
    record = json.loads(paths["blend"].with_suffix(".json").read_text())
    record["plan"]["version"] = "1.0.0.0"
    paths["blend"].with_suffix(".json").write_text(json.dumps(record))
    capsys.readouterr()
    monkeypatch.setattr("edgetalker.cli.plans_view.this_machine", lambda: machine_of("sm86"))
    assert show_plans(bundle, as_json=True) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "audio": "damaged",
        "blend": "stale",
        "decode": "valid",
    }
    assert rows["audio"]["mend"] == f"edgetalker build {bundle.path} --target rtx:sm86 --precision fp32 --force"
    assert rows["blend"]["mend"] == f"edgetalker build {bundle.path} --target rtx:sm86 --precision fp32"
    assert "made by rtx 1.0.0.0" in rows["blend"]["reasons"][0]
    assert show_plans(bundle, as_json=False) == 0
    assert "valid    decode fp32 rtx:sm86, " in capsys.readouterr().out


def test_inspect_tells_how_to_build_when_there_is_nothing(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_plans(bundle, as_json=False) == 0
    assert f"edgetalker build {bundle.path} --target auto --precision fp32" in capsys.readouterr().out


def test_ctrl_c_cancels_and_leaves_no_half_plan(bundle: Bundle, tmp_path: Path) -> None:
    """SIGINT goes to the whole process group, as from a terminal, while a build is slowed down in its first phase."""
    slow = tmp_path / "sitecustomize.py"
    slow.write_text(SLOW_PROGRESS)
    environment = dict(os.environ, PYTHONPATH=str(tmp_path), EDGETALKER_TEST_MARK=str(tmp_path / "building"))
    code = (
        # A shell's background job starts with SIGINT ignored; what a terminal starts does not.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from edgetalker.cli import build as c; import argparse\n"
        "p = argparse.ArgumentParser(); c.add_parser(p.add_subparsers()); a = p.parse_args(sys.argv[1:])\n"
        "from edgetalker.engines.errors import UserError\n"
        "try: c.run(a)\n"
        "except UserError as error: print(error); sys.exit(error.exit_code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "build", str(bundle.path), "--target", "rtx:sm86"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    mark, end = tmp_path / "building", time.monotonic() + 60
    while not mark.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert mark.exists(), "no build began"
    os.killpg(process.pid, signal.SIGINT)
    words, _ = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "nothing was written" in words
    assert list(bundle.path.rglob("*.plan")) == []
    assert list(bundle.path.rglob("*.part")) == []


SLOW_PROGRESS = """
import os, sys, time
if any("from edgetalker.engines.tensorrt.children import main" in word for word in sys.orig_argv):
    import edgetalker.engines.tensorrt.children as worker
    build = worker.build
    def slowly(*arguments, cancelled, **options):
        def asked():
            open(os.environ["EDGETALKER_TEST_MARK"], "w").close()
            deadline = time.monotonic() + 30
            while not cancelled() and time.monotonic() < deadline:
                time.sleep(0.05)
            return cancelled()
        return build(*arguments, cancelled=asked, **options)
    worker.build = slowly
    sys.exit(worker.main())
"""
