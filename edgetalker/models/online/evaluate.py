"""Scores a talker on voices that training never heard, against the mean face, loudness, and its own teacher."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetalker.engines.files import write_whole
from edgetalker.models.online import real
from edgetalker.models.online.baselines import LoudnessMouth, MeanMouth
from edgetalker.models.online.data.degrade import add_noise
from edgetalker.models.online.data.sessions import Session, load
from edgetalker.models.online.data.voices import HELD_OUT
from edgetalker.models.online.features import log_mel
from edgetalker.models.online.layout import MADE
from edgetalker.models.online.metrics import Truth, closures_of, mouth_of, summary, told_apart, upper
from edgetalker.models.online.rollout import Heard, Runner, hear_many, sampler
from edgetalker.models.online.talker import Talker, load_talker
from edgetalker.models.online.trunk import LOOKAHEADS

__all__ = ["add_arguments", "cut", "drift", "plain", "play", "run", "truth_of"]

Array = NDArray[np.float32]
SCHEDULES = ("full", "fast", "one")
NEUTRAL = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the recipe's `evaluate` stage."""
    parser.add_argument("--work", type=Path, required=True, help="folder with talker.pt; results land here too")
    parser.add_argument("--data", type=Path, required=True, help="folder that `data` filled")
    parser.add_argument("--seed", type=int, default=5, help="seed of the noise (default %(default)s)")
    parser.add_argument("--audio", type=Path, help="real speech: scored against an alignment by pocketsphinx")
    parser.add_argument("--transcript", help="what is said in --audio (English)")
    parser.add_argument(
        "--clips", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="more real speech: a folder for each speaker, CLIP.wav or CLIP.flac with what is said in CLIP.txt",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the drift run (default %(default)s)")
    parser.add_argument("--plots", type=Path, help="folder for PNG plots (needs matplotlib)")


def run(options: argparse.Namespace) -> int:
    """Write `work`/results.json and print it as tables."""
    recordings = real.recordings(options.audio, options.transcript, options.clips)
    torch.manual_seed(options.seed)
    talker = load_talker(options.work / "talker.pt")
    if copies := sorted(set(LOOKAHEADS) - set(learnt(talker))):
        left = " and ".join(map(str, copies))
        print(f"not scored: look-ahead {left}, whose heads are copies (a bundle holds those of one look-ahead)")
    results = evaluate(talker, options.data, options.seed, options.minutes)
    if recordings:
        results["real"] = {name: real_scores(talker, made, options.seed) for name, made in recordings.items()}
    with write_whole(options.work / "results.json") as file:
        file.write(json.dumps(plain(results), indent=1).encode())
    from edgetalker.models.online.report import tables

    print(tables(results))
    if options.plots:
        from edgetalker.models.online.plots import draw_all

        draw_all(results, options.plots)
        _draw_example(talker, options)
    return 0


def plain(scores: Any) -> Any:
    """Return scores as JSON has them: what could not be measured (not a number) as null."""
    if isinstance(scores, dict):
        return {key: plain(value) for key, value in scores.items()}
    if isinstance(scores, (list, tuple)):
        return [plain(value) for value in scores]
    return None if isinstance(scores, float) and not math.isfinite(scores) else scores


def _draw_example(talker: Talker, options: argparse.Namespace) -> None:
    """Draw twelve seconds of a held-out voice: the animator's mouth, the talker's, and loudness."""
    from edgetalker.models.online.plots import draw_tracks

    session = (_group(options.data / "rms") or _group(options.data / "validation"))[0]
    shown = {
        "animator (target)": session.mouth,
        "talker, one step": mouth_of(play(talker, [session.mel], "one", options.seed)[0]),
        "mouth from loudness": LoudnessMouth(_group(options.data / "validation"), only_jaw=False)(session),
    }
    part = slice(300, 660)
    cut = {name: track[part] for name, track in shown.items()}
    draw_tracks(cut, session.speech[part], options.plots / "talker-tracks.png")


def evaluate(talker: Talker, data: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Return all results on synthetic speech as plain numbers."""
    groups = {name: _group(data / name) for name in ("validation", *HELD_OUT)}
    groups = {name: sessions for name, sessions in groups.items() if sessions}
    baselines: dict[str, Callable[[Session], Array]] = {
        "mean face": MeanMouth(groups["validation"]),
        "jaw from loudness": LoudnessMouth(groups["validation"], only_jaw=True),
        "mouth from loudness": LoudnessMouth(groups["validation"], only_jaw=False),
    }
    scores: dict[str, Any] = {}
    for name, sessions in groups.items():
        truths = [truth_of(s) for s in sessions]
        scores[name] = {key: summary([b(s) for s in sessions], truths) for key, b in baselines.items()}
        scores[name] |= _talker_scores(talker, sessions, truths, seed)
        print(f"scored {name}", flush=True)
    rms = groups.get("rms", groups["validation"])
    return {
        "lookahead": talker.lookahead,
        "minutes": {name: sum(s.phone.size for s in sessions) / 1800 for name, sessions in groups.items()},
        "scores": scores,
        "curve": {name: _curve(talker, sessions) for name, sessions in groups.items()},
        "upper": _upper(talker, rms, seed),
        "drift": drift(talker, groups, seed, minutes),
        "emotion": emotion_response(talker, rms[0], seed),
        "nonspeech": _nonspeech(talker, seed),
    }


def _group(folder: Path) -> list[Session]:
    return [load(path) for path in sorted(folder.glob("*.npz"))]


def truth_of(session: Session) -> Truth:
    """Return what a session asks of a mouth."""
    return session.mouth, session.touch[:, 0], session.phone, session.speech


def cut(truths: Sequence[Truth], frames: int) -> list[Truth]:
    """Return the first frames of what sessions ask for."""
    return [(mouth[:frames], lips[:frames], phone[:frames], speech[:frames]) for mouth, lips, phone, speech in truths]


def _heard(talker: Talker, mels: Sequence[Array]) -> Heard:
    """Hear several sounds side by side, cut to the shortest."""
    parts = hear_many(talker.trunk, [torch.tensor(mel) for mel in mels], talker.lookahead, talker.veto)
    short = min(part.mouth.shape[0] for part in parts)
    rows = ([getattr(part, name)[:short] for part in parts] for name in ("features", "mouth", "logits"))
    return Heard(*(torch.stack(row) for row in rows))


def play(talker: Talker, mels: Sequence[Array], schedule: str, seed: int, controls: Sequence[float] = NEUTRAL) -> Array:
    """Run freely over several sounds in lock-step: ln mel power (4T, 80) each -> motion (B, T, 55)."""
    heard = _heard(talker, mels)
    batch, frames = heard.mouth.shape[:2]
    wish = torch.tensor(controls).expand(batch, frames, len(NEUTRAL))
    runner = Runner(talker.decoder, batch, seed)
    motion: Array = runner.run(talker.head, sampler(talker.head, schedule), heard, wish).numpy()
    return motion


def _talker_scores(talker: Talker, sessions: Sequence[Session], truths: Sequence[Truth], seed: int) -> dict[str, Any]:
    mels = [s.mel for s in sessions]
    found: dict[str, Any] = {}
    for schedule in SCHEDULES:
        motion = play(talker, mels, schedule, seed)
        mouths = [mouth_of(m) for m in motion]
        found[schedule] = summary(mouths, cut(truths, mouths[0].shape[0]))
        if schedule == "one":
            found[schedule]["by_phone"] = _by_phone(mouths, sessions)
            found[schedule]["told_apart"] = told_apart(mouths, [s.times for s in sessions])
    rng = np.random.default_rng(seed)
    noisy = [log_mel(add_noise(s.samples, 15.0, rng, slope=1.0), s.phone.size) for s in sessions]
    mouths = [mouth_of(m) for m in play(talker, noisy, "one", seed)]
    found["one, 15 dB noise"] = summary(mouths, cut(truths, mouths[0].shape[0]))
    return found


def _by_phone(mouths: Sequence[Array], sessions: Sequence[Session]) -> dict[str, list[int]]:
    total: dict[str, list[int]] = {}
    for mouth, session in zip(mouths, sessions, strict=True):
        for phone, (count, hits) in closures_of(mouth, session.times).items():
            kept = total.setdefault(phone, [0, 0])
            kept[0] += count
            kept[1] += hits
    return total


def _curve(talker: Talker, sessions: Sequence[Session]) -> dict[str, Any]:
    """Score the trunk alone at each look-ahead it has learnt: its regressed mouth with contacts blended in."""
    mels, truths = [s.mel for s in sessions], [truth_of(s) for s in sessions]
    found = {}
    for lookahead in learnt(talker):
        mouths = trunk_mouths(talker, mels, lookahead)
        found[str(lookahead)] = summary(mouths, cut(truths, mouths[0].shape[0]))
    return found


def learnt(talker: Talker) -> list[int]:
    """Return the look-aheads whose heads are no copies: out of a bundle (`recover`) comes one."""
    weights = [head.state_dict()["weight"] for head in talker.trunk.heads]
    own = talker.lookahead
    return [d for d in LOOKAHEADS if d == own or not torch.equal(weights[d], weights[own])]


@torch.no_grad()
def trunk_mouths(talker: Talker, mels: Sequence[Array], lookahead: int) -> list[Array]:
    """Return what the trunk shows without a denoiser, (T, 14) each, cut to the shortest sound."""
    heard = _heard(replace(talker, lookahead=lookahead), mels)
    batch, frames = heard.mouth.shape[:2]
    runner, still = Runner(talker.decoder, batch, 0), torch.zeros(batch, MADE)
    wish = torch.tensor(NEUTRAL).expand(batch, len(NEUTRAL))
    shown = [runner.take(still, heard.logits[:, t], heard.mouth[:, t], wish) for t in range(frames)]
    return [mouth_of(motion) for motion in torch.stack(shown, 1).numpy()]


def _upper(talker: Talker, sessions: Sequence[Session], seed: int) -> dict[str, Any]:
    """Compare upper faces with the animator's on the same sounds, under the animator's own controls."""
    found: dict[str, Any] = {"animator": _mean([upper(s.motion[0]) for s in sessions])}
    heard = _heard(talker, [s.mel for s in sessions])
    frames = heard.mouth.shape[1]
    wish = torch.tensor(np.stack([s.controls[0][:frames] for s in sessions]))
    for schedule in SCHEDULES:
        runner = Runner(talker.decoder, len(sessions), seed)
        motion = runner.run(talker.head, sampler(talker.head, schedule), heard, wish).numpy()
        found[schedule] = _mean([upper(m) for m in motion])
    return found


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def drift(talker: Talker, groups: Mapping[str, Sequence[Session]], seed: int, minutes: float) -> dict[str, Any]:
    """Run freely for `minutes` without a reset and describe every minute: error, spread, head, blinks."""
    sessions = [s for name in groups for s in groups[name]]
    order = sessions * (int(minutes * 1800 / sum(s.phone.size for s in sessions)) + 1)
    mel = np.concatenate([s.mel for s in order])[: int(minutes * 1800) * 4]
    target = np.concatenate([s.mouth for s in order])[: mel.shape[0] // 4]
    found = {}
    for schedule in ("full", "one"):
        motion = play(talker, [mel], schedule, seed)[0]
        found[schedule] = [
            _minute(motion[a : a + 1800], target[a : a + 1800]) for a in range(0, motion.shape[0] - 899, 1800)
        ]
    return found


def _minute(motion: Array, target: Array) -> dict[str, float]:
    head = motion[:, -3:]
    return {
        "mae": float(np.abs(mouth_of(motion) - target).mean()),
        "head_mean": float(np.abs(head.mean(0)).max()),
        "head_spread": float(head.std(0).mean()),
        "largest_angle": float(np.abs(head).max()),
        "brow_mean": float(motion[:, 43].mean()),
        "blinks": upper(motion)["blinks_per_minute"],
    }


def emotion_response(talker: Talker, session: Session, seed: int) -> dict[str, Any]:
    """Play one sound under each emotion at full strength and under styles; tell the means that should move."""
    watched = {"MouthSmileLeft": 23, "BrowInnerUp": 43, "BrowDownLeft": 41, "EyeWideLeft": 6, "JawOpen": 17}
    wishes: dict[str, tuple[float, ...]] = {"neutral": NEUTRAL}
    for place, name in enumerate(("joy", "sadness", "anger", "surprise")):
        wishes[name] = tuple(1.0 if i == place else v for i, v in enumerate(NEUTRAL))
    wishes |= {"articulation 0.5": (*NEUTRAL[:4], 0.5, 1.0), "articulation 1.4": (*NEUTRAL[:4], 1.4, 1.0)}
    wishes |= {"head 0.2": (*NEUTRAL[:5], 0.2), "head 1.8": (*NEUTRAL[:5], 1.8)}
    found = {}
    for name, wish in wishes.items():
        motion = play(talker, [session.mel], "one", seed, wish)[0]
        found[name] = {key: float(motion[:, index].mean()) for key, index in watched.items()}
        found[name] |= {"jaw_spread": float(motion[:, 17].std()), "head_spread": float(motion[:, -3:].std(0).mean())}
    return found


def _nonspeech(talker: Talker, seed: int) -> dict[str, Any]:
    """Return jaw and lip gap over sounds that are no speech, five seconds each."""
    from edgetalker.models.online.data import noises
    from edgetalker.models.online.data.degrade import coloured_noise

    rng, time = np.random.default_rng(seed), np.arange(80000) / 16000
    sounds = {
        "digital silence": np.zeros(80000, np.float32),
        "white -40 dB": 0.01 * coloured_noise(80000, rng, 0.0),
        "pink -30 dB": 0.0316 * coloured_noise(80000, rng, 1.0),
        "brown -25 dB": 0.056 * coloured_noise(80000, rng, 2.0),
        "hum 120 + 240 Hz": (0.05 * np.sin(2 * np.pi * 120 * time) + 0.03 * np.sin(2 * np.pi * 240 * time)),
    }
    others = (noises.music, noises.keys, noises.breath, noises.cough, noises.machine)
    sounds |= {f"{make.__name__} -32 dB": 0.025 * make(80000, rng) for make in others}
    found = {}
    for name, sound in sounds.items():
        mouth = mouth_of(play(talker, [log_mel(sound.astype(np.float32), 150)], "one", seed)[0])
        found[name] = {"jaw_mean": float(mouth[:, 0].mean()), "jaw_max": float(mouth[:, 0].max())}
    return found


def real_scores(talker: Talker, recording: real.Recording, seed: int) -> dict[str, Any]:
    """Score real speech against faces animated from pocketsphinx's alignment of what is said."""
    session = recording.session
    truth = [truth_of(session)]
    found: dict[str, Any] = {"seconds": recording.seconds, "clips": recording.clips}
    for schedule in ("full", "one"):
        mouth = mouth_of(play(talker, [session.mel], schedule, seed)[0])
        found[schedule] = summary([mouth], truth) | {"by_phone": _by_phone([mouth], [session])}
    found["curve"] = _curve(talker, [session])
    mean = session.mouth[session.speech > 0.5].mean(0)
    still = replace(session, mouth=np.tile(mean, (session.mouth.shape[0], 1)))
    found["mean face"] = summary([still.mouth], truth)
    found["jaw from loudness (fitted on this speech)"] = summary(
        [LoudnessMouth([session], only_jaw=True)(session)], truth
    )
    return found
