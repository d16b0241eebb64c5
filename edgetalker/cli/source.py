"""Where the sound comes from: the options of every command that hears something, their check, and what they open."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from edgetalker.cli.options import named, positive
from edgetalker.engines.errors import OptionError
from edgetalker.runtime.clock import Clock
from edgetalker.runtime.sources.convert import CHANNELS, RATES, encoding
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.sources.values import InputSource, input_source
from edgetalker.runtime.talker import Talker

__all__ = ["add_source", "check_source", "device_of", "list_inputs", "source_from", "values_from"]


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add where the sound comes from."""
    group = parser.add_argument_group("sound")
    group.add_argument(
        "speech", nargs="?", type=named, metavar="SPEECH", help="a sound file or pipe, or `-` for raw PCM on stdin"
    )
    group.add_argument("--mic", action="store_true", help="the microphone")
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="DEVICE|NAME=SOURCE",
        help="number or part of the name of the microphone; or values of a bundle's input: gaze=udp-osc://:9015, "
        "gaze=take.csv or .npz with times on the sound's clock; emotion=tags.csv of rows time,tag,intensity; "
        "repeatable",
    )
    group.add_argument("--list-inputs", action="store_true", help="list the input devices and stop")
    group.add_argument("--rate", type=positive, metavar="HZ", help="sample rate of the PCM on stdin")
    group.add_argument("--channels", type=positive, default=1, metavar="N", help="channels of the PCM on stdin")
    group.add_argument("--format", metavar="NAME", help="samples of the PCM on stdin: s16le (default), f32le, mulaw, …")
    group.add_argument("--channel", type=positive, metavar="N", help="hear this channel alone (default: their average)")
    group.add_argument(
        "--paced",
        action=argparse.BooleanOptionalAction,
        help="on the clock, hold back PCM that comes faster than it sounds (default: unless it is being recorded)",
    )


def device_of(args: argparse.Namespace) -> str | None:
    """Return the microphone that `--input` chooses; what has the form NAME=SOURCE is none."""
    devices = [text for text in args.input if "=" not in text]
    return devices[-1] if devices else None


def files_read(args: argparse.Namespace) -> list[str]:
    """Return the files that a run reads: its sound, and the values of `--input NAME=FILE`."""
    values = [text.partition("=")[2] for text in args.input if "=" in text and "://" not in text]
    return [*([] if args.speech is None else [args.speech]), *values]


def values_from(args: argparse.Namespace, talker: Talker, clock: Clock) -> list[InputSource]:
    """Return the sources of values that `--input NAME=SOURCE` names, of inputs and controls."""
    opened: list[InputSource] = []
    names = [text.partition("=")[0] for text in args.input if "=" in text]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OptionError(f"--input {twice}=… came twice; one source of an input was wanted")
    try:
        for text in args.input:
            if "=" in text:
                opened.append(input_source(text, talker.fed, clock))
    except BaseException:
        for source in opened:
            source.close()
        raise
    return opened


def check_source(args: argparse.Namespace, example: str, more: Iterable[tuple[bool, str]] = ()) -> None:
    """Raise OptionError naming every contradiction at once.

    example: a command line that works, for the hint. more: contradictions of the command's own options, as
    (whether it is one, what it is).
    """
    pcm = args.speech == "-"
    faults = [
        (args.mic and args.speech is not None, "both a file and --mic came"),
        (not args.mic and args.speech is None, "nothing to hear was named"),
        (pcm and args.rate is None, "raw PCM on stdin does not say its sample rate: add --rate, such as --rate 16000"),
        (not pcm and args.rate is not None, "--rate is for raw PCM on stdin; files and microphones say their own"),
        (not pcm and args.format is not None, "--format is for raw PCM on stdin; files and microphones say their own"),
        (not pcm and args.paced is not None, "--paced is for raw PCM on stdin"),
        (pcm and args.channels > CHANNELS, f"--channels {args.channels}: 1 to {CHANNELS} was wanted"),
        (pcm and (args.channel or 1) > args.channels, f"--channel {args.channel} of --channels {args.channels}"),
        (
            pcm and args.rate is not None and not RATES[0] <= args.rate <= RATES[1],
            f"--rate {args.rate}: {RATES[0]} to {RATES[1]} was wanted",
        ),
        (device_of(args) is not None and not args.mic, "--input chooses a microphone, but --mic is not there"),
        *more,
    ]
    found = [text for wrong, text in faults if wrong]
    if found:
        raise OptionError("\n".join(found), hint=example)
    encoding(args.format or "s16le")


def source_from(args: argparse.Namespace, rate: int, *, clock: Clock | None, loop: bool = False) -> Source:
    """Open the sound that the options of `add_source` describe.

    clock: files are handed out as fast as they sound on it, and PCM no faster; None: as fast as they are read.
    loop: over and over.
    """
    if args.mic:
        from edgetalker.runtime.sources.mic import MicSource

        return MicSource(rate, device_of(args), channel=args.channel)
    from edgetalker.runtime.sources.live import PacedSource, PcmSource

    if args.speech == "-":
        form = args.format or "s16le"
        pcm = PcmSource(rate, input_rate=args.rate, channels=args.channels, form=form, channel=args.channel)
        if clock is None or args.paced is False:
            return pcm
        return PacedSource(pcm, clock, free=None if args.paced else pcm.tempo)
    source = _file(args.speech, rate, args.channel, loop)
    return source if clock is None else PacedSource(source, clock)


def _file(path: str, rate: int, channel: int | None, loop: bool) -> Source:
    from edgetalker.runtime.sources.file import FileSource, LoopedSource

    first = FileSource(path, rate, channel=channel)
    if not loop:
        return first
    if first.pipe:
        first.close()
        raise OptionError(f"--loop: {path} is a pipe, which cannot be played twice")
    opened = [first]
    return LoopedSource(lambda: opened.pop() if opened else FileSource(path, rate, channel=channel))


def list_inputs() -> int:
    """Print the input devices. Returns the exit code: 69 where there is none."""
    from edgetalker.runtime.sources.portaudio import list_inputs as inputs

    found = inputs()
    for item in found:
        print(item)
    if not found:
        sys.stderr.write("no input device\nhint: plug a microphone in, or see docs/live.md for virtual ones\n")
    return 0 if found else 69
