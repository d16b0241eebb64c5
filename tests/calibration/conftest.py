"""What the tests of conversion share: networks to convert, the tiny bundle, a converted copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.calibration.network import Network
from edgetalker.calibration.report import ConvertReport
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array
from tests.support.toy import network

TINY = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"

NetworkOf = Callable[..., Network]


def network_of(
    nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], **weights: Array
) -> Network:
    """Return the network that the nodes make."""
    import onnx

    return Network(onnx.load_from_string(network(nodes, inputs, outputs, weights)))


def weight(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Return random weights that keep the size of what they multiply."""
    values = np.random.default_rng(seed).standard_normal(shape) * scale / np.sqrt(shape[0])
    rounded: Array = values.astype(np.float32)
    return rounded


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    """Return a node named after its output."""
    return helper.make_node(kind, inputs.split(), output.split(), name=output.split()[0], **attributes)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    """A copy of the tiny StreamingTalker bundle that a test may change."""
    shutil.copytree(TINY, tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ConvertReport]:
    """The tiny bundle with FP16 stages, and the report of their conversion."""
    folder = tmp_path_factory.mktemp("converted") / "tiny"
    shutil.copytree(TINY, folder)
    options = ConvertOptions(seconds=4.0, observed=60, kept=6)
    report = convert(Bundle.open(folder), options)
    return Bundle.open(folder), report
