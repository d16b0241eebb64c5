"""Drive two avatars at once from a file on the clock, as `edgetalker live` does, and barge in after a second.

python examples/drive_avatars.py speech.wav --to vmc://127.0.0.1:39540 --to livelink://127.0.0.1:11111
"""

from __future__ import annotations

import argparse
import threading

from edgetalker.outputs import sink_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.live import Live
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.talker import Talker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", help="a sound file")
    parser.add_argument("--to", action="append", required=True, help="where the motion goes")
    parser.add_argument("--bundle", help="a bundle's folder (default: the talker that ships with the package)")
    args = parser.parse_args()

    clock = SystemClock()
    with Talker(args.bundle) as talker:
        source = PacedSource(FileSource(args.speech, talker.manifest.audio.rate), clock)
        sinks = [sink_for(url) for url in args.to]
        live = Live(talker, source, sinks, clock=clock, ladder=rehearse(talker, clock=clock))

        # Somebody speaks over the talker: forget what waits and begin anew. From any thread.
        barge_in = threading.Timer(1.0, live.reset)
        barge_in.start()
        report = live.run()
        barge_in.cancel()

    print(report.tally.summary())
    for url, statistics in report.sinks.items():
        print(f"{url}: {statistics}")
        print(report.delays[url])


if __name__ == "__main__":
    main()
