"""A manifest is read strictly: every fault at once, nothing unknown passes."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.errors import BundleError
from edgetalker.engines.manifest import FORMAT, VERSION, Manifest, parse
from edgetalker.engines.verify import contradictions
from tests.support.toy import description, stages, tables

FILES = (*stages(), *tables())


def document(**changes: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        **copy.deepcopy(description()),
        **changes,
        "files": dict.fromkeys(
            ("audio.onnx", "blend.onnx", "denoise.onnx", "decode.onnx", "full.npy", "one.npy", "history.npy"), "0" * 64
        ),
    }


def read(value: object) -> Manifest:
    return parse(json.dumps(value), "toy")


def faults_of(value: object) -> tuple[str, ...]:
    with pytest.raises(BundleError) as caught:
        read(value)
    return caught.value.faults


def test_a_sound_manifest_has_no_faults() -> None:
    manifest = read(document())
    assert contradictions(manifest) == []
    assert manifest.ladder == ("full", "one")
    assert manifest.motion.fps == Fraction(30)


def test_every_fault_of_form_is_reported_at_once() -> None:
    value = document()
    value["audio"]["window"] = "long"
    value["motion"]["fps"] = "30/0"
    value["tensors"]["noise"]["dtype"] = "float23"
    value["stages"]["audio"]["inputs"]["wav"]["shape"] = [1, 0]
    del value["tensors"]["count"]["limit"]
    value["schedules"]["one"]["differs"] = -0.1
    value["tallkers"] = 1
    found = "\n".join(faults_of(value))
    for text in (
        "window",
        "30/0",
        "float23",
        "did you mean `float32`",
        "shape[1]",
        "limit",
        "`differs` is -0.1",
        "tallkers",
        "did you mean `talkers`",
    ):
        assert text in found


def test_exact_fractions_only() -> None:
    value = document()
    value["motion"]["fps"] = "30000/1001"
    assert read(value).motion.fps == Fraction(30000, 1001)
    value["motion"]["fps"] = 29.97
    assert "29.97" in faults_of(value)[0]


@pytest.mark.parametrize("version", [0, 3, 99])
def test_another_version_is_refused_before_anything_else(version: int) -> None:
    value = {"format": FORMAT, "version": version, "what": "ever"}
    assert "version" in faults_of(value)[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "{" * 5000])
def test_what_is_no_manifest_is_one_clear_fault(text: str) -> None:
    with pytest.raises(BundleError):
        parse(text, "toy")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(path=st.lists(st.sampled_from(sorted(description())), min_size=1, max_size=1), value=json_values)
def test_any_value_anywhere_is_a_fault_or_fits_but_never_a_crash(path: list[str], value: Any) -> None:
    changed = document(**{path[0]: value})
    found: list[str] = []
    try:
        found += contradictions(read(changed))
    except BundleError as error:
        found += error.faults
    assert all(isinstance(fault, str) and fault for fault in found)


def change(*path: str | int, to: Any) -> dict[str, Any]:
    value = document()
    place: Any = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (change("motion", "tensor", to="motoin"), "did you mean `motion`"),
        (change("motion", "names", to=["a"]), "1 names for 4 values"),
        (change("motion", "kind", to="arkit"), "at least the 52 shapes"),
        (change("program", 0, "stage", to="audoi"), "did you mean `audio`"),
        (change("program", 0, "every", to=3), "does not divide the audio block of 2"),
        (change("program", 1, "inputs", "feature", to="features"), "is float32[1,4], but `features` is float32[2,4]"),
        (change("program", 1, "inputs", "feature", to="@row"), "the step has no rows"),
        (change("program", 1, "inputs", "feature", to="features[phse]"), "none of `name`, `name[phase]`"),
        (change("program", 1, "inputs", to={}), "reads nothing"),
        (change("program", 2, "outputs", "x_next", to="noise"), "which nobody may write"),
        (change("program", 2, "carry", to={"x_next": "cnod"}), "is not an output and an input"),
        (change("program", 2, "rows", to=False), "has a carry from row to row, but no rows"),
        (change("program", 2, "outputs", "x_next", to=""), "`` is none of `name`"),
        (change("program", 3, "to", to="motion"), "not a whole number of its rows"),
        (change("program", 4, "inputs", "memory", to="memory_next"), "reads and writes `memory_next`"),
        (change("program", 5, "from", to="features"), "copies float32[2,4] to float32[1,4]"),
        (change("schedules", "one", "rank", to=0), "the same rank 0"),
        (change("schedules", "one", to={"rank": 1}), "schedule `one` has no table"),
        (change("schedules", "full", "file", to="ful.npy"), "did you mean `full.npy`"),
        (change("tensors", "setting", "default", to=[2.0, 0.0, 0.0, 0.0]), "default 2 outside 0 to 1"),
        (change("tensors", "heard", "shape", to=[2]), "float32[1] was wanted"),
        (change("audio", "window", to=800), "the audio contract wants float32[1,800]"),
        (change("program", 0, "schedules", to=["full"]), "before anything wrote it (schedule `one`)"),
        (change("precisions", to={"fp16": {"audoi": "a.onnx"}}), "did you mean `audio`"),
        (change("talkers", to=2), "for 2 talkers"),
    ],
)
def test_each_contradiction_is_found_and_named(value: dict[str, Any], text: str) -> None:
    found = contradictions(read(value))
    assert any(text in fault for fault in found), found


def test_all_contradictions_are_found_together() -> None:
    value = change("motion", "tensor", to="nothing")
    value["program"][0]["stage"] = "nobody"
    value["schedules"]["one"]["rank"] = 0
    assert len(contradictions(read(value))) >= 3
