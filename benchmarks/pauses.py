"""What a talker does in a pause that is not digitally silent: speech, then the noise of a room, by the floor.

    python benchmarks/pauses.py tests/data/streamingtalker/tiny_voca.ckpt SPEECH.wav --audio-heads 4 --vae-heads 4

Each window of sound is normalised for itself. After a pause as long as the window, the quietest room is as loud to the
network as speech. The figures are of the contract in plain PyTorch: motion in the pause's last seconds over motion in
speech (RMS about the mean face), how far speech itself moves from what it was without a floor, and the deviation behind
the first layer of a window of the room alone. "Whole clip" is with the whole clip normalised at once, which the
network was trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetalker.export.streamingtalker import ExportOptions
from edgetalker.models.streamingtalker import StreamingTalker, Untold, load_checkpoint, make_schedule
from edgetalker.models.streamingtalker.audio import SAMPLE_RATE, encode_clip, normalise
from edgetalker.models.streamingtalker.windowed import windowed_features, windowed_frames
from edgetalker.runtime.sources.file import read_whole

OFF = -200.0
SPEECH_SECONDS, PAUSE_SECONDS, SETTLED_SECONDS = 3, 5, 2


def main() -> None:
    """Measure and print one line a floor; JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--audio-heads", type=int)
    parser.add_argument("--vae-heads", type=int)
    parser.add_argument("--noise", type=float, nargs="+", default=[-70.0, -60.0], help="levels of the room in dB")
    parser.add_argument("--floors", type=float, nargs="+", default=[OFF, -60.0, -50.0, -40.0])
    parser.add_argument("--gains", type=float, nargs="+", default=[0.0, -20.0], help="of the speech, in dB")
    parser.add_argument("--steps", type=int, default=50, help="denoise steps")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_checkpoint(args.checkpoint, untold=Untold(args.audio_heads, args.vae_heads))
    speech = torch.from_numpy(read_whole(args.speech, SAMPLE_RATE))[: SPEECH_SECONDS * SAMPLE_RATE]
    rows = [
        row
        for gain in args.gains
        for level in args.noise
        for row in measure(model, speech * 10 ** (gain / 20), level, args.floors, args.steps)
    ]
    for row in rows:
        print(
            f"speech at {row['speech_db']:6.1f} dB, room at {row['room_db']:5.0f} dB, floor {row['floor_db']:5.0f} dB: "
            f"the room moves the face by {row['driven']:.3f} of speech (whole clip {row['driven_whole_clip']:.3f}), "
            f"the pause as such by {row['pause']:.3f} ({row['whole_clip']:.3f}), speech changes by "
            f"{row['speech_change']:.4f}, first layer deviates by {row['first_layer']:.4f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(
    model: StreamingTalker, speech: Tensor, room_db: float, floors: list[float], steps: int
) -> list[dict[str, Any]]:
    """Return one row a floor for a speech (N,) that the noise of a room follows; the first floor must be OFF."""
    random = torch.Generator().manual_seed(0)
    room = 10 ** (room_db / 20) * torch.randn(len(speech) + PAUSE_SECONDS * SAMPLE_RATE, generator=random)
    room[: len(speech)] += speech
    fps = model.config.frame_rate
    spoken, frames = len(speech) * fps // SAMPLE_RATE, len(room) * fps // SAMPLE_RATE
    with torch.no_grad():
        whole = encode_clip(model.audio_encoder, normalise(room[None]), fps)
    outside = moves(model, ExportOptions(), whole, steps)
    quiet = room.clone()
    quiet[len(speech) :] = 0.0
    with torch.no_grad():
        still = moves(model, ExportOptions(), encode_clip(model.audio_encoder, normalise(quiet[None]), fps), steps)
    rows: list[dict[str, Any]] = []
    first = np.zeros(0)
    for floor in floors:
        options = ExportOptions(floor_db=floor)
        features = windowed_features(model, options.contract(model.config), room, frames)
        motion = moves(model, options, features, steps)
        first = motion if floor == OFF else first
        speaking = motion[:spoken]
        silent = windowed_features(model, options.contract(model.config), quiet, frames)
        driven = motion - moves(model, options, silent, steps)
        rows.append(
            {
                "speech_db": float(20 * torch.log10(speech.std())),
                "room_db": room_db,
                "floor_db": floor,
                "pause": spread(motion[-SETTLED_SECONDS * fps :]) / spread(speaking),
                "driven": rms(driven[-SETTLED_SECONDS * fps :]) / spread(speaking),
                "driven_whole_clip": rms((outside - still)[-SETTLED_SECONDS * fps :]) / spread(outside[:spoken]),
                "whole_clip": spread(outside[-SETTLED_SECONDS * fps :]) / spread(outside[:spoken]),
                "speech_change": rms(speaking - first[:spoken]) / spread(first[:spoken]),
                "first_layer": first_layer(model, room[-options.contract(model.config).window :], floor),
            }
        )
    return rows


def moves(model: StreamingTalker, options: ExportOptions, features: Tensor, steps: int) -> Any:
    """Return the vertices (F, 3V) that the contract makes of the features, with the noise of seed 0."""
    width, config = model.config.latent_width, model.config
    still = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(1))
    frames = windowed_frames(
        model,
        options.contract(config),
        features,
        torch.eye(config.identities)[:1],
        torch.zeros(config.vertex_values),
        lambda _frame, _rows: still,  # the same for every frame, so that what moves is moved by sound
        make_schedule(steps),
    )
    return torch.stack(list(frames)).numpy()


def first_layer(model: StreamingTalker, window: Tensor, floor: float) -> float:
    """Return the standard deviation over time behind the first layer's norm, without its bias, for one window."""
    encoder: Any = model.audio_encoder
    first = encoder.feature_extractor.conv_layers[0]
    gain = ExportOptions(floor_db=floor).contract(model.config).gain(float(window.std()))
    with torch.no_grad():
        behind = first.layer_norm(first.conv(normalise(window[None])[:, None])) - first.layer_norm.bias[:, None]
    return float((gain * behind).std())


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def spread(motion: Any) -> float:
    """Return the RMS of motion (F, 3V) about its mean face."""
    return rms(motion - motion.mean(axis=0))


if __name__ == "__main__":
    main()
