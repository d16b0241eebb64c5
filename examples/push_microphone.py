"""Give a talker sound as it comes and take the frames that are ready: for programs that have their own audio.

Here the sound is raw 16-bit PCM on standard input, cut as the pipe happens to cut it; in a program of yours it is what
the audio callback gets. Each frame becomes one line of JSON.

    arecord -q -t raw -f S16_LE -r 16000 -c 1 | python examples/push_microphone.py --rate 16000
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np

from edgetalker.runtime.frame import Frame
from edgetalker.runtime.talker import Talker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, required=True, help="samples a second of the PCM")
    parser.add_argument("--bundle", help="a bundle's folder (default: the talker that ships with the package)")
    args = parser.parse_args()

    with Talker(args.bundle, rate=args.rate, rest=True) as talker:
        names = talker.layout.names
        rest = b""
        while data := os.read(sys.stdin.fileno(), 4096):
            data = rest + data
            whole = len(data) // 2 * 2
            rest = data[whole:]
            for frame in talker.accept(np.frombuffer(data[:whole], "<i2")):
                show(frame, names)
        for frame in talker.flush():  # the sound ended: what its last part still has
            show(frame, names)


def show(frame: Frame, names: tuple[str, ...]) -> None:
    shapes = {name: round(float(value), 4) for name, value in zip(names, frame.motion, strict=True) if value}
    print(json.dumps({"index": frame.index, "time": float(frame.time), "shapes": shapes}), flush=True)


if __name__ == "__main__":
    main()
