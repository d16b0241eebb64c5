"""What all network sinks share: `send` copies a frame and returns; a thread does the rest."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.options import Endpoint
from edgetalker.runtime.sinks.pump import Encoder, Pump
from edgetalker.runtime.sinks.sender import Sender, UdpOutlet
from edgetalker.runtime.sinks.statistics import SinkStatistics

__all__ = ["NetworkSink", "UdpSink"]


class NetworkSink(ABC):
    """A sink with one worker thread, a bounded queue and counts. See SinkStatistics for what adds up."""

    def __init__(self, endpoint: Endpoint, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.endpoint = endpoint
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

    scheme = "udp"

    def _start(self, pump: Pump) -> None:
        outlet = UdpOutlet(self.endpoint.host, self.endpoint.port)
        self._sender = Sender(pump, outlet, self.scheme)
        self._sender.start()

    def _notify(self) -> None:
        self._sender.notify()

    def _stop(self) -> None:
        self._sender.close()
