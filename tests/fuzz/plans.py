"""Changed plans and records: whatever lies in a plan folder is told or refused; nothing is built or run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from edgetalker.cli.plans_view import plan_rows
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError
from edgetalker.engines.machine import Gpu, Machine
from edgetalker.engines.plan import PlanRecord, State, choose, find, judge, read_plan, store
from edgetalker.engines.tensorrt.build import RECIPE
from tests.fuzz.manifests import change, in_bytes
from tests.fuzz.trying import Random, cut, flip, splice, tries
from tests.support.toy import toy_bundle

HERE = Machine({"rtx": "1.2.0.54"}, "linux-x86_64", Gpu("Test", "sm86", 8 << 30, "13.0"))
PLAN = bytes(range(256)) * 64


def record(bundle: Bundle) -> PlanRecord:
    stage = bundle.manifest.stages["decode"]
    return PlanRecord(
        stage="decode",
        precision="fp32",
        flavour="rtx",
        version="1.2.0.54",
        capabilities=("sm86",),
        platform=HERE.platform,
        device="",
        driver="13.0",
        onnx_sha256=bundle.manifest.files["decode.onnx"],
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        plan_bytes=len(PLAN),
        flags={"recipe": RECIPE},
        inputs=stage.inputs,
        outputs=stage.outputs,
        types={"float32": 7},
        seconds=1.5,
        peak_memory=1 << 20,
    )


def on_disk(plan: Path, random: Random) -> str:
    """Take a file away, or put something in its place that is no file."""
    path = (plan, plan.with_suffix(".json"))[int(random.integers(2))]
    path.unlink()
    what = int(random.integers(6))
    if what == 1:
        path.symlink_to(path)
    elif what == 2:
        path.symlink_to("/dev/zero")
    elif what == 3:
        path.mkdir()
    elif what == 4:
        os.mkfifo(path)
    elif what == 5:
        path.symlink_to("nowhere")
    return f"{path.suffix} {('gone', 'a link to itself', 'a device', 'a folder', 'a pipe', 'a dangling link')[what]}"


def attempt(folder: Path) -> None:
    """Tell of every plan, and try to choose and read one. Raises what must not come of it."""
    bundle = Bundle.open(folder)
    json.dumps(plan_rows(bundle))
    for found in find(bundle):
        if judge(found, bundle, HERE).state is State.VALID:
            assert found.record is not None and found.record.flags["recipe"] == RECIPE
    try:
        if read_plan(choose(bundle, "decode", "fp32", "rtx", HERE)) == PLAN:
            return
    except EngineError as error:
        str(error).encode("utf-8", "backslashreplace")


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try changed plan folders; return how many. Raises Wrong for anything but an EngineError."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = toy_bundle(Path(folder) / "toy")

        def make(random: Random, _: int) -> tuple[str, Path]:
            shutil.rmtree(bundle.path / "plans", ignore_errors=True)
            plan = store(bundle.path / "plans", PLAN, record(bundle))
            beside, what = plan.with_suffix(".json"), int(random.integers(8))
            if what == 0:
                return on_disk(plan, random), bundle.path
            if what == 1:
                kinds = (flip, cut, splice)
                plan.write_bytes(kinds[int(random.integers(3))](PLAN, random))
                return "plan", bundle.path
            if what == 2:
                beside.write_bytes(in_bytes(beside.read_bytes(), random))
                return "record's bytes", bundle.path
            document = json.loads(beside.read_bytes())
            for _ in range(int(random.integers(1, 3))):
                change(document, random)
            beside.write_text(json.dumps(document), encoding="utf-8")
            return "record", bundle.path

        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            return tries(make, attempt, examples, seconds, seed)
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
