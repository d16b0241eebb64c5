"""Bundles exported from the tiny checkpoint, each made once a test run."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.export.streamingtalker import ExportOptions, ExportReport, export_streamingtalker
from tests.models.streamingtalker.conftest import (
    DATA,
    TINY,
    TINY_BIWI,
    TINY_UNTOLD,
    Reference,
    biwi,
    biwi_reference,
    model,
    reference,
)

__all__ = ["DATA", "Reference", "biwi", "biwi_reference", "model", "reference"]


def tiny(folder: Path, options: ExportOptions) -> ExportReport:
    return export_streamingtalker(TINY, None, folder, options)


@dataclass(frozen=True)
class Commanded:
    """What `edgetalker export` wrote and said."""

    bundle: Bundle
    words: list[str]
    out: str
    err: str


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Commanded:
    """Audio in, short windows that slide within a few frames, and the collapsed schedule; made by the command."""
    folder = tmp_path_factory.mktemp("bundles") / "windowed"
    heads = ["--audio-heads", "4", "--vae-heads", "4"]
    windows = ["--context", "400", "--history", "20", "--decode-window", "12"]
    words = ["export", "streamingtalker", str(TINY), "-o", str(folder), *heads, *windows]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(words) == 0
    return Commanded(Bundle.open(folder), words, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def absolute(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """Features in, the absolute phase, textbook DDIM with a fast schedule, five steps a row, another identity."""
    options = ExportOptions(
        untold=TINY_UNTOLD,
        history=20,
        decode_window=35,
        phase="absolute",
        rule="ddim",
        full_steps=20,
        fast_steps=5,
        steps_per_row=5,
        identity=3,
        features_input=True,
    )
    return tiny(tmp_path_factory.mktemp("bundles") / "absolute", options)


@pytest.fixture(scope="session")
def rewriting(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """BIWI's form, features in, the history that `predict` makes anew each frame."""
    options = ExportOptions(
        untold=TINY_UNTOLD,
        history=60,
        decode_window=61,
        features_input=True,
        past="rewrite",
        collapse=False,
    )
    return export_streamingtalker(TINY_BIWI, None, tmp_path_factory.mktemp("bundles") / "rewriting", options)


@pytest.fixture(scope="session")
def covering(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> ExportReport:
    """Features in, windows that cover all 89 reference frames: what `streaming_inference` computes."""
    import numpy as np

    folder = tmp_path_factory.mktemp("bundles")
    np.save(folder / "template.npy", reference["template"])
    identity = int(reference["id_onehot"].argmax())
    options = ExportOptions(
        untold=TINY_UNTOLD,
        history=90,
        decode_window=91,
        features_input=True,
        template=folder / "template.npy",
        identity=identity,
        fast_steps=0,
    )
    return tiny(folder / "covering", options)
