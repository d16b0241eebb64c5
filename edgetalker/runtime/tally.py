"""What became of the frames that were due: counted so that nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetalker.runtime.frame import Frame, Outcome

__all__ = ["Tally"]


@dataclass
class Tally:
    """Counts of one run. `due` counts frame slots; it always equals the sum over the outcomes.

    schedules: frames made by each schedule. stalls: steps that the watchdog found hanging. broken: frames whose
    motion was NaN or Inf; they are held, and the model's states are put back to their start. resets: times the talker
    began anew. interrupted: the run ended by a signal or `stop`. first_frame_ns: from the first
    sound that came to the first frame handed to the sinks. latest_ns: the worst lateness of a frame.
    """

    due: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    schedules: dict[str, int] = field(default_factory=dict)
    stalls: int = 0
    broken: int = 0
    resets: int = 0
    interrupted: bool = False
    first_frame_ns: int | None = None
    latest_ns: int = 0

    def count(self, frame: Frame) -> None:
        """Count one due frame by its outcome."""
        self.due += 1
        self.outcomes[frame.outcome] += 1
        if frame.outcome in (Outcome.ON_TIME, Outcome.LATE):
            self.schedules[frame.schedule] = self.schedules.get(frame.schedule, 0) + 1
        if frame.outcome is Outcome.LATE:
            self.latest_ns = max(self.latest_ns, frame.done_ns - frame.due_ns)

    @property
    def made(self) -> int:
        """Frames that were computed."""
        return self.outcomes[Outcome.ON_TIME] + self.outcomes[Outcome.LATE]

    @property
    def balanced(self) -> bool:
        """Whether every due frame has exactly one outcome."""
        return self.due == sum(self.outcomes.values())

    def summary(self) -> str:
        """Return one line for people, such as `300 frames due: 298 on time, 2 late (worst 1.2 ms)`."""
        parts = []
        for outcome, count in self.outcomes.items():
            if count or outcome is Outcome.ON_TIME:
                worst = f" (worst {self.latest_ns / 1e6:.1f} ms)" if outcome is Outcome.LATE else ""
                parts.append(f"{count} {outcome.value.replace('_', ' ')}{worst}")
        if self.stalls:
            parts.append(f"{self.stalls} stalls")
        if self.broken:
            parts.append(f"{self.broken} with NaN or Inf, held")
        return f"{self.due} frames due: {', '.join(parts)}"
