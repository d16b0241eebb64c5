"""Write a sink of your own: three methods. This one counts blinks and keeps the widest opening of the mouth.

python examples/own_sink.py speech.wav [--bundle FOLDER]
"""

from __future__ import annotations

import argparse

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.loop import Loop
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.talker import Talker


class Watcher(Sink):
    """Any object with open, send and close is a sink. `send` must return quickly: the talker waits for it."""

    def open(self, layout: MotionLayout) -> None:
        self.lid, self.jaw = layout.names.index("EyeBlinkLeft"), layout.names.index("JawOpen")
        self.blinks, self.widest, self.closed = 0, 0.0, False

    def send(self, frame: Frame) -> None:
        # frame.motion is only valid during this call: copy what is to be kept.
        closed = bool(frame.motion[self.lid] > 0.5)
        self.blinks += closed and not self.closed
        self.closed = closed
        self.widest = max(self.widest, float(frame.motion[self.jaw]))

    def close(self) -> None:
        print(f"{self.blinks} blinks; the jaw opened to {self.widest:.2f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", help="a sound file")
    parser.add_argument("--bundle", help="a bundle's folder (default: the talker that ships with the package)")
    args = parser.parse_args()

    with Talker(args.bundle) as talker:
        source = FileSource(args.speech, talker.manifest.audio.rate)
        tally = Loop(talker, source, [Watcher()]).run()
        print(tally.summary())
        source.close()


if __name__ == "__main__":
    main()
