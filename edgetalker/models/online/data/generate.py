"""Make the data set: seeded, in parallel, and from where it stopped."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgetalker.models.online.data.sessions import make, save
from edgetalker.models.online.data.synths import ENGINES, available
from edgetalker.models.online.data.utterance import Voice
from edgetalker.models.online.data.voices import HELD_OUT, NOBODY, training_voice

__all__ = ["Order", "generate", "orders"]

_NOBODYS_SHARE = 0.08


@dataclass(frozen=True)
class Order:
    """One session to be made."""

    path: Path
    voice: Voice
    seed: int
    keep_sound: bool
    worn: float


def orders(folder: Path, sessions: int, held_out: int, seed: int) -> list[Order]:
    """List `sessions` training sessions, and `held_out` sessions for validation and for each held-out group."""
    rng = random.Random(seed)
    speakers = [NOBODY if rng.random() < _NOBODYS_SHARE else training_voice(rng) for _ in range(sessions)]
    plan = [
        Order(folder / "train" / f"{index:04d}.npz", voice, seed * 100003 + index, False, 0.4)
        for index, voice in enumerate(speakers)
    ]
    groups: dict[str, tuple[Voice, ...]] = {"validation": (), **HELD_OUT}
    for number, (group, voices) in enumerate(groups.items()):
        for index in range(held_out):
            voice = voices[index % len(voices)] if voices else training_voice(rng)
            where = folder / group / f"{index:02d}.npz"
            plan.append(Order(where, voice, 900001 + 1000 * number + index + 50021 * seed, True, 0.0))
    return plan


def _fill(order: Order) -> str:
    if order.path.exists():
        return f"{order.path.name} kept"
    order.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save(make(order.voice, order.seed, order.keep_sound, order.worn), order.path)
    except Exception as error:
        return (
            f"{order.path.parent.name}/{order.path.name} LEFT OUT ({order.voice.name}): {type(error).__name__} {error}"
        )
    return f"{order.path.parent.name}/{order.path.name} {order.voice.engine} {order.voice.name}"


def generate(folder: Path, sessions: int, held_out: int, seed: int, workers: int) -> int:
    """Make every session that is not there yet; voices of missing synthesizers are left out. Returns how many.

    What was left out, and why, is printed.
    """
    missing = [engine for engine in ENGINES if not available(engine)]
    if missing:
        print(f"not installed, their voices are left out: {', '.join(missing)}")
    plan = [order for order in orders(folder, sessions, held_out, seed) if order.voice.engine not in missing]
    made = 0
    with ProcessPoolExecutor(workers) as pool:
        for line in pool.map(_fill, plan):
            made += "LEFT OUT" not in line
            if "kept" not in line:
                print(line, flush=True)
    return made
