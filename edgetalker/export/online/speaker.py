"""A talker fitted to one speaker: `edgetalker export speaker --clips FOLDER -o BUNDLE`.

A recorded voice is another voice, not too hard a one: the trunk's features tell its p, b and m, by a rule of its own.
So the one layer that reads mouth, lips and teeth out of them is fitted to recordings of that speaker, with what is said
in them; nothing else of the talker changes. Before it is fitted to all clips it is fitted five times to four fifths of
them, and scored on the fifth: what is reported was never fitted to.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import checked_target, write_whole
from edgetalker.export.draft import try_target
from edgetalker.export.online.exporter import export_talker
from edgetalker.models.online.data.sessions import Session
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.evaluate import cut, plain, play, truth_of
from edgetalker.models.online.metrics import Truth, mouth_of, summary
from edgetalker.models.online.real import dealt
from edgetalker.models.online.recover import recover
from edgetalker.models.online.rollout import hear_many
from edgetalker.models.online.talker import Talker
from edgetalker.runtime.model import find_bundle

__all__ = ["fit", "run", "scores"]

PARTS = 5
LEAST = 60.0
"""Seconds of clips that are wanted at least."""
STEPS, RATE = 400, 2e-3
DROP = 0.2
"""Share of the features that is left out in each step."""
TETHER = 1e-3
"""What a squared change of the layer's weights costs."""
MOUTH_WEIGHT = 20.0
CLOSURE = 2.0
"""What a frame of contact weighs against one without: lips that stay open are seen sooner than lips that shut once more
than they should. With 1 the studio voice of docs/talker.md shows 0.85 of its closures at 0.79, with 2 0.92 at 0.75."""
_SEED = 5
_SHOWN = {
    "recall": "closures shown",
    "precision": "shut frames that should be",
    "r_jaw": "jaw, r",
    "mae": "mouth, error",
    "jitter": "jitter / target",
    "rest_open": "open in pauses",
}


def fit(talker: Talker, sessions: Sequence[Session]) -> Talker:
    """Return a talker whose mouth, lips and teeth are fitted to these sessions; the voice's logit stays."""
    torch.manual_seed(_SEED)
    heard = hear_many(talker.trunk, [torch.tensor(s.mel) for s in sessions], talker.lookahead)
    features = torch.cat([part.features for part in heard])
    frames = [len(part.features) for part in heard]
    mouth, contacts, speech = (
        torch.cat([torch.tensor(getattr(s, name)[:count]) for s, count in zip(sessions, frames, strict=True)]).float()
        for name in ("mouth", "touch", "speech")
    )
    old = talker.trunk.heads[talker.lookahead]
    assert isinstance(old, nn.Linear)
    layer, fitted = copy.deepcopy(old), len(MOUTH) + 2
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        out = layer(F.dropout(features, DROP))
        told = out[:, len(MOUTH) : fitted]
        loss = F.binary_cross_entropy_with_logits(told, contacts, pos_weight=torch.tensor(CLOSURE))
        loss = loss + MOUTH_WEIGHT * ((out[:, : len(MOUTH)] - mouth) ** 2 * speech[:, None]).mean()
        loss = loss + TETHER * ((layer.weight - old.weight.detach()) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        layer.weight[fitted:], layer.bias[fitted:] = old.weight[fitted:], old.bias[fitted:]
    trunk = copy.deepcopy(talker.trunk)
    trunk.heads[talker.lookahead] = layer
    return replace(talker, trunk=trunk)


def scores(talkers: Sequence[Talker], sessions: Sequence[Session]) -> dict[str, float]:
    """Play each session with its talker, schedule `one`, and score all of them together (`metrics.summary`)."""
    mouths, truths = [], list[Truth]()
    for talker, session in zip(talkers, sessions, strict=True):
        mouth = mouth_of(play(talker, [session.mel], "one", _SEED)[0])
        mouths.append(mouth)
        truths += cut([truth_of(session)], len(mouth))
    return summary(mouths, truths)


def run(options: argparse.Namespace) -> int:
    """Fit, score and write a bundle, as the options of `edgetalker export speaker` say. Raises UserError."""
    try_target(options.out, replace=options.force)
    if options.report is not None:
        checked_target(options.report)
    talker = recover(find_bundle(options.bundle))
    parts = dealt(options.clips, PARTS, options.language)
    seconds, clips = sum(part.seconds for part in parts), sum(part.clips for part in parts)
    if seconds < LEAST:
        raise InputError(
            f"{options.clips} holds {seconds:.0f} s of sound; at least {LEAST:.0f} s were wanted",
            hint="three or four minutes are better",
        )
    torch.set_num_threads(1)
    print(f"{clips} clips, {seconds:.0f} s; fitting and scoring takes some minutes", flush=True)
    sessions = [part.session for part in parts]
    others = [[s for place, s in enumerate(sessions) if place != part] for part in range(len(parts))]
    found = {
        "before": scores([talker] * len(parts), sessions),
        "after": scores([fit(talker, rest) for rest in others], sessions),
    }
    print(f"{'on clips that were not fitted to':<36}{'before':>8}{'after':>8}")
    for name, meaning in _SHOWN.items():
        print(f"{meaning:<36}{found['before'][name]:>8.3f}{found['after'][name]:>8.3f}")
    if options.report is not None:
        with write_whole(options.report) as file:
            file.write(json.dumps(plain(found), indent=1).encode())
    if not found["after"]["f1"] > found["before"]["f1"]:
        raise InputError(
            f"closures are no better on clips that were not fitted to (F1 {found['before']['f1']:.3f} before, "
            f"{found['after']['f1']:.3f} after); no bundle was written",
            hint="more clips, without noise and exactly with these words",
        )
    fitted = f"Mouth, lips and teeth were then fitted to {clips} clips, {seconds:.0f} s, of one speaker."
    bundle = export_talker(fit(talker, sessions), options.out, fitted=fitted, replace=options.force)
    print(f"{bundle.path}: play it with --bundle {options.out}")
    return 0
