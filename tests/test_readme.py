"""The README's commands run, its links lead somewhere, and what it names exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgetalker.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The lines of the README's `sh` blocks; `console` blocks are pictures of a screen."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.partition("  #")[0].strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 5


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_runs(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    if words[:2] == ["pip", "install"]:
        _check_extras(words)
        return
    assert words[0] == "edgetalker", f"`{line}` is neither make, pip nor edgetalker"
    shutil.copy(ROOT / "edgetalker" / "data" / "speech.wav", tmp_path / "speech.wav")
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def _check_extras(words: list[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([a-z,]+)\]", " ".join(words)):
        for name in extra.split(","):
            assert re.search(rf"^{name} = \[", project, re.MULTILINE), f"no extra `{name}`"


def test_every_link_of_the_pages_leads_somewhere() -> None:
    looked = 0
    for page in PAGES:
        for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
            looked += 1
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in _anchors(there), f"{page.name} links to {target}#{anchor}"
    assert looked > 5


def _anchors(page: Path) -> set[str]:
    """The names that a code host gives a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"edgetalker {name}" not in text]
    assert not missing


def test_the_changelog_knows_this_version() -> None:
    from edgetalker import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
