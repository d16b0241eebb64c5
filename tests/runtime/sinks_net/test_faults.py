"""Receivers that die, never lived, cannot be named or stall: counted, retried, and the talker never waits."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from edgetalker.runtime.sinks.net import livelink, sender, vmc, vrchat
from edgetalker.runtime.sinks.net.livelink import LiveLinkEncoder, LiveLinkSink
from edgetalker.runtime.sinks.net.pump import Pump
from edgetalker.runtime.sinks.net.sender import NetworkSink, UdpSink
from edgetalker.runtime.sinks.sink import SinkStatistics
from tests.runtime.sinks_net.tools import LAYOUT, frame, read_live_link, receiver, sender_threads, until, unused_port
from tests.support.clock import FakeClock


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT_NS", 1_000_000)
    monkeypatch.setattr(sender, "LONGEST_WAIT_NS", 20_000_000)


def sinks(port: int, query: str = "") -> list[UdpSink]:
    return [
        livelink.from_url(f"livelink://127.0.0.1:{port}?{query}"),
        vmc.from_url(f"vmc://127.0.0.1:{port}?{query}"),
        vrchat.from_url(f"vrchat://127.0.0.1:{port}?{query}"),
    ]


def adds_up(sink: NetworkSink) -> bool:
    return sink.statistics.accounted == sink.statistics.frames


@pytest.mark.parametrize("query", ["", "rate=90"])
def test_a_port_that_nobody_listens_on_is_counted_and_harms_nobody(query: str) -> None:
    for sink in sinks(unused_port(), query):
        sink.open(LAYOUT)
        count = 0
        while sink.statistics.errors < 3:
            sink.send(frame(count))
            count += 1
            time.sleep(0.002)
            assert count < 5000, "a refused port was never noticed"
        sink.close()
        assert sink.statistics.frames == count
        assert adds_up(sink)
        assert "refused" in sink.statistics.last_error.lower()
    assert not sender_threads()


def test_a_receiver_that_dies_and_comes_back_gets_frames_again() -> None:
    with receiver() as first:
        port = first.getsockname()[1]
        sink = livelink.from_url(f"livelink://127.0.0.1:{port}")
        sink.open(LAYOUT)
        sink.send(frame(0))
        first.recv(2048)
    index = 1
    while sink.statistics.errors == 0:
        sink.send(frame(index))
        index += 1
        time.sleep(0.002)
        assert index < 5000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        second.bind(("127.0.0.1", port))
        second.settimeout(0.01)
        packet = None
        while packet is None:
            sink.send(frame(index))
            index += 1
            assert index < 10000, "the receiver that came back got nothing"
            try:
                packet = read_live_link(second.recv(2048))
            except TimeoutError:
                continue
    sink.close()
    assert packet.values[0] >= 1
    assert adds_up(sink)


def test_a_name_that_does_not_resolve_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as bound:
        real, asked, given = socket.getaddrinfo, list[object](), threading.Event()

        def getaddrinfo(host: str, port: int, **options: int) -> object:
            asked.append(host)
            if len(asked) < 4 or not given.is_set():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real("127.0.0.1", port, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        sink = livelink.from_url(f"livelink://avatar.invalid:{bound.getsockname()[1]}")
        sink.open(LAYOUT)
        for index in range(20):
            sink.send(frame(index))
        given.set()
        assert read_live_link(bound.recv(2048)).values[0] == 19  # what waited meanwhile was old
        sink.close()
    assert asked == ["avatar.invalid"] * len(asked)
    assert sink.statistics.errors == len(asked) - 1 >= 3
    assert "avatar.invalid" in sink.statistics.last_error
    assert (sink.statistics.sent, sink.statistics.dropped) == (1, 19)


def test_a_host_that_is_no_name_at_all_is_an_error_not_a_crash() -> None:
    sink = livelink.from_url("livelink://" + "a" * 70 + ".example")
    sink.open(LAYOUT)
    until(lambda: sink.statistics.errors > 0)
    sink.close()
    assert "not a host name" in sink.statistics.last_error


FIRST_WAIT_NS, LONGEST_WAIT_NS = sender.FIRST_WAIT_NS, sender.LONGEST_WAIT_NS


class Refusing(sender.UdpOutlet):
    """An outlet that can be reached only while `open` is set; `tries` are the times of `connect`, in ms."""

    def __init__(self, clock: list[int]) -> None:
        self.clock, self.tries, self.open = clock, list[float](), False

    def connect(self) -> None:
        self.tries.append(self.clock[0] * 1e-6)
        if not self.open:
            raise ConnectionRefusedError(111, "Connection refused")

    def send(self, packet: object) -> None:
        if not self.open:
            raise ConnectionRefusedError(111, "Connection refused")

    def close(self) -> None:
        pass


def test_it_backs_off_and_says_once_that_a_receiver_is_gone_and_once_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Driven by hand on a clock of its own, 10 ms a turn: when it tries is exact."""
    monkeypatch.setattr(sender, "FIRST_WAIT_NS", FIRST_WAIT_NS)
    monkeypatch.setattr(sender, "LONGEST_WAIT_NS", LONGEST_WAIT_NS)
    clock = [10**9]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock[0])
    outlet = Refusing(clock)
    pump = Pump(LAYOUT, vmc_encoder(), SinkStatistics(), rate=None, smooth=0.0, capacity=8)
    one = sender.Sender(pump, outlet, "vmc://avatar:39539")

    def turns(seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            pump.accept(frame(0), clock[0])
            if one._ready():
                one._send_due()
            clock[0] += 10_000_000

    turns(5)
    assert [at - 1000 for at in outlet.tries] == [0, 50, 150, 350, 750, 1550, 2550, 3550, 4550]
    assert [r.getMessage() for r in caplog.records] == [
        "vmc://avatar:39539 cannot be reached: Connection refused; trying again"
    ]
    outlet.open = True
    turns(3)
    assert len(outlet.tries) == 10
    assert caplog.records[-1].getMessage() == "vmc://avatar:39539 is back after 4.6 s"
    assert len(caplog.records) == 2
    outlet.open = False
    outlet.tries.clear()
    turns(1)
    assert [b - a for a, b in itertools.pairwise(outlet.tries)] == [100, 200, 400]  # it starts small again
    assert len(caplog.records) == 3


def test_what_a_receiver_answers_is_no_fault() -> None:
    with receiver() as bound:
        outlet = sender.UdpOutlet("127.0.0.1", bound.getsockname()[1])
        outlet.connect()
        for _ in range(3):
            outlet.send(b"packet")
            _, back = bound.recvfrom(2048)
            bound.sendto(b"a long answer", back)
        outlet.close()


@pytest.mark.parametrize(("rate", "waited"), [(90, []), (5, [0.15])])
def test_between_two_packets_of_a_rate_it_sleeps_on_the_clock(
    monkeypatch: pytest.MonkeyPatch, rate: int, waited: list[float]
) -> None:
    """An Event waits by Windows' ticks of 15.6 ms; only what is far off may be waited for so."""
    clock = FakeClock(10**9)
    monkeypatch.setattr(time, "perf_counter_ns", clock.now_ns)
    pump = pump_at(rate)
    one = sender.Sender(pump, Refusing([0]), "vmc://avatar:39539", clock)
    waits = list[float]()

    def wait(seconds: float | None = None) -> bool:
        assert seconds is not None
        waits.append(seconds)
        clock.advance(int(seconds * 1e9) + 15_000_000)
        return False

    monkeypatch.setattr(one._stop, "wait", wait)
    pump.accept(frame(0), clock.now_ns())
    one._connected = True
    assert pump.step(clock.now_ns())
    due = pump.wake_ns()
    one._idle()
    assert clock.now_ns() == due
    assert waits == pytest.approx(waited)


def test_a_sink_that_closes_need_not_wait_for_its_next_packet() -> None:
    clock = FakeClock(10**9)
    one = sender.Sender(pump_at(90), Refusing([0]), "vmc://avatar:39539", clock)
    one._stop.set()
    one._sleep_until(clock.now_ns() + 10**10)
    assert clock.now_ns() == 10**9


def pump_at(rate: int) -> Pump:
    return Pump(LAYOUT, vmc_encoder(), SinkStatistics(), rate=Fraction(rate), smooth=0.0, capacity=8)


def vmc_encoder() -> vmc.VmcEncoder:
    return vmc.VmcEncoder(LAYOUT, vmc.from_url("vmc://").endpoint.options, performer=True)


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["::1", "127.0.0.1"], ["127.0.0.1", "::1", "127.0.0.1"]),  # the usual hosts file; receivers listen on IPv4
        (["2001:db8::1", "192.0.2.1"], ["2001:db8::1", "192.0.2.1", "2001:db8::1"]),  # elsewhere the system's order
        (["192.0.2.1", "192.0.2.2"], ["192.0.2.1", "192.0.2.2", "192.0.2.1"]),
    ],
)
def test_each_address_of_a_name_is_tried_in_turn(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], order: list[str]
) -> None:
    tried: list[str] = []

    class Socket:
        def __init__(self, family: int, kind: int, protocol: int) -> None:
            self.family = family

        def connect(self, address: tuple[str, int]) -> None:
            assert (":" in address[0]) == (self.family == socket.AF_INET6)
            tried.append(address[0])

        def setsockopt(self, *_: object) -> None: ...

        def settimeout(self, _: float) -> None: ...

        def close(self) -> None: ...

    def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [(f, socket.SOCK_DGRAM, 17, "", (a, port)) for f, a in zip(families, addresses, strict=True)]

    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    outlet = sender.UdpOutlet("avatar", 39539)
    for _ in order:
        outlet.connect()
    assert tried == order


