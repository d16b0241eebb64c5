"""Work that is due once a block, done piece by piece in the frames before its result is needed.

A block of m frames that costs 300 ms at its first frame makes that frame late. With a spread of s frames the block's
sound is complete s frames before: its pieces run in the slack of those frames, after each was handed over, on inputs
held since then; at the block's border the results are shown to the frames. Which piece runs in which slot is fixed from
measured costs before the first frame. A piece longer than an eighth of a slot's slack runs on a thread of its own
(host), beside the frames, or one longer than half of it where those would be too many for the spread; a GPU's queue has
one order, there it delays them, and the plan says so.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.clock import SampleClock
from edgetalker.runtime.program import Group, Replay

__all__ = ["Aside", "Plan", "Spread"]

Fill = Callable[[int, "NDArray[np.float32] | None"], None]
"""Fills and uploads what a block that begins with frame `index` hears: of what was heard, or of this window."""

_MARGINS = (8, 2)
"""How many times as long as it was when it was measured a piece may become before it delays the next frame: what else
a machine does is seen to make it so. The larger margin where its plan fits."""


@dataclass(frozen=True)
class Plan:
    """Which piece runs in which slot. labels, costs (ns): of each piece. slots: where each begins, ascending. long:
    pieces that run beside the frames. fits: whether all of them are done before they are needed."""

    labels: tuple[str, ...]
    costs: tuple[int, ...]
    slots: tuple[int, ...]
    long: frozenset[int]
    fits: bool

    @classmethod
    def of(cls, labels: Sequence[str], costs: Sequence[int], slots: int, slack_ns: float, period_ns: int) -> Plan:
        """Deal pieces out in order so that the fullest of `slots` slots holds as little as it can.

        slack_ns: what a slot has left beside its frame.
        """
        for margin in _MARGINS:
            plan = cls._within(margin, labels, costs, slots, slack_ns, period_ns)
            if plan.fits:
                break
        return plan

    @classmethod
    def _within(
        cls, margin: int, labels: Sequence[str], costs: Sequence[int], slots: int, slack_ns: float, period_ns: int
    ) -> Plan:
        long = frozenset(i for i, cost in enumerate(costs) if margin * cost > slack_ns)
        low = max([cost for i, cost in enumerate(costs) if i not in long], default=0)
        high = max(low, int(slack_ns))
        while low < high:
            middle = (low + high) // 2
            if _deal(costs, long, middle, period_ns)[1] <= slots:
                high = middle
            else:
                low = middle + 1
        places, needed = _deal(costs, long, high, period_ns)
        fitted = tuple(min(place, slots - 1) for place in places)
        return cls(tuple(labels), tuple(costs), fitted, long, needed <= slots)

    def until(self, slot: int) -> int:
        """Return how many pieces have begun by the end of a slot."""
        return bisect.bisect_right(self.slots, slot)

    def lines(self) -> list[str]:
        """Return the plan for people, a line a slot that does something."""
        found = []
        for slot in sorted(set(self.slots)):
            here = [i for i, place in enumerate(self.slots) if place == slot]
            parts = [
                f"{self.labels[i]} {self.costs[i] / 1e6:.1f} ms{' beside the frames' if i in self.long else ''}"
                for i in here
            ]
            found.append(f"slot {slot}: {', '.join(parts)}")
        if not self.fits:
            found.append("the pieces do not fit into the spread: the block's first frame waits for them")
        return found


def _deal(costs: Sequence[int], long: frozenset[int], room: int, period_ns: int) -> tuple[list[int], int]:
    """Return each piece's slot when a slot holds `room` ns, and how many slots that takes."""
    places, slot, left = [], 0, room
    for i, cost in enumerate(costs):
        if i in long:
            slot += left < room
            places.append(slot)
            slot, left = slot - (-cost // period_ns), room
            continue
        if cost > left:
            slot, left = slot + 1, room
        places.append(slot)
        left -= cost
    return places, slot + (left < room)


class Aside:
    """One thread that runs one piece at a time beside the frames. It starts with the first piece."""

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(1, "edgetalker-aside")
        self._piece: futures.Future[None] | None = None

    def busy(self) -> bool:
        """Return whether a piece is still running."""
        return self._piece is not None and not self._piece.done()

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on the thread, after what runs there now."""
        self.join()
        self._piece = self._thread.submit(work)

    def join(self) -> None:
        """Wait until nothing runs. Raises what the piece raised."""
        if (piece := self._piece) is not None:
            futures.wait([piece])  # an interrupt leaves it known as running
            self._piece = None
            piece.result()

    def close(self) -> None:
        """End the thread after the piece in hand. Without it, it ends when nobody has this object any more."""
        self._thread.shutdown()


class Spread:
    """The groups of one talker that are spread: what of the next block is done, and what comes next.

    done: pieces of the next block that were begun, -1 before its inputs are held. shown: the block whose results the
    frames see. plan: by schedule; without one everything runs at the block's border.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        clock: SampleClock,
        slots: int,
        *,
        host: bool,
        fill: Fill,
        restart: Callable[[], None],
        wait: Callable[[], None],
    ) -> None:
        """fill: makes ready what a block hears. restart: puts the talker's states back to their start. wait: until the
        device has done what it was given."""
        self._groups, self._clock, self.slots, self._host = tuple(groups), clock, slots, host
        self._fill, self._restart, self._wait, self._stale = fill, restart, wait, False
        self.plan: Mapping[str, Plan] = {}
        self.aside = Aside()
        self.done = self.shown = self._block = -1
        self._schedule = ""

    def reset(self) -> None:
        """Begin anew, and throw away what was begun. A piece that runs aside still writes, so that states are put back
        when it has ended: by what comes next, which waits for it."""
        self.done = self.shown = -1
        self._stale = self.aside.busy()
        if not self._stale:
            self._restart()

    def _settle(self) -> None:
        if self._stale:
            self.aside.join()
            self._restart()
            self._stale = False

    def parts(self, schedule: str) -> list[Replay]:
        """Return the pieces of one block in order, each a replay of its own."""
        return [part for group in self._groups for part in group.parts[schedule]]

    def measure(
        self, schedule: str, wait: Callable[[], None], clock: Callable[[], int], times: int
    ) -> tuple[list[str], list[int]]:
        """Return label and least cost in ns of each piece. wait: for the device. States are not as before."""
        parts, costs = self.parts(schedule), []
        for part in parts * times:
            start = clock()
            part.launch()
            wait()
            costs.append(clock() - start)
        return [part.labels[0] for part in parts], [min(costs[place :: len(parts)]) for place in range(len(parts))]

    def slot(self, index: int, heard: int) -> int:
        """Return which slot of the next block's spread lies before frame `index`; -1 for none, or without its sound."""
        block = self._clock.block
        following = -(-index // block)
        slot = index - 1 - (following * block - self.slots)
        return slot if slot >= 0 and following > self.shown and heard >= self._clock.end(following * block) else -1

    def work(self, index: int, heard: int, schedule: str, *, ready: bool) -> None:
        """Run what the plan has up to the slot before frame `index`; all that is left where it begins a block and is
        ready."""
        block, within = divmod(index, self._clock.block)
        if within == 0 and block != self.shown and ready:
            self._settle()
            self._finish(block, schedule, None)
        elif not self.aside.busy():
            self._settle()
            self._next(index, heard, schedule)

    def _next(self, index: int, heard: int, schedule: str) -> None:
        slot, following = self.slot(index, heard), -(-index // self._clock.block)
        if slot < 0 or (self.done >= 0 and self._block != following):
            return  # pieces of a block whose first frame was passed over are finished by `complete`
        if self.done < 0:
            self._hold(following, schedule, None)
        plan = self.plan.get(self._schedule)
        if plan is not None:
            self._run(plan.until(slot), plan, wait=False)

    def complete(self, block: int, schedule: str, window: NDArray[np.float32] | None) -> Sequence[Replay]:
        """See that the frames of `block` are shown its results. window: what it hears, None: what was heard.

        Returns the block's pieces; none when its results were shown already.
        """
        self._settle()
        if block == self.shown:
            return ()
        self._finish(block, schedule, window)
        for group in self._groups:
            if group.show is not None:
                group.show.launch()
        self.done, self.shown = -1, block
        return self.parts(self._schedule)

    def _finish(self, block: int, schedule: str, window: NDArray[np.float32] | None) -> None:
        """Do now what of `block` is not done yet, and wait for it."""
        if self.done < 0 or self._block != block:
            self._hold(block, schedule, window)
        self._run(len(self.parts(self._schedule)), None, wait=True)

    def _hold(self, block: int, schedule: str, window: NDArray[np.float32] | None) -> None:
        self.aside.join()
        self._fill(block * self._clock.block, window)
        for group in self._groups:
            if group.hold is not None:
                group.hold.launch()
        self._wait()  # the next frame's fill writes over what a GPU may not have read yet
        self.done, self._block, self._schedule = 0, block, schedule

    def _run(self, until: int, plan: Plan | None, *, wait: bool) -> None:
        parts = self.parts(self._schedule)
        while self.done < until:
            if self.aside.busy() and not wait:
                return
            self.aside.join()
            part, self.done = parts[self.done], self.done + 1
            if plan is not None and self._host and self.done - 1 in plan.long:
                self.aside.start(part.launch)
            else:
                part.launch()
        if wait:
            self.aside.join()

    def save(self) -> tuple[int, int, int, str]:
        """Return what is done, after waiting for what runs aside."""
        self.aside.join()
        return self.done, self.shown, self._block, self._schedule

    def restore(self, saved: tuple[int, int, int, str]) -> None:
        """Go on from what `save` returned."""
        self.done, self.shown, self._block, self._schedule = saved
