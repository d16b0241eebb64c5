"""The whole recipe, from text to bundle: `python -m edgetalker.models.online.train STAGE ...`.

    data      speak and animate the training and held-out sessions     (every synthesizer that is installed)
    from-bundle  begin with the weights of a bundle                    -> WORK/trunk.pt, teacher.pt, talker.pt
    people    sessions of recorded people without transcripts          (hama, pocketsphinx)
    trunk     train the causal audio trunk                             -> WORK/trunk.pt
    teacher   train condition network and ten-step denoiser on it      -> WORK/teacher.pt
    student   distill the denoiser into one step                       -> WORK/talker.pt
    veto      train what keeps the mouth shut where nobody speaks      -> WORK/veto.pt, talker.pt
    evaluate  score on voices never heard                              -> WORK/results.json, plots
    export    write the bundle

Every stage is seeded and goes on from its own checkpoint when it is started again; a checkpoint at any moment is a
usable model. Training uses a GPU where torch finds one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgetalker.engines.errors import UserError

__all__ = ["main"]

_ELSEWHERE = {"evaluate": "edgetalker.models.online.evaluate"}
_HELP = {"evaluate": "score on voices never heard"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgetalker.models.online.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    stages = parser.add_subparsers(dest="stage", required=True)
    _data(stages.add_parser("data", help="speak and animate"))
    bundle = stages.add_parser("from-bundle", help="begin with the weights of a bundle")
    bundle.add_argument("--bundle", type=Path, required=True, help="folder of the bundle, as `export` writes it")
    bundle.add_argument("--work", type=Path, required=True, help="folder of the checkpoints; none may be there")
    bundle.add_argument(
        "--trunks", type=Path, nargs="+", default=[], metavar="TRUNK.pt",
        help="mix the mean of these into the bundle's trunk: runs that went on from it",
    )  # fmt: skip
    bundle.add_argument(
        "--share", type=float, default=0.5, metavar="S", help="by how much, 0 to 1 (default %(default)s)"
    )
    _people(stages.add_parser("people", help="label and animate recorded people"))
    trunk = stages.add_parser("trunk", help="train the audio trunk")
    _training(trunk, minutes=72.0, rows=32, rate=1.3e-3)
    trunk.add_argument("--kind", choices=("gru", "transformer"), help="its memory (default: gru, or what is there)")
    trunk.add_argument(
        "--early-share", type=float, default=0.0, metavar="S",
        help="mix the weights at a quarter of the schedule into the finished ones: 0.25 where a trunk is trained on",
    )  # fmt: skip
    _training(stages.add_parser("teacher", help="train the ten-step head"), minutes=12.0, rows=768, rate=1.2e-3)
    student = stages.add_parser("student", help="distill the one-step head")
    _training(student, minutes=12.0, rows=256, rate=5e-4)
    student.add_argument(
        "--matching", type=float, default=0.0, metavar="W",
        help="weight of distribution matching to the teacher (default %(default)s: none)",
    )  # fmt: skip
    _training(stages.add_parser("veto", help="learn where nobody speaks"), minutes=15.0, rows=24, rate=2e-3)
    for name, module in _ELSEWHERE.items():
        stage = stages.add_parser(name, help=_HELP[name], add_help=False)
        stage.set_defaults(module=module)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder to fill; sessions that are there are kept")
    parser.add_argument("--sessions", type=int, default=720, help="training sessions of a minute (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=5, help="sessions of each held-out group (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")


def _people(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder whose `train` gets NAME-NN.npz")
    parser.add_argument(
        "--clips", type=Path, nargs="+", required=True, metavar="NAME", help="a folder of .wav, .flac, .ogg a speaker"
    )
    parser.add_argument("--rounds", type=int, default=2, help="times that each phrase is used (default %(default)s)")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")


def _training(parser: argparse.ArgumentParser, *, minutes: float, rows: int, rate: float) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        metavar="FOLDER",
        help="folder that `data` filled; give it again for more folders",
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[],
        metavar="S",
        help="how much of the training comes from each folder (default: each session counts the same)",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--minutes", type=float, default=minutes, help="time to train (default %(default)s)")
    parser.add_argument("--rows", type=int, default=rows, help="rows of a batch (default %(default)s)")
    parser.add_argument("--rate", type=float, default=rate, help="peak learning rate (default %(default)s)")
    parser.add_argument("--lookahead", type=int, choices=(0, 1, 2), default=2, help="frames (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage of the recipe and return its exit status; a user's mistake is one line and status 2."""
    try:
        return _run(arguments)
    except (FileNotFoundError, UserError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.stage in _ELSEWHERE:
        module = importlib.import_module(options.module)
        own = argparse.ArgumentParser(prog=f"{parser.prog} {options.stage}", description=module.__doc__)
        module.add_arguments(own)
        _set_threads(options.threads)
        return int(module.run(own.parse_args(rest)))
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.stage == "data":
        return _generate(options)
    if options.stage == "from-bundle":
        return _begin(options)
    if options.stage == "people":
        from edgetalker.models.online.data.people import fill

        made = fill(options.data / "train", options.clips, options.seed, options.rounds, options.workers)
        print(f"{made} sessions of people in {options.data / 'train'}")
        return 0 if made else 1
    _set_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    return _train(options)


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _generate(options: argparse.Namespace) -> int:
    from edgetalker.models.online.data.generate import generate

    made = generate(options.data, options.sessions, options.held_out, options.seed, options.workers)
    print(f"{made} sessions in {options.data}")
    return 0 if made else 1


def _begin(options: argparse.Namespace) -> int:
    from edgetalker.models.online.recover import store

    talker = store(options.bundle, options.work, options.trunks, options.share)
    print(f"{options.work}: trunk.pt, teacher.pt, talker.pt; go on with --lookahead {talker.lookahead}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from edgetalker.models.online.streams import Corpus
    from edgetalker.models.online.train_head import HeadPlan, train_student, train_teacher
    from edgetalker.models.online.train_trunk import TrunkPlan, train_trunk
    from edgetalker.models.online.train_veto import VetoPlan, train_veto
    from edgetalker.models.online.trunk import TrunkSize

    if options.shares and len(options.shares) != len(options.data):
        raise UserError(
            f"{len(options.shares)} shares are given for {len(options.data)} folders",
            hint="one number after --shares for each --data",
        )
    corpus = Corpus(*(folder / "train" for folder in options.data), shares=options.shares)
    if options.stage == "trunk":
        plan = TrunkPlan(
            options.minutes, options.rows, rate=options.rate, seed=options.seed, early_share=options.early_share
        )
        sizes = {"gru": TrunkSize(), "transformer": TrunkSize(256, 256, 3, "transformer")}
        print(train_trunk(corpus, options.work, plan, sizes.get(options.kind)))
        return 0
    if options.stage == "veto":
        print(
            train_veto(
                corpus, options.work, VetoPlan(options.minutes, options.rows, rate=options.rate, seed=options.seed)
            )
        )
        return 0
    work = HeadPlan(options.minutes, options.rows, options.rate, options.lookahead, options.seed)
    if options.stage == "teacher":
        print(train_teacher(corpus, options.work, work))
        return 0
    print(train_student(corpus, options.work, replace(work, matching=options.matching)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
