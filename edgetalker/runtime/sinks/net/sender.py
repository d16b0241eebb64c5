"""What all network sinks share: `send` copies a frame and returns; a thread sends, and waits out what fails."""

from __future__ import annotations

import logging
import socket
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence

from edgetalker.runtime.clock import Clock, SystemClock
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.net.pump import Encoder, Pump
from edgetalker.runtime.sinks.options import Endpoint
from edgetalker.runtime.sinks.sink import Sink, SinkStatistics
from edgetalker.runtime.web.admission import is_loopback

__all__ = ["NetworkSink", "Sender", "UdpOutlet", "UdpSink"]


class NetworkSink(Sink):
    """A sink with one worker thread, a bounded queue and counts. See SinkStatistics for what adds up."""

    def __init__(self, endpoint: Endpoint, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.endpoint = endpoint
        self.name = endpoint.url
        self.statistics = SinkStatistics()
        self._clock_ns = clock_ns
        self._pump: Pump | None = None

    def open(self, layout: MotionLayout) -> None:
        """Start sending. Raises OptionError when this layout or these names cannot be sent there."""
        options = self.endpoint.options
        self._pump = Pump(
            layout,
            self._encoder(layout),
            self.statistics,
            rate=options["rate"],
            smooth=options["smooth"],
            capacity=options["queue"],
        )
        self._start(self._pump)

    def send(self, frame: Frame) -> None:
        """Copy `frame` into the queue; never waits for the network."""
        assert self._pump is not None, "open() comes first"
        self._pump.accept(frame, self._clock_ns())
        self._notify()

    def shaping_ms(self, period_ms: float) -> float:
        """Return the delay that a fixed rate (one model frame of `period_ms`) and smoothing add, in ms."""
        options = self.endpoint.options
        return (period_ms if options["rate"] else 0.0) + 1e3 * float(options["smooth"])

    def close(self) -> None:
        """Send what waits and end the thread, within about two seconds."""
        if self._pump is not None:
            self._stop()
            self._pump.discard()
            self._pump = None

    @abstractmethod
    def _encoder(self, layout: MotionLayout) -> Encoder: ...

    @abstractmethod
    def _start(self, pump: Pump) -> None: ...

    @abstractmethod
    def _notify(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...


class UdpSink(NetworkSink):
    """A sink that sends datagrams to one host and port."""

    def _start(self, pump: Pump) -> None:
        outlet = UdpOutlet(self.endpoint.host, self.endpoint.port)
        self._sender = Sender(pump, outlet, self.name)
        self._sender.start()

    def _notify(self) -> None:
        self._sender.notify()

    def _stop(self) -> None:
        self._sender.close()


_log = logging.getLogger("edgetalker.outputs")
FIRST_WAIT_NS = 50_000_000
LONGEST_WAIT_NS = 1_000_000_000
ASLEEP_NS = 50_000_000
SEND_SECONDS = 0.1
LARGEST = 65_535  # bytes of a datagram


class UdpOutlet:
    """A connected UDP socket: so the system reports a refused port, after the packet that it refused or the next.

    Used from the sender's thread only; every fault is an OSError.
    Names are resolved here, in the sender's thread, because that may take seconds, and anew at each `connect`, because
    a name may be known later. Each `connect` takes the next of its addresses: `localhost` has two, and what this field
    sends to listens on IPv4, which therefore comes first on this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._tries = 0
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Get ready to send; called again after each fault."""
        self.close()
        try:
            found = socket.getaddrinfo(*self._to, type=socket.SOCK_DGRAM)
        except UnicodeError as fault:  # a name that no resolver can be asked for
            raise OSError(f"`{self._to[0]}` is not a host name") from fault
        except socket.gaierror as fault:
            raise OSError(f"cannot resolve `{self._to[0]}`: {fault.strerror}") from fault
        if all(is_loopback(str(address[0])) for *_, address in found):
            found.sort(key=lambda each: each[0] != socket.AF_INET)
        family, kind, protocol, _, address = found[self._tries % len(found)]
        self._tries += 1
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.settimeout(SEND_SECONDS)
        self._socket.connect(address)

    def send(self, packet: bytes | bytearray | str) -> None:
        assert self._socket is not None and not isinstance(packet, str)
        self._socket.send(packet)
        self._look_for_refusal(self._socket)

    def _look_for_refusal(self, connected: socket.socket) -> None:
        """Raise what the system knows of earlier packets: Windows tells who receives, and never who sends."""
        connected.settimeout(0)
        try:
            connected.recv(LARGEST)  # an answer is thrown away whole: Windows calls a part of one an error
        except BlockingIOError:
            pass
        finally:
            connected.settimeout(SEND_SECONDS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Sender:
    """One worker thread that drives a pump into an outlet until it is closed.

    After a fault it waits 50 ms, then twice as long each time up to 1 s, and goes on with the newest frame; the
    wait starts small again after a second without a fault. The first fault is told, and that it ended, with how long it
    lasted: UDP has no receipts, so a second without a refusal is the end. The talker's thread only ever calls `notify`.
    """

    def __init__(self, pump: Pump, outlet: UdpOutlet, name: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock(spin_ns=0)
        self._pump = pump
        self._outlet = outlet
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._connected = False
        self._wait_ns = FIRST_WAIT_NS
        self._retry_ns = 0
        self._failed_ns = 0
        self._lost_ns = 0
        self._name = name
        self._thread = threading.Thread(target=self._run, name=f"edgetalker-{name.partition(':')[0]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Say that a frame was queued."""
        self._wake.set()

    def close(self, timeout: float = 2.0) -> bool:
        """Send what waits, stop, and return whether the thread ended within `timeout` seconds.

        Only a name resolution that hangs keeps it; the thread is a daemon, so the process can still end.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._ready():
                    self._send_due()
                self._idle()
            self._finish()
        except Exception as fault:  # a fault of ours: the talker goes on without this sink, and the summary says so
            self._pump.settle(False, time.perf_counter_ns())
            self._pump.statistics.error(f"internal: {type(fault).__name__}: {fault}")
            _log.warning("%s is left out from now on: internal: %s: %s", self._name, type(fault).__name__, fault)
        finally:
            self._outlet.close()
            self._pump.discard()

    def _ready(self) -> bool:
        if self._connected:
            return True
        if time.perf_counter_ns() < self._retry_ns:
            return False
        try:
            self._outlet.connect()
        except OSError as fault:
            self._fail(fault)
            return False
        if self._failed_ns:
            self._pump.discard(keep=1)  # what waited through a fault is old
        self._connected = True
        return True

    def _send_due(self) -> None:
        while self._connected:
            packets = self._pump.step(time.perf_counter_ns())
            if packets is None:
                return
            self._deliver(packets)

    def _deliver(self, packets: Sequence[bytes | bytearray | str]) -> None:
        statistics = self._pump.statistics
        try:
            for packet in packets:
                self._outlet.send(packet)
                statistics.packets += 1
                statistics.bytes += len(packet)
        except OSError as fault:
            self._pump.settle(False, time.perf_counter_ns())
            self._fail(fault)
            return
        now = time.perf_counter_ns()
        self._pump.settle(True, now)
        if now - self._failed_ns > LONGEST_WAIT_NS:
            self._wait_ns = FIRST_WAIT_NS
            if self._lost_ns:
                _log.warning("%s is back after %.1f s", self._name, (self._failed_ns - self._lost_ns) * 1e-9)
                self._lost_ns = 0

    def _fail(self, fault: OSError) -> None:
        self._pump.statistics.error(fault)
        self._connected = False
        self._failed_ns = time.perf_counter_ns()
        if not self._lost_ns:
            self._lost_ns = self._failed_ns
            _log.warning("%s cannot be reached: %s; trying again", self._name, fault.strerror or fault)
        self._retry_ns = self._failed_ns + self._wait_ns
        self._wait_ns = min(2 * self._wait_ns, LONGEST_WAIT_NS)

    def _idle(self) -> None:
        until = self._pump.wake_ns() if self._connected else self._retry_ns
        if until is not None:
            self._sleep_until(until)
            return
        self._wake.wait()
        self._wake.clear()

    def _sleep_until(self, until: int) -> None:
        """Sleep on the clock: an Event waits by Windows' ticks of up to 15.6 ms, too coarse for 90 packets a second.

        Only the last of a long wait, since what sleeps cannot be woken when the sink closes.
        """
        left = until - ASLEEP_NS - self._clock.now_ns()
        if left <= 0 or not self._stop.wait(left * 1e-9):
            self._clock.sleep_until_ns(until)

    def _finish(self) -> None:
        """Send what waits; with a rate, go on until the last frame is reached, which takes two frames at most."""
        until = time.perf_counter_ns() + 2 * self._pump.period_ns
        while self._connected:
            self._send_due()
            due = self._pump.wake_ns()
            if due is None or due > until or self._pump.at_rest:
                return
            time.sleep(max(due - time.perf_counter_ns(), 0) * 1e-9)
