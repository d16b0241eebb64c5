"""`edgetalker compare`: how far a bundle is from the published paths on the same weights, speech and noise."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgetalker.cli.options import bundle_path, natural, positive
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.engines.files import checked_target, write_whole
from edgetalker.engines.lazy import packages_for

__all__ = ["add_comparison", "add_parser", "check_comparison", "compare_bundle", "run"]

T = TypeVar("T")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        help="measure a bundle against the published paths, or sweep its windows",
        description="Plays a StreamingTalker bundle and both published paths (streaming_inference and predict) with "
        "the same weights, speech and noise. Distances are RMS of the difference over RMS of the motion.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="what the bundle was exported from")
    parser.add_argument("speech", type=Path, metavar="SPEECH", help="a sound file")
    parser.add_argument("--vae", type=Path, metavar="VAE_CKPT", help="stage-1 checkpoint, where stage 2 lacks the VAE")
    parser.add_argument("--ignore-extra", action="store_true", help="pass over entries that no StreamingTalker has")
    add_comparison(parser)
    group = parser.add_argument_group(
        "sweep", "with any of these, contracts are tried in place of the bundle's; several values by commas"
    )
    for option, metavar, text in (
        ("--block", "MS,…", "sound that the audio encoder hears at once"),
        ("--lookahead", "MS,…", "sound heard past a block"),
        ("--context", "MS,…", "sound heard before a block"),
    ):
        group.add_argument(option, type=several(natural), metavar=metavar, help=text)
    group.add_argument("--history", type=several(positive), metavar="FRAMES,…", help="frames of history")
    group.add_argument("--decode-window", type=several(positive), metavar="FRAMES,…", help="latents decoded")
    group.add_argument("--phase", type=several(str), metavar="window,absolute", help="periodic positions")
    group.add_argument("--within", type=float, metavar="D", help="name the shortest contract that keeps this distance")
    group.add_argument(
        "--target",
        choices=("streaming_inference", "predict"),
        default="streaming_inference",
        help="the published path that contracts are measured against (streaming_inference)",
    )


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Add what a comparison needs beside a bundle, a checkpoint and speech."""
    group = parser.add_argument_group("comparison")
    group.add_argument("--frames", type=positive, default=150, metavar="N", help="of the speech's beginning (150)")
    group.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of the noise (0)")
    group.add_argument("--lips", type=Path, metavar="FILE", help="vertices of the lips (text or .npy; published ten)")
    group.add_argument("--upper-face", type=Path, metavar="FILE", help="vertices of the upper face (text or .npy)")
    group.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON")
    group.add_argument("--png", type=Path, metavar="FILE", help="tracks of the vertices that move most")


def several(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return a parser of values by commas."""

    def parsed(text: str) -> list[T]:
        return [parse(part.strip()) for part in text.split(",") if part.strip()]

    parsed.__name__ = f"list of {parse.__name__}"
    return parsed


def run(args: argparse.Namespace) -> int:
    """Compare, or sweep. Raises UserError subclasses for whatever does not fit."""
    choices = {
        name: values
        for name, values in (
            ("block_ms", args.block),
            ("lookahead_ms", args.lookahead),
            ("context_ms", args.context),
            ("history", args.history),
            ("decode_window", args.decode_window),
            ("phase", args.phase),
        )
        if values
    }
    if args.within is not None and not choices:
        raise OptionError("--within is for a sweep", hint="add values, such as --context 0,500,1000,2000")
    return compare_bundle(bundle_path(args.bundle), args, choices)


def check_comparison(args: argparse.Namespace) -> None:
    """Say before the minutes that the work takes what can be said of its files. Raises UserError subclasses."""
    for target in (args.json, args.png):
        if target is not None:
            checked_target(target)
    for given in (args.speech, args.lips, args.upper_face):
        if given is not None and not given.exists():
            raise InputError(f"{given}: no such file")


def compare_bundle(path: Path, args: argparse.Namespace, choices: Mapping[str, Sequence[Any]] | None = None) -> int:
    """Print the distances of a bundle, or of the contracts of a sweep, and write what was asked for."""
    with packages_for("comparing with PyTorch", extra="export"):
        import torch

        from edgetalker.export.streamingtalker import compare as comparing
        from edgetalker.models.streamingtalker import load_checkpoint, make_schedule
    from edgetalker.engines.bundle import Bundle
    from edgetalker.runtime.sources.file import read_whole

    check_comparison(args)
    bundle = Bundle.open(path)
    model = load_checkpoint(
        args.checkpoint, args.vae, comparing.untold_of(bundle), ignore_extra=args.ignore_extra, say=say
    )
    options = comparing.bundle_options(bundle, model.config)
    samples = torch.from_numpy(read_whole(args.speech, 16000))
    frames = min(args.frames, len(samples) * model.config.frame_rate // 16000 - 1)
    if frames < 2:
        raise InputError(f"{args.speech} is too short: {len(samples) / 16000:.2f} s; at least three frames were wanted")
    clip = comparing.Clip(
        samples,
        frames,
        torch.tensor([bundle.manifest.tensors["identity"].default]),
        torch.from_numpy(bundle.array("template.npy").reshape(-1)),
        make_schedule(options.full_steps, options.rule),
        args.seed,
    )
    regions = comparing.regions_of(model.config, args.lips, args.upper_face)
    document: dict[str, Any] = {"bundle": bundle.manifest.name, "speech": args.speech.name, "frames": frames}
    if choices:
        target = getattr(args, "target", "streaming_inference")
        tried = []
        for one in comparing.sweep(model, clip, options, choices, regions, target):
            tried.append(one)
            print(_line(_contract(one, choices), one.distance.ratios))
        document |= {"target": target, "sweep": [_entry(one, choices) for one in tried]}
        if args.within is not None:
            document["shortest"] = _shortest(tried, args.within, choices)
    else:
        distances, takes = comparing.compare(bundle, model, clip, regions, say)
        for distance in distances:
            print(_line(distance.name, distance.ratios))
        document["distances"] = {distance.name: distance.ratios for distance in distances}
        if args.png:
            from edgetalker.export.streamingtalker.tracks import plot_tracks

            document["drawn"] = plot_tracks(args.png, takes, float(bundle.manifest.motion.fps), regions.lips)
    if args.json:
        with write_whole(args.json) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
    return 0


def say(line: str) -> None:
    """Print to stderr."""
    print(line, file=sys.stderr)


def _line(name: str, ratios: Mapping[str, float]) -> str:
    return f"{name:<44} " + "  ".join(f"{region} {ratio:.4f}" for region, ratio in ratios.items())


def _contract(one: Any, choices: Mapping[str, Sequence[Any]]) -> str:
    values = ", ".join(f"{name.removesuffix('_ms').replace('_', ' ')} {getattr(one.options, name)}" for name in choices)
    return f"{values}: latency {one.latency_ms} ms"


def _entry(one: Any, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    values = {name: getattr(one.options, name) for name in choices}
    return {**values, "latency_ms": one.latency_ms, "distances": one.distance.ratios}


def _shortest(tried: Sequence[Any], within: float, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """Print and return the contract with the least latency (then the shortest windows) whose distances are within."""
    kept = [one for one in tried if max(one.distance.ratios.values()) <= within]
    if not kept:
        nearest = min(tried, key=lambda one: max(one.distance.ratios.values()))
        print(f"none is within {within:g}; the nearest is {_contract(nearest, choices)}")
        return None
    best = min(kept, key=lambda one: one.cost)
    print(f"the shortest within {within:g}: {_contract(best, choices)}")
    return _entry(best, choices)
