"""What `edgetalker inspect BUNDLE --plans` prints: each plan's state, why, and the command that mends it."""

from __future__ import annotations

import json
import sys
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError
from edgetalker.engines.machine import Gpu, this_machine
from edgetalker.engines.plan import Found, State, Verdict, default_precision, find, judge, read_plan, rebuild_command

__all__ = ["plan_rows", "show_plans"]


def show_plans(bundle: Bundle, *, as_json: bool) -> int:
    """Print every plan of a bundle, for people or as JSON. Returns the exit code."""
    rows = plan_rows(bundle)
    if as_json:
        json.dump(rows, sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
        return 0
    if not rows:
        print(f"{bundle.path} has no plans")
        print(f"build them: {rebuild_command(bundle, 'auto', default_precision(bundle))}")
        return 0
    for row in rows:
        print(_line(row))
        for reason in row["reasons"]:
            print(f"    {reason}")
        if row["mend"]:
            print(f"    {row['mend']}")
    return 0


def plan_rows(bundle: Bundle) -> list[dict[str, Any]]:
    """Return one entry a plan: stage, precision, target, version, state, reasons, command, file, size, time."""
    machine = this_machine()
    here = isinstance(machine.gpu, Gpu)
    return [_row(bundle, found, _verdict(found, judge(found, bundle, machine)), here) for found in find(bundle)]


def _verdict(found: Found, verdict: Verdict) -> Verdict:
    """A plan that is damaged inside is neither valid nor foreign; inspecting is the time to read it whole."""
    if found.record is None or verdict.state is State.DAMAGED:
        return verdict
    try:
        read_plan(found)
    except EngineError as error:
        return Verdict(State.DAMAGED, (error.message,))
    return verdict


def _row(bundle: Bundle, found: Found, verdict: Verdict, has_gpu: bool) -> dict[str, Any]:
    record = found.record
    return {
        "stage": record.stage if record else found.path.stem,
        "precision": record.precision if record else "",
        "target": str(record.target) if record else "",
        "version": record.version if record else "",
        "state": verdict.state.value,
        "reasons": list(verdict.reasons),
        "mend": _mend(bundle, found, verdict, has_gpu),
        "file": str(found.path),
        "bytes": record.plan_bytes if record else 0,
        "seconds": record.seconds if record else 0.0,
    }


def _mend(bundle: Bundle, found: Found, verdict: Verdict, has_gpu: bool) -> str:
    """Return the command that makes a valid plan of this one; none where a GPU is what is missing."""
    record = found.record
    if verdict.state is State.VALID or (verdict.state is State.FOREIGN and not has_gpu):
        return ""
    if record is None:
        return rebuild_command(bundle, "auto", default_precision(bundle)) + " --force"
    precision = record.precision if record.precision in bundle.manifest.precisions else "fp32"
    if verdict.state is State.FOREIGN:
        return rebuild_command(bundle, "auto", precision)
    target = str(record.target) if record.flavour == "rtx" else record.flavour
    return rebuild_command(bundle, target, precision) + (" --force" if verdict.state is State.DAMAGED else "")


def _line(row: dict[str, Any]) -> str:
    what = f"{row['stage']} {row['precision']} {row['target']}".strip()
    made = f", {row['version']}, {row['bytes'] / 1e6:.2f} MB, built in {row['seconds']:.1f} s" if row["version"] else ""
    return f"{row['state']:8} {what}{made}"
