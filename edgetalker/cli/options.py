"""Options that several commands share, and what they mean: the bundle, the device, the schedule, the controls."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from edgetalker.engines.arrays import read_clip
from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.runtime.model import DEVICES, bundled
from edgetalker.runtime.model import find_bundle as bundle_path
from edgetalker.runtime.program import GRANULARITIES
from edgetalker.runtime.sinks.options import Option, switch
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.values import SYNONYMS
from edgetalker.runtime.talker import Talker
from edgetalker.runtime.voice import DETECTORS

__all__ = [
    "add_bundle",
    "add_controls",
    "add_device",
    "add_table",
    "add_voice",
    "bundle_path",
    "bundled",
    "exit_code",
    "named",
    "on_signals",
    "session_from",
    "set_controls",
    "tell_plan",
]

STYLE_INPUT = "style_motion"


def add_bundle(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add the bundle, a folder or the name of one that ships with the package: `--bundle` with every command.

    positional: it may stand without `--bundle` too, with commands that are about a bundle and nothing else.
    """
    text = "bundle folder, or the name of one that ships with the package (default: the bundled talker)"
    parser.add_argument("--bundle", type=_path, action=_Once, help=text)
    if positional:
        parser.add_argument(
            "bundle", nargs="?", type=_path, action=_Once, default=argparse.SUPPRESS, help="the same without its name"
        )


def _path(text: str) -> Path:
    return Path(named(text))


class _Once(argparse.Action):
    """Stores a value that may be named in two ways, but not in both."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if str(values) == argparse.SUPPRESS:  # how argparse calls for a positional that is not there
            return
        before = getattr(namespace, self.dest, None)
        if before not in (None, values):
            parser.error(f"two came where one bundle was wanted: {before} and {values}")
        setattr(namespace, self.dest, values)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add what decides where and how frames are computed."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", choices=DEVICES, default="host", help="where the stages run (default: host)")
    group.add_argument("--engine", default="auto", help="auto, ort, tensorrt, rtx, lean or torch (default: auto)")
    group.add_argument("--precision", default="fp32", help="fp32, or one that `edgetalker convert` added")
    group.add_argument(
        "--graphs",
        choices=GRANULARITIES,
        help="a graph per step, per frame, or none (default: frame on a GPU, else step)",
    )
    group.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of an engine on the CPU")
    group.add_argument("--gpu", type=natural, default=0, metavar="N", help="which GPU, with --device cuda (default: 0)")
    group.add_argument(
        "--wait",
        choices=("spin", "yield", "block"),
        default="spin",
        help="how the host waits for the GPU (default: spin)",
    )
    group.add_argument("--seed", type=natural, metavar="N", help="seed of the noise, the same after each reset")


def add_voice(group: argparse._ArgumentGroup, default: str) -> None:
    """Add which detector says that somebody speaks. default: what happens without the option."""
    group.add_argument(
        "--voice",
        choices=DETECTORS,
        help=f"what tells a voice: its level, or Silero's network, which knows music and typing (default: {default})",
    )


def session_from(args: argparse.Namespace, *, timings: bool = False, **more: Any) -> Talker:
    """Open the talker that the options of `add_bundle` and `add_device` describe; more: other options of a talker."""
    return Talker(
        args.bundle,
        device=args.device,
        engine=args.engine,
        precision=args.precision,
        graphs=args.graphs,
        threads=args.threads,
        seed=args.seed,
        timings=timings,
        gpu=args.gpu,
        wait=args.wait,
        **more,
    )


def tell_plan(session: Talker) -> None:
    """Say which piece of a chunk runs in which frame's slot, where the bundle spreads its chunks."""
    if session.spread is not None:
        for name, plan in session.spread.plan.items():
            lines = "\n  ".join(plan.lines())
            sys.stderr.write(f"a chunk's pieces, by the slots of the frames before it (schedule {name}):\n  {lines}\n")


def named(text: str) -> str:
    """Parse a name that is not empty: a shell's variable that was not set would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name came")
    return text


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _at_least(text, 1)


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} came; at least {least} was wanted")
    return value


def milliseconds(text: str) -> float:
    """Parse a positive number of milliseconds; returns seconds."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of milliseconds") from None
    if not 0.0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} ms came; more than 0 was wanted")
    return value * 1e-3


def add_table(parser: argparse._ActionsContainer, table: Mapping[str, Option]) -> None:
    """Add the options of an output, as its URL and a configuration file know them."""
    for name, option in table.items():
        if option.read is switch:
            action = argparse.BooleanOptionalAction
            parser.add_argument(f"--{name}", action=action, default=option.default, help=option.purpose)
        else:
            read = _argument(option.read)
            metavar = name.rpartition("-")[2].upper()
            parser.add_argument(f"--{name}", type=read, default=option.default, metavar=metavar, help=option.purpose)


def _argument(read: Callable[[Any], Any]) -> Callable[[str], Any]:
    def checked(value: str) -> Any:
        try:
            return read(value)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(f"{fault}, and got `{value}`") from None

    return checked


