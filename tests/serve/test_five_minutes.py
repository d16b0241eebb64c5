"""docs/browser.md as its reader walks it: from the wheel in an empty environment to a face that speaks in a browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import edgetalker
from tests.viewer.chromium import browser, find_chromium

pytestmark = pytest.mark.slow
ROOT = Path(edgetalker.__file__).parents[1]
PAGE = (ROOT / "docs" / "browser.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the page's first piece of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no {language}"
    return found[1]


@contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    with (cwd / f"{Path(words[-1]).stem}.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=cwd, env=alone, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_from_the_wheel_to_a_face_that_speaks_in_a_browser(tmp_path: Path) -> None:
    find_chromium()
    if any(map(answers, (8080, 8000))):
        pytest.skip("port 8080 or 8000, which the page names, is used by another program")
    if shutil.which("espeak-ng") is None:
        pytest.skip("no espeak-ng: apt-get install espeak-ng")
    house, work = tmp_path / "dist", tmp_path / "work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(house), str(ROOT)], check=True)
    began = time.monotonic()
    make, install, serve = block("sh").splitlines()
    wheel = str(next(house.glob("*.whl")))
    for line in (make, install):
        done = subprocess.run(
            line, shell=True, cwd=work, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WHEEL": wheel},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (work / "agent.py").write_text(block("python"))
    (work / "index.html").write_text(block("html"))
    installed = time.monotonic() - began
    with (
        running(*serve.split(), cwd=work) as server,
        running("venv/bin/python", "agent.py", cwd=work) as agent,
        browser(900, 600) as tab,
    ):
        for port in (8080, 8000):  # a person waits until both say that they are there
            while not answers(port):
                said = {log.name: log.read_text() for log in work.glob("*.log")}
                assert server.poll() is None and agent.poll() is None, said
                time.sleep(0.2)
        tab.open("http://127.0.0.1:8000/")
        tab.until("window.edgetalker.shown")
        tab.click("button")
        tab.until("window.edgetalker.heard() > 1.2 && window.edgetalker.shown.utterance.startsWith('u')")
        took = time.monotonic() - began
        picture = tab.picture()
        if folder := os.environ.get("SCREENSHOTS"):
            pytest.importorskip("PIL.Image").fromarray(picture.astype(np.uint8)).save(
                Path(folder) / "browser-agent.png"
            )
        tab.until("window.edgetalker.current === null")
        stats = tab.js("window.edgetalker.stats")
        assert tab.problems == []
    print(f"from the wheel to a face that speaks: {took:.0f} s, {installed:.0f} of them pip's; {stats}")
    # How long it takes is the machine's matter: a busy one is no fault of the page.
    assert stats["frames"] > 60
    skin = (picture[:, :, 0] > picture[:, :, 2] + 40).mean()
    assert skin > 0.05  # there is a face
