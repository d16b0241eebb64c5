"""What FP16 or 8 bits do to ARTalk's bits: per scale, with the same past given, and to the memory of the next chunk.

    edgetalker convert BUNDLE --output CONVERTED && python -m benchmarks.artalk_fp16 CONVERTED [--chunks 20]

8 bits (`--precision int8`) run as ONNX Runtime plays them. Every FP16 node is rounded by itself
(calibration/onestep.py), which is more pessimistic than a GPU that accumulates in FP32. Logits and bits are compared on
inputs that the FP32 bundle made; how far the motion runs apart over minutes is what `edgetalker convert` reports.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.calibration.onestep import half_runner
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.manifest import Step
from edgetalker.engines.ort import open_session
from edgetalker.measure.bench import made_up_sound
from edgetalker.runtime.talker import Talker

Array = NDArray[Any]


def main() -> None:
    """Print a line a stage: largest and typical error of its first output, and how many bits it flips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--precision", default="fp16")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    for stage, found in compare(bundle, args.chunks, args.precision).items():
        print(json.dumps({"stage": stage, **found}))


def compare(bundle: Bundle, chunks: int, precision: str = "fp16") -> dict[str, dict[str, float]]:
    """Return figures by stage, for those that the precision converts."""
    manifest, totals = bundle.manifest, dict[str, list[tuple[Array, Array]]]()
    steps = [step for step in manifest.program if isinstance(step, Step) and step.every > 1]
    converted = {name for name in manifest.precisions[precision] if name.startswith("scale") or name == "encode"}
    files = {name: bundle.onnx(name, precision, host=True) for name in sorted(converted)}
    runners = {
        name: half_runner(file.read_bytes()) if precision == "fp16" else open_session(file).run
        for name, file in files.items()
    }
    talker, random = Talker(bundle), np.random.default_rng(1)
    for _ in range(chunks):
        past = talker.read("past_codes").copy()
        sound = made_up_sound(talker).reshape(-1)
        talker.make(window=sound * random.uniform(0.3, 1.5))
        for step in steps:
            if step.stage not in runners:
                continue
            stage = manifest.stages[step.stage]
            values = {name: _part(talker, text, past) for name, text in step.inputs.items()}
            names = list(stage.outputs)
            found = dict(zip(names, runners[step.stage](names, values), strict=True))
            first = names[0]
            totals.setdefault(step.stage, []).append((found[first], _part(talker, step.outputs[first], None)))
        for _ in range(manifest.audio.block - 1):
            talker.make(window=sound)
    return {name: _figures(name, pairs) for name, pairs in totals.items()}


def _part(talker: Talker, text: str, past: Array | None) -> Array:
    """Return what a reference sees after the chunk; the codes of the chunk before are those that were kept."""
    name, _, rows = text.partition("[")
    values = past if name == "past_codes" and past is not None else talker.read(name)
    if rows:
        first, last = (int(row) for row in rows.rstrip("]").split(":"))
        values = values[:, first:last]
    return np.array(values)


def _figures(stage: str, pairs: list[tuple[Array, Array]]) -> dict[str, float]:
    found, exact = (np.concatenate([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
    if stage == "encode":
        return {"bits": found.size, "flipped": float((np.sign(found) != np.sign(exact)).mean())}
    ours, theirs = (values.reshape(-1, 2) for values in (found, exact))
    flipped = (ours[:, 1] > ours[:, 0]) != (theirs[:, 1] > theirs[:, 0])
    return {
        "bits": len(flipped),
        "flipped": float(flipped.mean()),
        "largest_error": float(np.abs(found - exact).max()),
        "rms_error": float(np.sqrt(np.square(found - exact).mean())),
        "smallest_gap_of_0.1%": float(np.quantile(np.abs(theirs[:, 1] - theirs[:, 0]), 0.001)),
    }


if __name__ == "__main__":
    main()
