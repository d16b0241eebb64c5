"""The same speech through plain PyTorch and through the runtime, frame by frame, in one run.

PyTorch runs the published append-only streaming path eagerly: history and decoded window grow with the utterance,
and features come from one pass over the whole clip, which is not counted here. The runtime plays the exported
bundle from sound, its audio stage included. Both use one thread. The ways take turns, a whole utterance each, so that
each runs with caches of its own making. A frame's figure is its fastest repeat: what else the machine does only
ever adds to a time. The medians are in the JSON beside it.

    python benchmarks/against_eager.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetalker.engines.files import write_whole
from edgetalker.export.streamingtalker import ExportOptions, export_streamingtalker
from edgetalker.models.streamingtalker import (
    StreamingTalker,
    Untold,
    load_checkpoint,
    make_schedule,
    stream_frames,
)
from edgetalker.models.streamingtalker.audio import encode_clip, normalise
from edgetalker.runtime.clock import AudioWindow
from edgetalker.runtime.talker import Talker

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
CHECKPOINT = DATA / "streamingtalker" / "tiny_voca.ckpt"
HEADS = Untold(audio_heads=4, vae_heads=4)
FIVE_STEPS = ExportOptions(untold=HEADS, steps_per_row=5)
EAGER, PUBLISHED = "eager, newest row", "eager, every row (as published)"
STEPS, FIVES, COLLAPSED = "runtime, 50 steps", "runtime, 50 steps, 5 a launch", "runtime, collapsed"

Player = Callable[[], object]


def main() -> None:
    """Run, print the ratio and write JSON and PNG."""
    args = _arguments()
    torch.set_num_threads(1)
    times = measure(args.seconds, args.repeats)
    report = summary(times, args.at)
    report["machine"] = {"cpu": _cpu(), "python": platform.python_version(), "torch": torch.__version__}
    args.out.mkdir(parents=True, exist_ok=True)
    with write_whole(args.out / "against_eager.json") as file:
        file.write(json.dumps(report, indent=1).encode() + b"\n")
    plot(times, args.out / "against_eager.png")
    print(text(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of speech; the clip is repeated (10)")
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which each frame's fastest counts (7)")
    parser.add_argument("--at", type=int, default=60, help="frame at which the ratio is reported (60)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for JSON and PNG")
    return parser.parse_args()


def measure(seconds: float, repeats: int) -> dict[str, NDArray[np.float64]]:
    """Return seconds a frame (repeats, frames) of each way."""
    with np.load(DATA / "streamingtalker" / "tiny_voca.npz") as arrays:
        clip, template = arrays["wav"], torch.from_numpy(arrays["template"])
    samples = np.resize(clip, int(seconds * 16000)).astype(np.float32)
    model = load_checkpoint(CHECKPOINT, untold=HEADS)
    with torch.no_grad():
        features = encode_clip(model.audio_encoder, normalise(torch.from_numpy(samples)[None]), 30)
    session, fives = _session(ExportOptions(untold=HEADS, collapse=True)), _session(FIVE_STEPS)
    frames = features.shape[1]
    players: dict[str, Callable[[], Player]] = {
        EAGER: lambda: eager(model, features, template, every_row=False),
        PUBLISHED: lambda: eager(model, features, template, every_row=True),
        STEPS: lambda: runtime(session, samples, frames, "full"),
        FIVES: lambda: runtime(fives, samples, frames, "full"),
        COLLAPSED: lambda: runtime(session, samples, frames, "collapsed"),
    }
    times: dict[str, list[NDArray[np.float64]]] = {name: [] for name in players}
    for _ in range(repeats):
        for name, start in players.items():
            times[name].append(_timed(start(), frames))
    return {name: np.stack(runs) for name, runs in times.items()}


def _session(options: ExportOptions) -> Talker:
    """Return a session of the same checkpoint, exported with the default contract."""
    with tempfile.TemporaryDirectory() as folder:
        return Talker(export_streamingtalker(CHECKPOINT, None, Path(folder) / "tiny", options).bundle)


def _timed(play: Player, frames: int) -> NDArray[np.float64]:
    times = np.empty(frames)
    gc.collect()
    gc.disable()  # a collection pauses whichever way happens to run
    try:
        for frame in range(frames):
            start = time.perf_counter()
            play()
            times[frame] = time.perf_counter() - start
    finally:
        gc.enable()
    return times


def eager(model: StreamingTalker, features: torch.Tensor, template: torch.Tensor, *, every_row: bool) -> Player:
    """Return a call that makes the next frame the published way."""
    generator = torch.Generator().manual_seed(0)

    def noise(frame: int, rows: int) -> torch.Tensor:
        return torch.randn(1, rows, model.config.latent_width, generator=generator)

    identity = torch.eye(model.config.identities)[:1]
    frames: Iterator[Any] = stream_frames(
        model, features, identity, template, noise, make_schedule(50), all_rows=every_row
    )
    return lambda: next(frames)


def runtime(session: Talker, samples: NDArray[np.float32], frames: int, schedule: str) -> Player:
    """Return a call that makes the next frame from sound; reading the window is part of it."""
    session.reset()
    window = AudioWindow(session.manifest.audio.window, backlog=len(samples) + session.end(frames))
    window.append(samples)
    window.append(np.zeros(max(0, session.end(frames) - len(samples)), np.float32))
    assert session.audio is not None
    into = session.audio[0]

    def play() -> object:
        window.read(session.end(session.index), into)
        return session.make(schedule, window=into)

    return play


def summary(times: dict[str, NDArray[np.float64]], at: int) -> dict[str, Any]:
    """Return the fastest and the median ms a frame of each way, and what they come to."""
    # The audio stage runs in every sixth frame: the mean over whole blocks around the frame shares it fairly.
    block = slice(at - at % 6, at - at % 6 + 6)
    curves = {name: runs.min(axis=0) * 1e3 for name, runs in times.items()}
    medians = {name: float(np.median(runs, axis=0)[block].mean() * 1e3) for name, runs in times.items()}
    around = {name: float(curve[block].mean()) for name, curve in curves.items()}
    last = {name: float(curve[-30:].mean()) for name, curve in curves.items()}
    first = {name: float(curve[30:60].mean()) for name, curve in curves.items()}
    return {
        "at_frame": at,
        "ms_at_frame": around,
        "times_faster_at_frame": _ratios(around),
        "median_ms_at_frame": medians,
        "times_faster_at_frame_by_medians": _ratios(medians),
        "ms_last_30_frames": last,
        "times_faster_last_30_frames": _ratios(last),
        "growth_last_30_over_frames_30_to_60": {name: last[name] / first[name] for name in curves},
        "ms_per_frame": {name: [round(value, 4) for value in curve.tolist()] for name, curve in curves.items()},
    }


def _ratios(ms: dict[str, float]) -> dict[str, float]:
    pairs = [(ours, theirs) for ours in (STEPS, FIVES, COLLAPSED) for theirs in (PUBLISHED, EAGER)]
    return {f"{ours} against {theirs}": ms[theirs] / ms[ours] for ours, theirs in pairs}


def plot(times: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Draw time over frame index, fastest repeat, each point the mean of a block of six frames."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for name, runs in times.items():
        curve = runs.min(axis=0) * 1e3
        blocks = curve[: len(curve) // 6 * 6].reshape(-1, 6).mean(axis=1)
        axes.plot(np.arange(len(blocks)) * 6, blocks, label=name)
    axes.set(xlabel="frame index", ylabel="ms a frame", yscale="log", title="tiny_voca, one CPU thread")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with write_whole(path) as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)


def text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{'':34}{'frame ' + str(report['at_frame']):>12}{'last 30':>12}{'growth':>9}"]
    for name, at in report["ms_at_frame"].items():
        last = report["ms_last_30_frames"][name]
        growth = report["growth_last_30_over_frames_30_to_60"][name]
        lines.append(f"{name:34}{at:9.2f} ms{last:9.2f} ms{growth:9.2f}")
    for name, ratio in report["times_faster_at_frame"].items():
        last = report["times_faster_last_30_frames"][name]
        by_median = report["times_faster_at_frame_by_medians"][name]
        at = f"{ratio:.1f} times at frame {report['at_frame']} ({by_median:.1f} by medians)"
        lines.append(f"{name}: {at}, {last:.1f} times over the last 30")
    return "\n".join(lines)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
