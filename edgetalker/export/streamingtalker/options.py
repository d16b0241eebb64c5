"""What can be chosen when a StreamingTalker checkpoint is exported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgetalker.engines.errors import OptionError
from edgetalker.export.draft import CommonOptions
from edgetalker.models.streamingtalker.config import Config, Untold
from edgetalker.models.streamingtalker.contract import FLOOR_DB, Contract, History, Phase, make_contract
from edgetalker.models.streamingtalker.schedule import Rule, Schedule, make_schedule

__all__ = ["ExportOptions"]


@dataclass(frozen=True)
class ExportOptions(CommonOptions):
    """Choices of one export; lengths in ms of sound, windows in frames.

    block_ms: the audio encoder runs once in so much sound. lookahead_ms: how far past a block it hears.
    context_ms: how far before. history: frames that the condition network sees. decode_window: latents that the
    decoder sees. phase, past, floor_db: see `Contract`. rule, full_steps, fast_steps: the schedules (0 fast steps:
    none). steps_per_row: denoise steps in one run of the stage, for fewer launches; the schedules' rows hold so many.
    collapse: add the exact one-map schedule, the lowest rung of the ladder. identity: the default training identity.
    template: file of the neutral face, added to every frame; subject: whose, where the file holds several.
    features_input: leave the audio stage out and take features (1, A) a frame instead.
    """

    block_ms: int = 200
    lookahead_ms: int = 200
    context_ms: int = 2000
    history: int = 60
    decode_window: int = 60
    phase: Phase = "window"
    past: History = "append"
    floor_db: float = FLOOR_DB
    rule: Rule = "legacy_sample"
    full_steps: int = 50
    fast_steps: int = 0
    steps_per_row: int = 1
    collapse: bool = True
    identity: int = 0
    template: Path | None = None
    subject: str | None = None
    untold: Untold = field(default_factory=Untold)
    features_input: bool = False

    def contract(self, config: Config) -> Contract:
        """Return the streaming contract. Raises OptionError for lengths that do not fit."""
        return make_contract(
            config,
            block_ms=self.block_ms,
            lookahead_ms=self.lookahead_ms,
            context_ms=self.context_ms,
            history=self.history,
            decode_window=self.decode_window,
            phase=self.phase,
            past=self.past,
            floor_db=self.floor_db,
        )

    def schedules(self) -> dict[str, Schedule]:
        """Return the tables of denoise rows by name, the fullest first.

        Raises OptionError when the fast schedule is not shorter than the full one, or steps do not fill their rows.
        """
        tables = {"full": make_schedule(self.full_steps, self.rule)}
        if self.fast_steps:
            if self.fast_steps >= self.full_steps:
                raise OptionError(
                    f"{self.fast_steps} fast steps are not fewer than {self.full_steps} full steps",
                    hint="give fewer --fast-steps, or 0 for none",
                )
            tables["fast"] = make_schedule(self.fast_steps, self.rule)
        for name, table in tables.items():
            if self.steps_per_row < 1 or len(table) % self.steps_per_row:
                raise OptionError(f"{len(table)} steps of `{name}` do not fill rows of {self.steps_per_row} steps")
        return tables
