"""The figures: per-step times beside their targets, replay against eager, talkers in lock-step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.frame_checks import sound_for
from benchmarks.gpu.setting import NotRunError, Setting
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda.errors import OutOfMemoryError
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.manifest import Step
from edgetalker.engines.torch import OnnxModule, TorchPool
from edgetalker.measure.floor import measure_rates
from edgetalker.measure.profile import Profiler
from edgetalker.measure.report import Summary
from edgetalker.runtime.talker import Talker
from edgetalker.serve.lockstep import lockstep

__all__ = [
    "AT_LEAST",
    "FLOORS",
    "TARGETS",
    "granularity_and_marks",
    "lockstep_talkers",
    "marks_and_launches",
    "per_step",
    "replay_against_eager",
]

Figures = dict[str, Any]
TARGETS = {
    "published full: denoise steps together, us": 500.0,
    "published collapsed: denoise together, us": 50.0,
    "published full: whole frame, us": 2000.0,
    "talker one: whole frame, us": 500.0,
}
"""What an H200-class GPU must stay under (medians)."""
FASTER = "published, by the host's clock: replay of 50 steps is faster than the model's own eager steps by"
"""Both from the first enqueue to the return of synchronize: launches and the wait are in either."""
FLOORS = {name: name.replace(", us", ", floor us") for name in TARGETS}
"""Target -> the figure that says what memory and arithmetic alone would take."""
AT_LEAST = {FASTER: 10.0, "talkers whose frames all fit at 30 fps (p99)": 1000.0}
"""What it must reach."""


def per_step(setting: Setting) -> Figures:
    """Device time of every stage and denoise step beside its floor of the same run; whole frames without marks."""
    found: Figures = {}
    for name in ("published", "talker", "tiny_voca"):
        if name not in setting.bundles:
            continue
        bundle = setting.bundle(name)
        with setting.talker(bundle, timings=True) as talker, setting.talker(bundle) as plain:
            rates = measure_rates(talker.device)
            found.setdefault("rates", rates.as_dict())
            profiler = Profiler(talker, rates, plain=plain)
            for schedule in talker.schedules:
                _add_profile(found, name, profiler, schedule, setting.count(300, least=12))
            if not setting.dry:  # the clocks as these frames left them: at rest a GPU tells of no throttling
                found[f"{name}: health right after its frames"] = setting.health()
    return found


def _add_profile(found: Figures, name: str, profiler: Profiler, schedule: str, frames: int) -> None:
    profile = profiler.run(schedule, frames)
    key = f"{name} {schedule}"
    whole = profile.unmarked or profile.frame  # the marks' own cost is in no target
    found[f"{key}: whole frame, us"] = whole.median / 1e3
    found[f"{key}: whole frame p99, us"] = whole.p99 / 1e3
    found[f"{key}: whole frame with marks, us"] = profile.frame.median / 1e3
    found[f"{key}: pieces together on the device, us"] = profile.device.median / 1e3
    found[f"{key}: between pieces on the device, us"] = profile.between.median / 1e3
    for part, times in profile.host.items():
        found[f"{key}: {part} on the host, us"] = times.median / 1e3
    stages = [piece for piece in profile.pieces if piece.row < 0]
    floors = [piece.floor_ns for piece in stages if piece.floor_ns is not None]
    found[f"{key}: whole frame, floor us"] = sum(floors) / 1e3 if len(floors) == len(stages) else None
    for piece in stages:
        found[f"{key}: {piece.name}, us"] = piece.times.median / 1e3
        found[f"{key}: {piece.name}, floor us"] = None if piece.floor_ns is None else piece.floor_ns / 1e3
        found[f"{key}: {piece.name}, times the floor"] = piece.ratio
        if piece.stage in ("denoise", "collapse"):
            kind = "denoise steps together" if schedule == "full" else "denoise together"
            found[f"{key}: {kind}, us"] = piece.times.median / 1e3
            found[f"{key}: {kind}, floor us"] = found[f"{key}: {piece.name}, floor us"]
    rows = [piece.times.median / 1e3 for piece in profile.pieces if piece.row >= 0]
    if rows:
        found[f"{key}: one denoise step, us (min, median, max over rows)"] = [
            min(rows),
            float(np.median(rows)),
            max(rows),
        ]
    found[f"{key}: warnings"] = list(profile.warnings)


def granularity_and_marks(setting: Setting) -> Figures:
    """Whole frames by a graph a step, a graph a frame and none, with marks and without: what each of them costs."""
    found: Figures = {}
    for name in ("published", "talker"):
        if name not in setting.bundles:
            continue
        for graphs in ("step", "frame", "eager"):
            for timings in (False, True):
                with setting.talker(setting.bundle(name), graphs=graphs, timings=timings) as talker:
                    sound = sound_for(talker, 1)[0]
                    costs = [talker.make(window=sound).cost_ns for _ in range(setting.count(200, least=8))]
                median = float(np.median(costs[len(costs) // 4 :])) / 1e3
                found[f"{name}, {graphs}{', marks' if timings else ''}: frame, us"] = median
    return found


def marks_and_launches(setting: Setting) -> Figures:
    """What one mark in a graph costs on the device, and one launch on the host and on the device."""
    if setting.dry:
        raise NotRunError("the host has no queue")
    device = setting.device()
    marks = [device.mark(str(count)) for count in range(40)]
    spans, host, gpu = [], [], []

    def record_all() -> None:
        for mark in marks:
            device.record(mark)

    graph = device.capture("marks", record_all)
    for _ in range(100):
        device.launch(graph)
        device.synchronize()
        spans.append(device.elapsed(marks[0], marks[-1]) / 39e3)
    a, b = (device.allocate(name, TensorSpec("float32", (256,))) for name in "ab")
    copy, first, last = device.capture("copy", lambda: device.copy(a, b)), device.mark("first"), device.mark("last")
    for _ in range(100):
        device.record(first)
        begin = time.perf_counter_ns()
        for _ in range(50):
            device.launch(copy)
        host.append((time.perf_counter_ns() - begin) / 50e3)
        device.record(last)
        device.synchronize()
        gpu.append(device.elapsed(first, last) / 50e3)
    device.close()
    return {
        "a mark in a graph, us": float(np.median(spans)),
        "a launch on the host, us": float(np.median(host)),
        "a graph of one copy, launched back to back, us": float(np.median(gpu)),
    }


def replay_against_eager(setting: Setting) -> Figures:
    """The same 50 denoise steps as graphs and as plain PyTorch calls, and the whole frame, in one run.

    Our granularities are compared by the device's time between the first mark and the last. PyTorch's calls have no
    such marks: they and our replay are compared by the host's clock, from the first enqueue to the return of
    synchronize.
    """
    found: Figures = {}
    for name in ("published", "talker"):
        if name not in setting.bundles:
            continue
        spans = {}
        for graphs in ("step", "frame", "eager"):
            talker = setting.talker(setting.bundle(name), graphs=graphs, timings=True)
            steps, frames = _denoise_spans(talker, setting.count(100, least=6))
            spans[graphs] = steps
            found[f"{name}, {graphs}: denoise steps on the device, from first to last, us"] = steps / 1e3
            found[f"{name}, {graphs}: whole frame, us"] = frames / 1e3
            talker.close()
        found[f"{name}, on the device: replay of steps is faster than eager by"] = spans["eager"] / spans["step"]
        found[f"{name}, on the device: replay of a frame is faster than eager by"] = spans["eager"] / spans["frame"]
        replayed = _replayed_steps(setting, setting.bundle(name))
        found[f"{name}, by the host's clock: replay of steps, us"] = replayed
        plain = _same_stage(setting, setting.bundle(name))
        found[f"{name}, by the host's clock: the same steps called from PyTorch one by one, us"] = plain
        found[f"{name}, by the host's clock: replay of steps is faster than PyTorch's calls by"] = plain / replayed
        if name == "published":
            own = _own_head(setting)
            found["published, by the host's clock: the model's own head in eager PyTorch, 50 steps, us"] = own
            found[FASTER] = own / replayed
    return found


def _denoise_spans(talker: Talker, frames: int) -> tuple[float, float]:
    """Return medians in ns: from the begin of the first denoise step to the end of the last, and of the frame."""
    sound = sound_for(talker, 1)[0]
    spans, costs = [], []
    for count in range(10 + frames):
        frame = talker.make(window=sound)
        if count < 10:
            continue
        pieces = list(zip(talker.labels(), talker.starts(), talker.durations(), strict=True))
        rows = [(start, start + spent) for label, start, spent in pieces if label.endswith("]")]
        rows = rows or [(start, start + spent) for _, start, spent in pieces]
        spans.append(rows[-1][1] - rows[0][0])
        costs.append(frame.cost_ns)
    return float(np.median(spans)), float(np.median(costs))


def _replayed_steps(setting: Setting, bundle: Bundle) -> float:
    """Return the median us of one schedule's denoise runs, a graph each without marks, and the wait for the last."""
    with setting.talker(bundle, graphs="step") as talker:
        steps = _denoise_launches(talker)
        costs = []
        for _ in range(setting.count(60, least=4)):
            talker.device.synchronize()
            begin = time.perf_counter_ns()
            for launch in steps:
                launch()
            talker.device.synchronize()
            costs.append(time.perf_counter_ns() - begin)
    return float(np.median(costs[len(costs) // 4 :])) / 1e3


def _denoise_launches(talker: Talker) -> list[Callable[[], None]]:
    """Return what launches each row of the first schedule, in order."""
    replays = ([part.call for part in replay.parts if part.label.endswith("]")] for replay in talker.replays)
    return next(filter(None, replays))


def _same_stage(setting: Setting, bundle: Bundle) -> float:
    """Return the median us of one schedule's denoise runs as plain PyTorch calls, one stream, nothing in between."""
    step = next(step for step in bundle.manifest.program if isinstance(step, Step) and step.rows)
    pool = TorchPool(setting.device())
    module = OnnxModule(bundle.onnx(step.stage), pool.where)
    given, made = (
        {
            name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=pool.where)
            for name, spec in specs.items()
        }
        for specs in (module.inputs, module.outputs)
    )
    rows = len(bundle.table(bundle.manifest.ladder[0]))
    costs = []
    with pool.entered():
        for _ in range(setting.count(60, least=4)):
            _wait(pool.where)
            begin = time.perf_counter_ns()
            for _ in range(rows):
                module(given, made)
            _wait(pool.where)
            costs.append(time.perf_counter_ns() - begin)
    pool.device.close()
    return float(np.median(costs[len(costs) // 4 :])) / 1e3


def _zeros(specs: Mapping[str, TensorSpec], where: str) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=where) for name, spec in specs.items()
    }


def _own_head(setting: Setting) -> float:
    """Return the median us of 50 steps of StreamingTalker's diffusion head at published size, as it was published.

    The exported stage multiplies out what is linear; PyTorch's eager way is the network as it is written. The times
    lie on the GPU already, which favours PyTorch.
    """
    from edgetalker.models.streamingtalker.config import config_from_shapes
    from edgetalker.models.streamingtalker.network import Head
    from edgetalker.models.streamingtalker.schedule import make_schedule

    where = "cpu" if setting.dry else "cuda:0"
    config, schedule = config_from_shapes({}), make_schedule(50, "legacy_sample")
    head = Head(torch.nn.Linear(config.vae_width, config.width), config).to(where).eval()
    noise = torch.randn(1, 1, config.vae_width, device=where)
    condition = torch.randn(1, 1, config.width, device=where)
    times = [torch.tensor([int(moment)], device=where) for moment in schedule.times]
    costs = []
    with torch.inference_mode():
        for _ in range(setting.count(60, least=4)):
            _wait(where)
            begin = time.perf_counter_ns()
            x = noise
            for moment, keep, gain in zip(times, schedule.keep, schedule.gain, strict=True):
                x = float(keep) * x + float(gain) * head(x, condition, moment)
            _wait(where)
            costs.append(time.perf_counter_ns() - begin)
    return float(np.median(costs[len(costs) // 4 :])) / 1e3


def _wait(where: str) -> None:
    if where != "cpu":
        torch.cuda.synchronize()


def lockstep_talkers(setting: Setting) -> Figures:
    """Frame times of many talkers in one talker, and how many fit into a frame at 30 fps."""
    bundle = setting.bundle("talker")
    found: Figures = {}
    fitting = 0
    for talkers in (1, 8, 64, 512, 1024):
        if setting.dry and talkers > 8:
            continue
        try:
            summary = _lockstep_frame(setting, bundle, talkers)
        except (OutOfMemoryError, torch.OutOfMemoryError) as error:  # all else is a fault, a lost GPU most of all
            found[f"{talkers} talkers"] = f"not run: {str(error).splitlines()[0]}"
            continue
        found[f"{talkers} talkers: frame median, us"] = summary.median / 1e3
        found[f"{talkers} talkers: frame p99, us"] = summary.p99 / 1e3
        fitting = talkers if summary.p99 < 1e9 / 30 else fitting
    found["talkers whose frames all fit at 30 fps (p99)"] = fitting
    if not fitting and not setting.dry:
        raise AssertionError(f"not one talker fits: {found}")
    return found


def _lockstep_frame(setting: Setting, bundle: Any, talkers: int) -> Summary:
    device = setting.device()
    try:
        many, engines = lockstep(bundle, talkers, device)
        talker = setting.talker(many, device, engines=engines, noise=_any_noise())
        sound = sound_for(talker, 1)[0]
        schedule = talker.schedules[-1]
        costs = [talker.make(schedule, window=sound).cost_ns for _ in range(setting.count(200, least=8))]
        assert np.isfinite(talker.motion).all()
    finally:
        device.close()
    return Summary.of(costs[len(costs) // 4 :])


def _any_noise() -> Callable[[str, int, NDArray[np.float32]], None]:
    """Noise for all talkers at once; the counter-based noise is made one talker after the other."""
    random = np.random.default_rng(0)

    def fill(_name: str, _frame: int, into: NDArray[np.float32]) -> None:
        into[...] = random.standard_normal(into.shape, np.float32)

    return fill
