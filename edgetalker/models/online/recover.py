"""Checkpoints out of a bundle: anybody can go on training the talker that ships, though its checkpoints are not there.

A bundle holds all that is needed to play, rounded to half precision. What only training needs is made anew: the
heads of other look-aheads start as copies of the bundle's, the heads that name phones at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import UserError
from edgetalker.engines.lazy import packages_for
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.head import Head, HeadSize
from edgetalker.models.online.layout import LEAK, MADE, MOVING, Decoder, column
from edgetalker.models.online.talker import Talker, store_talker
from edgetalker.models.online.train_trunk import load_trunk, save_checkpoint
from edgetalker.models.online.trunk import LOOKAHEADS, Trunk, TrunkSize
from edgetalker.models.online.veto import Veto

__all__ = ["recover", "store"]

_STAGES = ("audio", "condition", "denoise", "student", "decode")


def store(path: Path, out: Path, trunks: Sequence[Path] = (), share: float = 0.5) -> Talker:
    """Write trunk.pt, teacher.pt and talker.pt of a bundle to `out`: each training stage goes on from its own.

    trunks: checkpoints whose mean is mixed into the bundle's trunk by `share`, 0 to 1 (`_mix`).
    Raises UserError where `path` is no talker of this family, `out` has checkpoints already, a trunk is of another
    size or `share` is none, FileNotFoundError where a trunk is not there.
    """
    there = [name for name in ("trunk.pt", "teacher.pt", "talker.pt") if (out / name).exists()]
    if there:
        raise UserError(f"{out} has {', '.join(there)} already", hint="name another folder, or move them away")
    talker = recover(path)
    if trunks:
        _mix(talker, trunks, share)
    out.mkdir(parents=True, exist_ok=True)
    begun = {"size": asdict(talker.trunk.size), "spent": 0.0, "step": 0}
    save_checkpoint(out / "trunk.pt", {"model": talker.trunk.state_dict(), **begun})
    for name in ("teacher.pt", "talker.pt"):
        store_talker(out / name, talker, 0.0, 0)
    return talker


def _mix(talker: Talker, files: Sequence[Path], share: float) -> None:
    """Mix trunks that went on from this talker's into it (Wortsman et al. 2022, both papers: of runs, and with the
    start): what lies between keeps more of the voices that it knew, and hears others as well.

    The heads of look-aheads that a bundle does not have stay copies of the one that it has.
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"a share of {share:g} was given", hint="0 (the bundle's trunk alone) to 1 (none of it)")
    trunks = [load_trunk(file) for file in files]
    if others := [str(file) for file, trunk in zip(files, trunks, strict=True) if trunk.size != talker.trunk.size]:
        raise UserError(
            f"{', '.join(others)} cannot be mixed into {talker.trunk.size}: of another size",
            hint="trunks that went on from this bundle's (`train from-bundle`, `train trunk`)",
        )
    states = [trunk.state_dict() for trunk in trunks]
    mixed = {
        name: (1.0 - share) * value + share * torch.stack([state[name] for state in states]).mean(0)
        for name, value in talker.trunk.state_dict().items()
    }
    talker.trunk.load_state_dict(mixed)
    known = talker.trunk.heads[talker.lookahead].state_dict()
    for lookahead in LOOKAHEADS:
        talker.trunk.heads[lookahead].load_state_dict(known)