def add_controls(parser: argparse.ArgumentParser) -> None:
    """Add the settings that a bundle may hear."""
    group = parser.add_argument_group("controls (what a bundle hears, `edgetalker inspect` lists)")
    group.add_argument("--emotion", metavar="NAME:AMOUNT,…", help="such as joy:0.7 or joy:0.5,surprise:0.3")
    group.add_argument("--style", metavar="AMOUNT|NAME:AMOUNT,…", help="such as 0.6, or articulation:1.2,head:0.5")
    group.add_argument("--style-motion", type=Path, metavar="CLIP.npz", help="a clip of motion to move like (ARTalk)")
    group.add_argument("--fix-pose", action="store_true", help="the head is still (ARTalk)")
    group.add_argument("--identity", type=natural, metavar="N", help="the training identity to move like")
    group.add_argument("--set", action="append", default=[], metavar="CONTROL=VALUES", help="any control by its name")


def set_controls(session: Talker, args: argparse.Namespace) -> None:
    """Apply the settings. Raises OptionError for a control or a name that the bundle does not have."""
    chosen = [("emotion", args.emotion), ("style", args.style)]
    for text in args.set:
        name, equals, values = text.partition("=")
        if not equals:
            raise OptionError(f"--set `{text}`: CONTROL=VALUES was wanted, such as emotion=joy:0.7")
        chosen.append((name, values))
    if args.fix_pose:
        chosen.append(("head", "head:0"))
    if getattr(args, "identity", None) is not None:
        chosen.append((IDENTITY, str(args.identity)))
    for name, values in chosen:
        if values is not None:
            set_control(session, name, values)
    if args.style_motion is not None:
        _move_like(session, args.style_motion)
    if IDENTITY in session.controls:
        _check_identity(session)


IDENTITY = "identity"
"""The control whose places are the identities that a network was trained with: one of them 1, the others 0."""


def _check_identity(session: Talker) -> None:
    target = session.controls[IDENTITY].target
    if target.sum() != 1 or target.max() != 1:
        weights = ", ".join(f"{value:g}" for value in target)
        sys.stderr.write(
            f"warning: identity is {weights}; the network was trained with one of them 1 and the others 0 "
            "(--identity N sets that)\n"
        )


def _identity(session: Talker, text: str) -> dict[str, float]:
    """Return the weights of one identity by its number. Raises OptionError for one that is not there."""
    names = session.controls[IDENTITY].tensor.names
    if int(text) >= len(names):
        raise OptionError(f"identity {int(text)}; the bundle has 0 to {len(names) - 1}")
    return {name: float(place == int(text)) for place, name in enumerate(names)}


def _move_like(session: Talker, path: Path) -> None:
    """Feed a clip of motion. Raises OptionError for a bundle without such an input, InputError for the clip."""
    if STYLE_INPUT not in session.inputs:
        known = ", ".join(session.inputs) or "none"
        raise OptionError(f"--style-motion: the bundle has no input `{STYLE_INPUT}`; its inputs are {known}")
    frames, width = session.inputs[STYLE_INPUT].tensor.spec.shape[1:]
    clip = read_clip(path, width, 1 << 20)
    if len(clip) < frames:
        raise InputError(f"{path} has {len(clip)} frames of motion; the bundle wants {frames}")
    session.feed(STYLE_INPUT, clip[:frames], time=0.0)
    session.set("style", {"style": 1.0, "fed": 1.0})


def set_control(session: Talker, name: str, text: str) -> None:
    """Set one control from text: `name:amount,…`, numbers in order, or one number for the first place."""
    if name not in session.controls:
        known = ", ".join(session.controls) or "none"
        raise OptionError(f"the bundle has no control `{name}`; it has {known}{nearest(name, session.controls)}")
    names = session.controls[name].tensor.names
    if name == IDENTITY and text.strip().isdecimal() and len(names) > 1:
        session.set(name, _identity(session, text.strip()))
        return
    parts = [part for part in text.split(",") if part]
    if any(":" in part for part in parts):
        pairs = [part.partition(":") for part in parts]
        named = {SYNONYMS.get(key, key) if key not in names else key: _number(name, value) for key, _, value in pairs}
        session.set(name, named)
        return
    if len(parts) == 1 and parts[0] in (*names, *SYNONYMS):
        session.set(name, {SYNONYMS.get(parts[0], parts[0]): 1.0})
        return
    numbers = [_number(name, part) for part in parts]
    session.set(name, {names[0]: numbers[0]} if len(numbers) == 1 and names else numbers)


def _number(control: str, text: str) -> float:
    try:
        return float(text or "1")
    except ValueError:
        raise OptionError(f"control `{control}`: `{text}` is no number") from None


def exit_code(came: Sequence[int], failed: Sequence[tuple[Sink, Exception]]) -> int:
    """Return 128 + the signal that ended a run; else what an output that was left out exits with; else 0."""
    codes = [getattr(error, "exit_code", 74) for _, error in failed]
    return 128 + came[0] if came else max(codes, default=0)


@contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` at the first SIGINT, SIGTERM or SIGHUP; a second one interrupts at once. Yields those that came.

    Windows has SIGBREAK (Ctrl-Break, a closed window) in SIGHUP's place. `nohup` keeps its meaning.
    """
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    heeded = [number for number in known if number != hangup or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
