"""Options of every network sink are read strictly, from a URL and from a table alike."""

from __future__ import annotations

from fractions import Fraction

import pytest

from edgetalker.engines.errors import OptionError
from edgetalker.outputs import sink_for
from edgetalker.runtime.sinks.names import NameMap
from edgetalker.runtime.sinks.options import frame_rate
from tests.runtime.sinks_net.tools import LAYOUT


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("vmc://?names=perfectsinc", "did you mean `perfectsync`"),
        ("vmc://?bones=all", "one of none, head"),
        ("vmc://?map=JawOpen:A*strong", "gain"),
        ("vmc://?map=JawOpen:A*99", "gain"),
        ("vrchat://?combined=maybe", "yes or no"),
        ("vrchat://?gaze=200", "from 0 to 90"),
        ("vrchat://?gaze=wide", "from 0 to 90"),
        ("vrchat://?prefix=a b", "address part"),
        ("vrchat://?rate=fast", "frames a second"),
        ("vrchat://?smooth=-1", "0 to 1 s"),
        ("ws://?format=xml", "json, binary"),
        ("ws://?origin=example.org", "origins"),
        ("ws://?clients=many", "whole number"),
        ("ws://?stall=0", "from 0.1"),
        ("livelink://?subject=%07", "text"),
        ("livelink://user@host", "form"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_wanted(url: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        sink_for(url)


@pytest.mark.parametrize(
    "table",
    [{"map": ["JawOpen"]}, {"map": {"JawOpen": 3}}, {"queue": True}, {"subject": 3}, {"rate": []}, {"smooth": None}],
)
def test_a_table_is_read_as_strictly(table: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(table))):
        sink_for("livelink://", table)


@pytest.mark.parametrize("names", [5, None, {"vrm0": 1}, [5]])
def test_words_are_a_text_or_a_list(names: object) -> None:
    with pytest.raises(OptionError, match="names"):
        sink_for("vmc://", {"names": names})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("29.97", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        ("2997/100", Fraction(2997, 100)),
        ("60", Fraction(60)),
        ("29.5", Fraction(59, 2)),
    ],
)
def test_rates_of_television_are_exact(written: str, meant: Fraction) -> None:
    """SMPTE ST 12-1 and ST 2059-1: N * 1000 / 1001; a fraction is taken at its word."""
    assert frame_rate(written) == meant
    assert sink_for(f"livelink://?rate={written}").endpoint.options["rate"] == meant  # type: ignore[attr-defined]


def test_an_address_that_is_none_is_told() -> None:
    for url in ("vmc://[::1", "ws://[::1", "view://[x", "livelink://h:port", "vmc://h:0"):
        with pytest.raises(OptionError):
            sink_for(url)


def test_values_in_all_their_forms() -> None:
    assert sink_for("livelink://?rate=model&smooth=0.02s").endpoint.options["smooth"] == 0.02  # type: ignore[attr-defined]
    options = sink_for("vrchat://", {"rate": 59.94, "combined": False, "smooth": "15ms"}).endpoint.options  # type: ignore[attr-defined]
    assert (options["rate"], options["combined"], options["smooth"]) == (Fraction(60000, 1001), False, 0.015)
    names = sink_for("vmc://", {"names": ["vrm0", "vrm1"]}).endpoint.options["names"]  # type: ignore[attr-defined]
    assert names == ("vrm0", "vrm1")


def test_an_empty_choice_of_names_is_refused_at_open() -> None:
    with pytest.raises(OptionError, match="nothing to send"):
        sink_for("vmc://?names=").open(LAYOUT)


def test_a_map_can_exchange_two_names_but_not_merge_them() -> None:
    exchanged = NameMap.read("A:B,B:A*2").select(["A", "B", "C"], "test")
    assert exchanged.names == ("B", "A", "C")
    assert exchanged.gains.tolist() == [1, 2, 1]
    with pytest.raises(OptionError, match="two values as `B`") as caught:
        NameMap.read("A:B").select(["A", "B"], "test")
    assert "map=B:" in str(caught.value)
