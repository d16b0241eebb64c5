"""A talker on the clock into sinks, and what a conversation needs of it: reset, flush, silence for lost sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgetalker.runtime.clock import Clock, SystemClock
from edgetalker.runtime.delay import DelayMeter, Delays
from edgetalker.runtime.frame import Sink, Source
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.loop import Loop, Observer, Options
from edgetalker.runtime.session import Session
from edgetalker.runtime.sinks.net.sender import NetworkSink
from edgetalker.runtime.sinks.rest import RestStage
from edgetalker.runtime.sinks.sink import SinkStatistics
from edgetalker.runtime.sources.live import LiveSource
from edgetalker.runtime.tally import Tally

__all__ = ["Live", "LiveSource", "Report"]


@dataclass(frozen=True)
class Report:
    """What a live run did: the tally, the delay in parts by sink (None without a measured frame), the sinks' counts."""

    tally: Tally
    delays: dict[str, Delays | None]
    sinks: dict[str, SinkStatistics]
    first_frame_ms: float | None


class Live:
    """One talker on the clock: a live source in, any number of sinks out, the mouth at rest in silence.

    `run` plays in the caller's thread; `stop`, `reset` and `flush` may come from any other, or from a signal.
    """

    def __init__(
        self,
        session: Session,
        source: Source,
        sinks: Sequence[Sink],
        *,
        options: Options | None = None,
        clock: Clock | None = None,
        rest: bool = True,
        paced: bool = False,
        patience: float = 0.25,
        observers: Iterable[Observer] = (),
        ladder: Ladder | None = None,
    ) -> None:
        """The arguments are those of Loop; for `paced` and `patience` see LiveSource. Raises OptionError."""
        self.clock = clock or SystemClock()
        self.source = LiveSource(source, self.clock, patience=patience, paced=paced)
        self.sinks = tuple(sinks)
        self.meter = DelayMeter(session, self.clock)
        outputs: Sequence[Sink] = [RestStage(self.sinks, source.rate)] if rest else self.sinks
        self.loop = Loop(
            session,
            self.source,
            outputs,
            options=replace(options or Options(), realtime=True),
            clock=self.clock,
            observers=[self.meter, *observers],
            ladder=ladder,
        )
        for sink in self.sinks:  # a viewer, whose page has sliders and a button to begin anew
            sink.attach(session, self)

    def run(self) -> Report:
        """Play until the sound ends, the limit is reached or `stop` is called; sinks are closed in every case."""
        tally = self.loop.run()
        senders = {sink.endpoint.url: sink for sink in self.sinks if isinstance(sink, NetworkSink)}
        counts = {name: sink.statistics for name, sink in senders.items()}
        period_ms = 1e3 / float(self.loop.session.manifest.motion.fps)
        delays = {
            name: self.meter.delays(sink.statistics.delay, sink.shaping_ms(period_ms)) for name, sink in senders.items()
        }
        first = tally.first_frame_ns
        return Report(tally, delays or {"": self.meter.delays()}, counts, None if first is None else first * 1e-6)

    def stop(self) -> None:
        """End the run after the frame in hand."""
        self.loop.stop()

    def reset(self) -> None:
        """Barge-in: forget the sound that waits and what was said, and begin anew with the next frame."""
        self.source.forget()
        self.loop.reset()

    def flush(self) -> None:
        """The utterance ended: its last frames come when they are due, as if silence followed, without more sound."""
        self.source.finish()
