"""Receive motion from `edgetalker live ... --to ws://127.0.0.1:8765?format=binary` and print it.

python examples/receive_websocket.py [ws://127.0.0.1:8765] [--frames 100]
"""

from __future__ import annotations

import argparse
import json
import struct

from websockets.sync.client import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:8765")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many (default: never)")
    args = parser.parse_args()

    with connect(args.url, compression=None) as connection:
        layout = json.loads(connection.recv())
        print(f"{len(layout['names'])} values at {layout['fps']} frames a second")
        for count, message in enumerate(connection, 1):
            index, time, shapes = read(message, layout)
            print(f"{index:6d}  {time:8.3f} s  jaw {shapes['JawOpen']:.3f}", flush=True)
            if count == args.frames:
                break


def read(message: str | bytes, layout: dict[str, list[str]]) -> tuple[int, float, dict[str, float]]:
    """Decode a frame in either form."""
    if isinstance(message, str):
        frame = json.loads(message)
        return frame["index"], frame["time"], frame["shapes"]
    magic, index, time, _outcome, count = struct.unpack_from("<4sIdII", message)
    assert magic == b"ETF1"
    values = struct.unpack_from(f"<{count}f", message, 24)
    return index, time, dict(zip(layout["names"], values, strict=True))


if __name__ == "__main__":
    main()