def recover(path: Path) -> Talker:
    """Return the talker of a bundle that `export.online` wrote."""
    bundle = Bundle.open(path)
    if bundle.manifest.family != "online" or not set(_STAGES) <= set(bundle.manifest.stages):
        raise UserError(f"{path} is no talker of the family `online`: only those are trained on from a bundle")
    weights: dict[str, Tensor] = {}
    for stage in _STAGES:
        weights |= _weights(bundle.path / bundle.manifest.stages[stage].file)
    rest = torch.tensor(np.load(bundle.path / "history.npy"))[0, -1]
    return _talker(weights, _trunk_size(weights, bundle.manifest.tensors["memory"].spec.shape), rest)


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the constants of a stage by the names that PyTorch gave them, as float32.

    What the first GELU reads is called `moment`, if it is a constant: the student knows only one moment.
    """
    with packages_for("reading a bundle's weights", extra="export"):
        import onnx
        from onnx import numpy_helper

    graph = onnx.load(path).graph
    found: dict[str, Tensor] = {}
    for tensor in graph.initializer:
        values: Any = numpy_helper.to_array(tensor)
        if values.dtype in (np.float16, np.float32):
            found[tensor.name.removesuffix(".half")] = torch.tensor(values.astype(np.float32))
    first = next((node.input[0] for node in graph.node if node.op_type == "Gelu"), "")
    return found | ({"student.moment": found[first][0]} if first in found else {})


def _trunk_size(weights: dict[str, Tensor], memory: tuple[int, ...]) -> TrunkSize:
    """Read a trunk's size out of its weights and the shape of its state."""
    if "trunk.memory.part" in weights:
        (heads, width), hidden = (
            weights["trunk.memory.part"].shape,
            weights["trunk.memory.blocks.0.exit.weight"].shape[1],
        )
        return TrunkSize(width, width, memory[2] // 2, "transformer", memory[1], heads, hidden)
    return TrunkSize(weights["trunk.entry.2.weight"].shape[0], memory[2], memory[0])


def _talker(weights: dict[str, Tensor], size: TrunkSize, rest: Tensor) -> Talker:
    lookahead = next(d for d in LOOKAHEADS if f"trunk.heads.{d}.weight" in weights)
    trunk = Trunk(size)
    for d in LOOKAHEADS:
        for kind in ("weight", "bias"):
            weights[f"trunk.heads.{d}.{kind}"] = weights[f"trunk.heads.{lookahead}.{kind}"]
            weights[f"trunk.phones.{d}.{kind}"] = torch.zeros_like(getattr(trunk.phones[d], kind))
    _load(trunk, weights, "trunk.")
    past, made = weights["condition.past.0.bias"].shape[0], weights["teacher.entry.bias"].shape[0]
    hidden = weights["teacher.blocks.0.first.bias"].shape[0]
    blocks = sum(name.startswith("teacher.blocks.") and name.endswith(".first.bias") for name in weights)
    head = Head(HeadSize(size.width, made, hidden, blocks, past))
    # The wishes' last bias cancels, and the student's time was folded into one vector.
    weights["condition.wish.2.bias"] = torch.zeros(made)
    turns = torch.cat([head.student.octaves.sin(), head.student.octaves.cos()])
    weights["student.time.0.weight"] = weights["teacher.time.0.weight"]
    weights["student.time.0.bias"] = weights["student.moment"] - weights["teacher.time.0.weight"] @ turns
    _load(head, weights, "")
    return Talker(trunk.eval(), head.eval(), _decoder(weights, rest), lookahead, _veto(weights))


def _veto(weights: dict[str, Tensor]) -> Veto | None:
    if "veto.entry.0.weight" not in weights:
        return None
    veto = Veto.like(weights, "veto.")
    _load(veto, weights, "veto.")
    return veto.eval()


def _load(module: torch.nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    names = module.state_dict()
    missing = [name for name in names if f"{prefix}{name}" not in weights]
    if missing:
        raise UserError(
            f"the bundle has no weights called {', '.join(missing)}", hint="was it quantized? use the original"
        )
    module.load_state_dict({name: weights[f"{prefix}{name}"] for name in names})


def _decoder(weights: dict[str, Tensor], rest: Tensor) -> Decoder:
    """Read back what the tables of `export.online.stages` were made from. rest: (32,), a face at rest, normalised."""
    shown, shapes = weights["table.shown"][:, len(MOTION_NAMES) :], torch.arange(MOVING.start)
    rows = shapes.clone()
    rows[column("MouthClose")] = column("JawOpen")
    spread = 1.0 / torch.cat([shown[rows, shapes], weights["table.size"]])
    made, mouth = weights["table.made"], weights["table.made"].shape[0] - MADE
    scale = made[mouth:].diagonal().clone()
    scale[:mouth] /= made[:mouth].diagonal()
    scale[MOVING] /= 1.0 - LEAK
    slope, start = float(weights["table.ramps"][0, 0]), float(weights["table.ramps_0"][0])
    return Decoder(-rest * spread, spread, scale, round(-start / slope, 4), round((1.0 - start) / slope, 4))
