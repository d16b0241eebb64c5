"""Which nodes compute in FP16, and why the others do not."""

from __future__ import annotations

import numpy as np
import pytest

from edgetalker.calibration.assign import Assignment, assign
from edgetalker.calibration.network import Network
from edgetalker.calibration.ranges import Range
from tests.calibration.conftest import network_of, node, weight

SIZE = 16


def block() -> Network:
    """A transformer block in small: norm, two products with an activation between, a residual sum."""
    nodes = [
        node("LayerNormalization", "x scale shift", "normed"),
        node("MatMul", "normed up", "wide"),
        node("Add", "wide bias", "biased"),
        node("Gelu", "biased", "bent"),
        node("MatMul", "bent down", "narrow"),
        node("Add", "x narrow", "y"),
    ]
    return network_of(
        nodes,
        {"x": (4, SIZE)},
        {"y": (4, SIZE)},
        scale=np.ones(SIZE, np.float32),
        shift=np.zeros(SIZE, np.float32),
        up=weight(SIZE, 32),
        bias=weight(32, seed=1),
        down=weight(32, SIZE, seed=2),
    )


def test_products_and_what_lies_between_them_go_to_fp16() -> None:
    found = assign(block(), {})
    assert found.half == {"wide", "biased", "bent", "narrow"}
    assert found.kept == {"y": "not between FP16 nodes on every side"}


def test_the_norm_is_never_asked_about() -> None:
    found = assign(block(), {})
    assert "normed" not in found.half
    assert "normed" not in found.kept


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Range(1e5, 10.0), "`wide` reaches 1e+05, too near to FP16's 65504"),
        (Range(20000.0, 10.0), "too near"),
        (Range(float("inf"), 1.0), "too near"),
        (Range(1e-5, 1e-6), "has a size of 1e-06, which vanishes"),
    ],
)
def test_ranges_of_rollouts_hold_back_the_product_and_its_followers(seen: Range, reason: str) -> None:
    found = assign(block(), {"wide": seen})
    assert reason in found.kept["wide"]
    assert reason in found.kept["biased"]
    assert found.kept["bent"] == "not between FP16 nodes on every side"
    assert found.half == {"narrow"}


def test_a_tensor_of_zeros_vanishes_in_no_precision() -> None:
    assert assign(block(), {"wide": Range(0.0, 0.0)}) == assign(block(), {})


def test_held_nodes_stay() -> None:
    found = assign(block(), {}, keep={"narrow"})
    assert found.kept["narrow"] == "held by the user or by its sensitivity"
    assert found.half == {"wide"}


@pytest.mark.parametrize(("scale", "held"), [(1.0, False), (1e6, True), (1e-7, True)])
def test_weights_that_fp16_cannot_hold_stay(scale: float, held: bool) -> None:
    network = network_of(
        [node("MatMul", "x w", "y")], {"x": (1, SIZE)}, {"y": (1, SIZE)}, w=weight(SIZE, SIZE, scale=scale)
    )
    assert ("y" in assign(network, {}).kept) is held


def attention(logits: float) -> tuple[Network, dict[str, Range]]:
    nodes = [
        node("MatMul", "q k", "logits"),
        node("Mul", "logits scale", "scaled"),
        node("Softmax", "scaled", "shares"),
        node("MatMul", "shares v", "y"),
    ]
    shapes: dict[str, tuple[int, ...]] = {"q": (4, 8), "k": (8, 4), "v": (4, 8)}
    network = network_of(nodes, shapes, {"y": (4, 8)}, scale=np.array([0.5], np.float32))
    return network, {"logits": Range(logits, 1.0)}


def test_small_logits_are_computed_in_fp16_and_the_softmax_is_not() -> None:
    found = assign(*attention(20.0))
    assert found.half == {"logits", "y"}
    assert found.kept == {"scaled": "not between FP16 nodes on every side"}


def test_large_logits_would_round_too_coarsely() -> None:
    found = assign(*attention(300.0))
    assert found.half == {"y"}
    assert found.kept["logits"] == "attention logits reach 300, where FP16 rounds by 0.25"


def test_scheduler_arithmetic_and_time_embeddings_stay() -> None:
    """x_next = (x @ A + cond + embed(t)) * gain: only the product is FP16, the state keeps its bits."""
    nodes = [
        node("Mul", "t frequencies", "phase"),
        node("Sin", "phase", "wave"),
        node("MatMul", "x matrix", "mixed"),
        node("Add", "mixed wave", "moved"),
        node("Mul", "moved gain", "x_next"),
    ]
    network = network_of(
        nodes,
        {"x": (1, SIZE), "t": (1, 1), "gain": (1, 1)},
        {"x_next": (1, SIZE)},
        frequencies=weight(1, SIZE),
        matrix=weight(SIZE, SIZE),
    )
    assert assign(network, {}).half == {"mixed"}


def test_a_product_with_a_vector_is_a_sum() -> None:
    network = network_of([node("MatMul", "x mean", "y")], {"x": (4, SIZE)}, {"y": (4, 1)}, mean=weight(SIZE, 1))
    found = assign(network, {})
    assert (found.half, found.reductions) == (set(), {"y"})


def test_nodes_without_names_get_their_own() -> None:
    network = block()
    for item in network.graph.node:
        item.name = "same"
    found = assign(network, {})
    assert len(found.half) == 4
    assert len({item.name for item in network.graph.node}) == len(network.graph.node)


def test_nothing_to_convert_is_nothing() -> None:
    network = network_of([node("Mul", "x x", "y")], {"x": (1, 4)}, {"y": (1, 4)})
    assert assign(network, {}) == Assignment(kept={"y": "not between FP16 nodes on every side"})
