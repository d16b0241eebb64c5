"""What a target means, on a machine with a GPU and on one without."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.engines.machine import Gpu, NoGpu
from edgetalker.engines.targets import RTX, Target, parse_target, targets_for

NONE = NoGpu("there is no NVIDIA driver")
ORIN = Gpu("Orin", "sm87", 8 << 30, "12.6")
RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", "sm86", 12 << 30, "13.0")


@given(st.sets(st.sampled_from(RTX), min_size=1))
def test_named_targets_need_no_gpu_and_have_one_spelling(names: set[str]) -> None:
    target = parse_target("rtx:" + ",".join(names), NONE, ())
    assert set(target.capabilities) == names
    assert target == parse_target(" RTX:" + ", ".join(reversed(target.capabilities)).upper(), NONE, ())
    assert parse_target(str(target), NONE, ()) == target
    assert all(target.covers(name) == (name in names) for name in RTX)


def test_capabilities_are_in_numeric_order() -> None:
    assert parse_target("rtx:sm120,sm75,sm86", NONE, ()).slug == "sm75-sm86-sm120"


def test_a_bare_flavour_means_this_machine() -> None:
    assert parse_target("rtx", RTX_3060, ("rtx",)) == Target("rtx", ("sm86",))
    assert parse_target("tensorrt", ORIN, ("tensorrt",)) == Target("tensorrt", ("sm87",))


def test_auto_prefers_full_tensorrt() -> None:
    assert parse_target("auto", RTX_3060, ("tensorrt", "rtx")).flavour == "tensorrt"
    assert parse_target("auto", RTX_3060, ("rtx",)).flavour == "rtx"


def test_auto_without_any_tensorrt_says_how_to_get_one() -> None:
    with pytest.raises(OptionError, match="neither TensorRT nor TensorRT-RTX") as caught:
        parse_target("auto", RTX_3060, ("lean",))
    assert caught.value.hint is not None
    assert "edgetalker[rtx]" in caught.value.hint


@pytest.mark.parametrize(("text", "cure"), [("rtx", "rtx:sm86"), ("tensorrt", "machine that will play it")])
def test_this_machine_without_a_gpu_is_an_error_with_a_cure(text: str, cure: str) -> None:
    with pytest.raises(DeviceError, match="there is no NVIDIA driver") as caught:
        parse_target(text, NONE, ("rtx", "tensorrt"))
    assert cure in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rtx:sm87", "no `sm87`"),
        ("rtx:sm68", "did you mean"),
        ("rtx:", "TensorRT-RTX has no ``"),
        ("rtx:sm86,,sm89", "TensorRT-RTX has no ``"),
        ("rtx:portable,sm86", "no `portable`"),
        ("tensort", "did you mean `tensorrt`"),
        ("", "unknown target ``"),
        ("tensorrt:sm86", "only TensorRT-RTX builds for a GPU that is not in this machine"),
        ("auto:sm86", "only TensorRT-RTX"),
    ],
)
def test_wrong_targets_are_named(text: str, part: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_target(text, RTX_3060, ("rtx",))
    assert part in caught.value.message


def test_a_jetson_is_sent_to_its_own_tensorrt() -> None:
    with pytest.raises(OptionError, match="no `sm87`; it has") as caught:  # not "did you mean sm89", another card
        parse_target("rtx:sm87", RTX_3060, ("rtx",))
    assert "`--target tensorrt`" in str(caught.value.hint)


def test_portable_runs_from_ampere_on() -> None:
    portable = parse_target("rtx:portable", NONE, ())
    assert [name for name in RTX if portable.covers(name)] == ["sm80", "sm86", "sm89", "sm120", "sm121"]
    assert portable.covers("sm90")  # which TensorRT-RTX does not name: it is asked when the plan is opened
    hopper = Gpu("Test sm90", "sm90", 8 << 30, "13.0")
    assert parse_target("rtx", hopper, ("rtx",)) == portable


def test_fp8_is_built_card_by_card_and_refused_for_older_ones_beforehand() -> None:
    both = parse_target("rtx:sm89,sm120", NONE, ())
    assert targets_for(both, "fp8") == [Target("rtx", ("sm89",)), Target("rtx", ("sm120",))]
    assert targets_for(both, "int8") == [both]
    with pytest.raises(OptionError, match="FP8 runs on sm89 and newer, not on sm75, sm86") as caught:
        targets_for(parse_target("rtx:sm75,sm86,sm120", NONE, ()), "fp8")
    assert "--target rtx:sm120" in str(caught.value.hint)
