"""A whole talker, and the checkpoint that holds one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgetalker.models.online.head import Head, HeadSize
from edgetalker.models.online.layout import Decoder
from edgetalker.models.online.train_trunk import save_checkpoint
from edgetalker.models.online.trunk import Trunk, TrunkSize
from edgetalker.models.online.veto import Veto

__all__ = ["Talker", "load_talker", "store_talker"]


@dataclass
class Talker:
    """A whole talker: trunk, head, decoder, the look-ahead in frames that it was trained for, and perhaps a veto."""

    trunk: Trunk
    head: Head
    decoder: Decoder
    lookahead: int
    veto: Veto | None = None

    def to(self, device: torch.device) -> Talker:
        """Move all of it to a device, in place."""
        for module in (self.trunk, self.head, self.decoder, *([self.veto] if self.veto else [])):
            module.to(device)
        return self


def store_talker(path: Path, talker: Talker, spent: float, step: int) -> None:
    """Write a checkpoint that `load_talker` reads, with how far its training has come."""
    content = {
        "trunk": talker.trunk.state_dict(),
        "trunk_size": asdict(talker.trunk.size),
        "head": talker.head.state_dict(),
        "head_size": asdict(talker.head.size),
        "mean": talker.decoder.mean,
        "spread": talker.decoder.spread,
        "scale": talker.decoder.scale,
        "lookahead": talker.lookahead,
        **({"veto": talker.veto.state_dict()} if talker.veto else {}),
    }
    save_checkpoint(path, {**content, "spent": spent, "step": step})


def load_talker(path: Path) -> Talker:
    """Return the talker of a teacher's or student's checkpoint, ready to run."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    trunk, head = Trunk(TrunkSize(**stored["trunk_size"])), Head(HeadSize(**stored["head_size"]))
    trunk.load_state_dict(stored["trunk"])
    head.load_state_dict(stored["head"])
    decoder = Decoder(stored["mean"], stored["spread"], stored["scale"])
    return Talker(trunk.eval(), head.eval(), decoder, int(stored["lookahead"]), _veto(stored.get("veto")))


def _veto(weights: dict[str, Tensor] | None) -> Veto | None:
    if weights is None:
        return None
    veto = Veto.like(weights)
    veto.load_state_dict(weights)
    return veto.eval()
