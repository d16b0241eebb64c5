"""The newest of a stream for many readers; takes; what goes over the wire."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import Outcome
from edgetalker.viewer.ring import Ring
from edgetalker.viewer.stream import LIVE_FRAMES, Reader, Stream
from edgetalker.viewer.wire import parse_request, read_request, shown
from tests.viewer.pages import ARKIT, frame


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(1, 9), st.integers(1, 5))
def test_a_reader_gets_everything_in_order_or_knows_how_much_it_missed(
    bursts: list[int], limit: int, most: int
) -> None:
    ring: Ring[int] = Ring(limit)
    cursor = written = missed = 0
    got: list[int] = []
    for burst in bursts:
        for _ in range(burst):
            ring.append(written)
            written += 1
        things, cursor, gone = ring.since(cursor, most)
        got += things
        missed += gone
        assert len(things) <= most
    while cursor < ring.end:
        things, cursor, gone = ring.since(cursor, most)
        got += things
        missed += gone
    assert got == sorted(set(got))
    assert len(got) + missed == written
    assert got[-min(limit, written) :] == list(range(written))[-min(limit, written) :]


def test_what_was_dropped_and_what_was_read_add_up() -> None:
    ring: Ring[int] = Ring(4)
    for k in range(10):
        ring.append(k)
    assert ring.since(0, 3) == ([6, 7, 8], 9, 6)
    assert ring.since(9, 3) == ([9], 10, 0)
    assert ring.since(10, 3) == ([], 10, 0)


def clip(count: int) -> Stream:
    stream = Stream("clip", "a <b>title</b>")
    stream.describe(ARKIT)
    for index in range(count):
        stream.frame(shown(frame(index)))
    return stream


def indexes(messages: list[str | bytes]) -> list[int]:
    found: list[int] = []
    for message in messages:
        if isinstance(message, bytes) and message[:4] == b"ETV1":
            count = struct.unpack_from("<I", message, 8)[0]
            found += np.frombuffer(message, "<u4", count, 16 + 8 * count).tolist()
    return found


def drain(reader: Reader) -> list[str | bytes]:
    messages = reader.messages()
    while reader.behind:
        messages += reader.messages()
    return messages


def test_nothing_is_said_before_it_is_known_what_is_shown() -> None:
    assert Reader(Stream("live")).messages() == []


def test_a_late_page_gets_a_whole_clip_in_bounded_pieces() -> None:
    messages = drain(Reader(clip(3000)))
    first = json.loads(messages[0])
    assert first["type"] == "hello"
    assert first["layout"] == {"kind": "arkit", "names": list(ARKIT.names), "fps": [25, 1], "count": 55}
    assert indexes(messages) == list(range(3000))
    assert max(len(m) for m in messages) < 150_000


def test_a_slow_page_of_a_live_talker_misses_the_oldest_and_counts_them() -> None:
    stream = Stream("live")
    stream.describe(ARKIT)
    reader = Reader(stream)
    for index in range(LIVE_FRAMES + 36):
        stream.frame(shown(frame(index)))
    assert indexes(drain(reader)) == list(range(36, LIVE_FRAMES + 36))
    assert reader.dropped == 36


def test_every_frame_due_has_one_outcome_and_gaps_are_skipped_frames() -> None:
    stream = Stream("live")
    stream.describe(ARKIT)
    for index, outcome in ((0, Outcome.ON_TIME), (1, Outcome.LATE), (4, Outcome.HELD), (5, Outcome.ON_TIME)):
        stream.frame(shown(frame(index, outcome)))
    assert stream.status()["outcomes"] == {"on_time": 2, "late": 1, "held": 1, "skipped": 2, "starved": 0}


def test_a_starved_frame_comes_again_and_is_no_new_take() -> None:
    stream = Stream("live")
    stream.describe(ARKIT)
    for index, outcome in ((0, Outcome.ON_TIME), (1, Outcome.STARVED), (1, Outcome.ON_TIME)):
        stream.frame(shown(frame(index, outcome)))
    assert stream.status()["take"] == 0
    assert stream.status()["outcomes"]["skipped"] == 0


def test_an_index_that_goes_back_begins_a_new_take_for_all_pages() -> None:
    stream = clip(20)
    reader = Reader(stream)
    drain(reader)
    stream.frame(shown(frame(0)))
    messages = drain(reader)
    assert json.loads(messages[0]) == {"type": "take", "take": 1}
    assert indexes(messages) == [0]
    assert stream.status()["outcomes"]["on_time"] == 1


def test_the_shown_frame_is_a_copy() -> None:
    motion = np.zeros(55, np.float32)
    kept = shown(frame(0, motion=motion))
    motion[:] = 1
    assert not kept.values.any()
    assert math.isnan(kept.late_ms)  # it had no deadline


def test_sound_is_numbered_by_its_first_sample() -> None:
    stream = Stream("live")
    stream.describe(ARKIT)
    reader = Reader(stream)
    stream.sound(np.ones(160, np.float32), 16000)
    stream.sound(np.zeros(80, np.float32), 16000)
    sounds = [m for m in reader.messages() if isinstance(m, bytes)]
    assert [struct.unpack_from("<4sIIId", m)[2:] for m in sounds] == [(16000, 160, 0.0), (16000, 80, 160.0)]
    assert np.frombuffer(sounds[0], "<f4", 160, 24).tolist() == [1.0] * 160


def test_a_control_is_read() -> None:
    request = read_request({"type": "set", "control": "emotion", "values": {"joy": 0.5, "anger": 1}})
    assert (request.type, request.name, request.values) == ("set", "emotion", {"joy": 0.5, "anger": 1.0})
    assert read_request({"type": "reset"}).type == "reset"


@pytest.mark.parametrize(
    "text",
    [
        b"{}", "", "[]", "nonsense", '{"type": "shutdown"}', '{"type": ["set"]}', '{"type": "set"}',
        '{"type": "set", "control": "emotion", "values": {"joy": "much"}}',
        '{"type": "set", "control": "emotion", "values": {"joy": NaN}}',
        '{"type": "set", "control": "emotion", "values": {"joy": true}}',
        '{"type": "set", "control": "emotion", "values": {"joy": 1' + 400 * "0" + "}}",
        '{"type": "set", "control": 7, "values": {"joy": 1}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(text: Any) -> None:
    with pytest.raises(OptionError):
        read_request(parse_request(text))


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_no_text_breaks_the_reader(text: str | bytes) -> None:
    with contextlib.suppress(OptionError):
        assert read_request(parse_request(text)).type in ("set", "reset", "say")
