"""ARTalk's chunk, stage by stage, against plain PyTorch in the same run; writes the table of docs/artalk.md.

    python -m benchmarks.artalk CHECKPOINT BUNDLE --out benchmarks/results     # of your checkpoint and its bundle
    python -m benchmarks.artalk --random DIR --out benchmarks/results          # makes both: published size, no meaning

PyTorch runs the published loop: five passes a chunk, each over all tokens so far, the past's keys and values anew in
each. The stages run one after another in ONNX Runtime, opened one at a time. Both use the same number of threads. A
figure is the least of its repeats: what else the machine does only ever adds to it. With one thread, the default, it is
the processor's time, which is the run's own on a machine that nobody else uses; with more it is the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.files import write_whole
from edgetalker.engines.host import HostDevice
from edgetalker.engines.ort import open_session
from edgetalker.measure.floor import measure_rates, stage_cost
from edgetalker.models.artalk import HeadCounts, load_checkpoint, start_bits
from edgetalker.models.artalk.offline import chunk

Least = Callable[[Callable[[], object]], float]
_TRIES = 10  # of the rates that floors are counted with


def main() -> None:
    """Measure, print the table and write JSON and Markdown."""
    args = _arguments()
    if args.random is not None:
        args.checkpoint, args.bundle = _published_size(args.random)
    torch.set_num_threads(args.threads)
    heads = HeadCounts(args.audio_heads, args.vae_heads, args.heads)
    least = partial(_least, repeats=args.repeats, clock=_clock(args.threads))
    eager = _eager(args.checkpoint, heads, least)
    report = {**_stages(args.bundle, args.threads, least), "eager_ms": eager}
    report["ratio"] = eager / report["chunk_ms"]
    report["machine"] = {
        "cpu": _cpu(), "threads": args.threads, "time": "processor" if args.threads == 1 else "wall",
        "load": round(os.getloadavg()[0], 1), "torch": torch.__version__,
        "python": platform.python_version(), "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    with write_whole(args.out / "artalk.json") as file:
        file.write(json.dumps(report, indent=1).encode())
    table = _table(report)
    (args.out / "artalk.md").write_text(table, encoding="utf-8")
    print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--random", type=Path, metavar="DIR", help="make both there (4 GB of disk, 8 GB of memory)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--audio-heads", type=int, default=16)
    parser.add_argument("--vae-heads", type=int, default=8)
    parser.add_argument("--heads", type=int, default=12)
    args = parser.parse_args()
    if args.random is None and args.bundle is None:
        parser.error("CHECKPOINT and BUNDLE, or --random DIR")
    return args


def _published_size(folder: Path) -> tuple[Path, Path]:
    """Return a checkpoint of published size with random weights, and its bundle; made by processes of their own, so
    that their memory is free again."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = folder / "random.pt", folder / "bundle"
    made = "import torch, sys; from tests.support.artalk import *; torch.save(checkpoint(PUBLISHED), sys.argv[1])"
    if not checkpoint.exists():
        subprocess.run([sys.executable, "-c", made, str(checkpoint)], check=True)
    if not bundle.exists():
        command = [sys.executable, "-m", "edgetalker", "export", "artalk", str(checkpoint), "-o", str(bundle)]
        subprocess.run(command, check=True)
    return checkpoint, bundle


def _clock(threads: int) -> Callable[[], int]:
    """Return a clock in ns. Several threads that wait for each other spend processor time on that."""
    return time.process_time_ns if threads == 1 else time.perf_counter_ns


def _least(work: Callable[[], object], *, repeats: int, clock: Callable[[], int]) -> float:
    """Return ms."""
    times = []
    for _ in range(repeats):
        begun = clock()
        work()
        times.append(clock() - begun)
    return min(times) / 1e6


def _eager(checkpoint: Path, heads: HeadCounts, least: Least) -> float:
    """Return what one chunk takes in PyTorch, re-encoding its motion included."""
    model = load_checkpoint(checkpoint, heads)
    sound = 0.1 * torch.randn(model.config.samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, token = start_bits(model), model.style(None)
        return least(lambda: chunk(model, sound, before, token))


def _stages(path: Path, threads: int, least: Least) -> dict[str, Any]:
    bundle = Bundle.open(path)
    manifest, random = bundle.manifest, np.random.default_rng(1)
    tries = [measure_rates(HostDevice(), threads=threads) for _ in range(_TRIES)]
    moved, counted = max(one.bytes_per_s or 0.0 for one in tries), max(one.operations_per_s or 0.0 for one in tries)
    rows = []
    for step in manifest.program:
        stage = manifest.stages.get(getattr(step, "stage", ""))
        if stage is None or step.every == 1:
            continue
        values = {
            name: 0.1 * random.standard_normal(spec.shape).astype(np.float32) for name, spec in stage.inputs.items()
        }
        session, cost = open_session(path / stage.file, threads, stage=stage.name), stage_cost(path / stage.file)
        rows.append(
            {
                "stage": stage.name,
                "tokens": stage.inputs["adaptors"].shape[1] if "adaptors" in stage.inputs else None,
                "ms": least(partial(session.run, None, values)),
                "floor_ms": (cost.floor_ns(moved, counted) or 0.0) / 1e6,
                "limit": cost.limit(moved, counted),
                "weights_MB": cost.weight_bytes / 1e6,
                "GMAC": cost.operations / 2e9,
            }
        )
        del session  # one stage's weights at a time
    audio, motion = manifest.audio, manifest.motion
    second = 1e3 / float(motion.fps)
    return {
        "bundle": manifest.name,
        "stages": rows,
        "chunk_ms": sum(row["ms"] for row in rows),
        "floor_ms": sum(row["floor_ms"] for row in rows),
        "evaluations": [manifest.notes["token_evaluations"], manifest.notes["token_evaluations_published"]],
        "delay_ms": {
            "chunk": audio.block * second, "spread": audio.spread * second, "smoother": motion.delay * second,
        },
    }  # fmt: skip


def _table(report: dict[str, Any]) -> str:
    lines = ["| stage | tokens | weights, MB | GMAC | time, ms | floor, ms | limit |", "|---|---|---|---|---|---|---|"]
    for row in report["stages"]:
        size = f"{row['weights_MB']:.0f} | {row['GMAC']:.2f}"
        times = f"{row['ms']:.1f} | {row['floor_ms']:.1f} | {row['limit']}"
        lines.append(f"| {row['stage']} | {row['tokens'] or ''} | {size} | {times} |")
    ours, published = report["evaluations"]
    delay, machine = report["delay_ms"], report["machine"]
    lines += [
        f"| **a chunk** | {ours} | | | **{report['chunk_ms']:.0f}** | {report['floor_ms']:.0f} | |",
        "",
        f"PyTorch, the published loop ({published} token evaluations), in the same run:",
        f"**{report['eager_ms']:.0f} ms**,",
        f"{report['ratio']:.2f} times as long. {machine['cpu']}, threads: {machine['threads']},",
        f"{machine['time']} time, the least of the repeats; load average {machine['load']}.",
        "",
        f"Delay: a chunk {delay['chunk']:.0f} ms + spread {delay['spread']:.0f} ms + "
        f"smoother {delay['smoother']:.0f} ms.",
    ]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
