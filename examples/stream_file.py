"""Print how far the mouth opens, frame by frame, for a sound file.

python examples/stream_file.py speech.wav [--bundle FOLDER]
"""

from __future__ import annotations

import argparse

from edgetalker import Model, stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", help="a sound file, or `mic`")
    parser.add_argument("--bundle", help="a bundle's folder (default: the talker that ships with the package)")
    args = parser.parse_args()

    with Model(args.bundle) as model:  # opened once; `stream` plays any number of sounds through it
        jaw = model.bundle.manifest.motion.names.index("JawOpen")
        for frame in stream(args.speech, model):
            print(f"{float(frame.time):7.3f} s  {frame.motion[jaw]:.3f}  {'#' * round(40 * frame.motion[jaw])}")


if __name__ == "__main__":
    main()