class Blocked:
    """An outlet whose network takes nothing until it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.packets = 0

    def connect(self) -> None:
        pass

    def send(self, packet: object) -> None:
        self.gate.wait(20)
        self.packets += 1

    def close(self) -> None:
        pass


def test_a_network_that_blocks_costs_old_frames_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = Blocked()
    monkeypatch.setattr("edgetalker.runtime.sinks.net.sender.UdpOutlet", lambda host, port: outlet)
    sink = livelink.from_url("livelink://127.0.0.1?queue=4")
    sink.open(LAYOUT)
    sink.send(frame(0))
    until(lambda: sink._pump is not None and len(sink._pump.queue) == 0)  # the sender hangs in frame 0
    for index in range(1, 1000):
        sink.send(frame(index))  # would never return if it waited
    assert sink.statistics.dropped == 995
    outlet.gate.set()
    sink.close()
    assert (sink.statistics.sent, outlet.packets) == (5, 5)
    assert adds_up(sink)


def test_close_returns_although_the_network_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = Blocked()
    monkeypatch.setattr("edgetalker.runtime.sinks.net.sender.UdpOutlet", lambda host, port: outlet)
    sink = livelink.from_url("livelink://127.0.0.1")
    sink.open(LAYOUT)
    sink.send(frame(0))
    until(lambda: sink._pump is not None and len(sink._pump.queue) == 0)
    monkeypatch.setattr(sender.Sender.close, "__defaults__", (0.05,))
    sink.close()
    assert sender_threads() == ["edgetalker-livelink"]
    outlet.gate.set()
    until(lambda: not sender_threads())


def test_a_fault_of_our_own_ends_the_sink_not_the_talker(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LiveLinkEncoder, values: object, stamp: object) -> object:
        raise KeyError("oops")

    monkeypatch.setattr(LiveLinkEncoder, "encode", broken)
    sink = livelink.from_url(f"livelink://127.0.0.1:{unused_port()}")
    sink.open(LAYOUT)
    sink.send(frame(0))
    until(lambda: not sender_threads())
    for index in range(1, 50):
        sink.send(frame(index))
    sink.close()
    assert "internal: KeyError" in sink.statistics.last_error
    assert adds_up(sink)


def test_what_waits_is_sent_at_close() -> None:
    with receiver() as bound:
        sink = livelink.from_url(f"livelink://127.0.0.1:{bound.getsockname()[1]}?queue=64")
        sink.open(LAYOUT)
        for index in range(40):
            sink.send(frame(index))
        sink.close()
        assert [read_live_link(bound.recv(2048)).values[0] for _ in range(40)] == list(range(40))
    assert sink.statistics.sent == 40


def test_a_fixed_rate_reaches_the_last_frame_before_it_closes() -> None:
    with receiver() as bound:
        sink = livelink.from_url(f"livelink://127.0.0.1:{bound.getsockname()[1]}?rate=90")
        sink.open(LAYOUT)
        sink.send(frame(0))
        bound.recv(2048)
        sink.send(frame(1))
        sink.close()
        bound.setblocking(False)
        last = read_live_link(bound.recv(2048))
        try:
            while True:
                last = read_live_link(bound.recv(2048))
        except BlockingIOError:
            pass
    assert last.values[0] == 1.0
    assert last.rate == 90
    assert adds_up(sink)


def test_close_without_open_and_twice() -> None:
    sink = LiveLinkSink(livelink.from_url("livelink://").endpoint)
    sink.close()
    sink.open(LAYOUT)
    sink.close()
    sink.close()
    assert not sender_threads()


def test_a_program_that_forgets_to_close_still_ends() -> None:
    program = (
        "from tests.runtime.sinks_net.tools import LAYOUT, frame\n"
        "from edgetalker.runtime.sinks.net import livelink, websocket\n"
        "for sink in (livelink.from_url('livelink://127.0.0.1:9'), websocket.from_url('ws://127.0.0.1:38765')):\n"
        "    sink.open(LAYOUT); sink.send(frame(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sending_allocates_nothing_that_lasts() -> None:
    import tracemalloc

    sink = livelink.from_url(f"livelink://127.0.0.1:{unused_port()}")
    sink.open(LAYOUT)
    one = frame(0, np.zeros(55, np.float32))
    for _ in range(200):
        sink.send(one)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(2000):
        sink.send(one)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    sink.close()
    assert grown < 20_000
