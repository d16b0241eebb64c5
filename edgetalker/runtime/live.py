"""A talker on the clock into sinks, and what a conversation needs of it: reset, flush, silence for lost sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgetalker.runtime.clock import Clock, Durations, SystemClock
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.loop import Loop, Observer, Options, Tally
from edgetalker.runtime.sinks.net.sender import NetworkSink
from edgetalker.runtime.sinks.play import Player, player_for
from edgetalker.runtime.sinks.sink import Sink, SinkStatistics
from edgetalker.runtime.sources.live import LiveSource
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.sources.values import InputSource
from edgetalker.runtime.talker import Talker

__all__ = ["DelayMeter", "Delays", "Live", "LiveReport", "LiveSource"]


@dataclass(frozen=True)
class Delays:
    """Medians in milliseconds, and with `p95` the 95th percentile of the whole.

    frame: half a frame, from the middle of a frame's sound to its end. lookahead: the bundle's, with its blocks, their
    spread and what its motion is behind. capture: from a sample's own time to its arrival here (packets; not what a
    sound card holds before it hands them on). wait: until the step began. compute: the step. send: from the sink's
    `send` to the packet's leaving. shaping: what the sink's options add: one model frame at a fixed rate, the time
    constant of the smoothing.
    """

    frame: float
    lookahead: float
    capture: float
    wait: float
    compute: float
    send: float
    shaping: float
    p95: float

    @property
    def total(self) -> float:
        """From the middle of a frame's sound to its packet."""
        return self.frame + self.lookahead + self.capture + self.wait + self.compute + self.send + self.shaping

    def __str__(self) -> str:
        parts = (
            f"half a frame {self.frame:.1f} + look-ahead {self.lookahead:.1f} + capture {self.capture:.1f} + "
            f"wait {self.wait:.1f} + compute {self.compute:.1f} + send {self.send:.2f}"
        ) + (f" + rate and smoothing {self.shaping:.1f}" if self.shaping else "")
        return f"sound to packet {self.total:.1f} ms median (95 %: {self.p95:.1f} ms) = {parts}"


class DelayMeter(Observer):
    """Measures on the clock of the run, from the times that each frame brings."""

    def __init__(self, talker: Talker) -> None:
        audio, fps = talker.manifest.audio, talker.manifest.motion.fps
        self._period_ms = 1e3 / float(fps)
        frames = audio.block - 1 + audio.spread + talker.manifest.motion.delay
        self._lookahead_ms = 1e3 * audio.lookahead / audio.rate + frames * self._period_ms
        self.capture, self.wait, self.compute, self.measured = Durations(), Durations(), Durations(), Durations()

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Note when a frame's sound came, and when it was begun and done."""
        if frame.outcome not in (Outcome.ON_TIME, Outcome.LATE):
            return
        # A frame of a block is due with its turn, not with the block's sound; hence not the sample's own time.
        self.capture.add(max(frame.heard_ns - frame.slot_ns, 0))
        self.wait.add(max(start_ns - max(frame.heard_ns, frame.slot_ns), 0))
        self.compute.add(frame.done_ns - start_ns)
        self.measured.add(frame.done_ns - frame.slot_ns)

    def delays(self, send: Durations | None = None, shaping: float = 0.0) -> Delays | None:
        """Return the parts, with the delays of a sink (`shaping` in ms); None when nothing was measured."""
        if not self.compute.count:
            return None
        sent, sent95 = (send.percentile_ms(50), send.percentile_ms(95)) if send and send.count else (0.0, 0.0)
        fixed = self._period_ms / 2 + self._lookahead_ms
        return Delays(
            self._period_ms / 2,
            self._lookahead_ms,
            self.capture.percentile_ms(50),
            self.wait.percentile_ms(50),
            self.compute.percentile_ms(50),
            sent,
            shaping,
            fixed + shaping + self.measured.percentile_ms(95) + sent95,
        )


@dataclass(frozen=True)
class LiveReport:
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
        talker: Talker,
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
        inputs: Iterable[InputSource] = (),
        play: str | Player | None = None,
        sync: float = 0.0,
    ) -> None:
        """The arguments are those of Loop; for `paced` and `patience` see LiveSource.

        play: where the sound is played in step with the frames (see `player_for`), `sync` seconds after they leave.
        Raises OptionError, and DeviceError without a card to play on.
        """
        self.clock = clock or SystemClock()
        self.source = LiveSource(source, self.clock, patience=patience, paced=paced)
        self.player = player_for(play, sync=sync) if isinstance(play, str) else play
        self.sinks = (*sinks, *([] if self.player is None else [self.player]))
        self.meter = DelayMeter(talker)
        if rest and talker.rest is None:
            talker.rest = talker.mouth_rest()
        self.loop = Loop(
            talker,
            self.source,
            self.sinks,
            options=replace(options or Options(), realtime=True),
            clock=self.clock,
            observers=[self.meter, *observers],
            ladder=ladder,
            inputs=inputs,
        )
        for sink in self.sinks:  # a viewer, whose page has sliders and a button to begin anew
            sink.attach(talker, self)

    def run(self) -> LiveReport:
        """Play until the sound ends, the limit is reached or `stop` is called; sinks are closed in every case."""
        tally = self.loop.run()
        senders = {sink.name: sink for sink in self.sinks if isinstance(sink, NetworkSink)}
        counts = {name: sink.statistics for name, sink in senders.items()}
        period_ms = 1e3 / float(self.loop.talker.manifest.motion.fps)
        delays = {
            name: self.meter.delays(sink.statistics.delay, sink.shaping_ms(period_ms)) for name, sink in senders.items()
        }
        first = tally.first_frame_ns
        return LiveReport(tally, delays or {"": self.meter.delays()}, counts, None if first is None else first * 1e-6)

    def stop(self) -> None:
        """End the run after the frame in hand."""
        self.loop.stop()

    def reset(self) -> None:
        """Barge-in: forget the sound that waits and what was said, and begin anew with the next frame."""
        self.source.forget()
        self.loop.reset()

    @property
    def position(self) -> float:
        """Second of the sound since the reset that can be heard now; without `play`, the end of what was heard."""
        return self.loop.talker.position if self.player is None else self.player.position

    def flush(self) -> None:
        """The utterance ended: its last frames come when they are due, as if silence followed, without more sound."""
        self.source.finish()
