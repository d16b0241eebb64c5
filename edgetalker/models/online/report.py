"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["tables"]

_COLUMNS = {
    "mae": "MAE mouth", "mae_jaw": "MAE jaw", "r_jaw": "r jaw", "r_mouth": "r mouth", "recall": "closure recall",
    "precision": "frame precision", "f1": "F1", "recall_after_pause": "recall after pause", "delay": "delay (frames)",
    "jitter": "jitter / target", "spread": "spread / target", "rest_open": "open in pauses",
    "rest_chatter": "openings / min of pause",
}  # fmt: skip


def _table(corner: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    lines = [f"| {corner} | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_number(row.get(key)) for key in columns) + " |")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def tables(results: Mapping[str, Any]) -> str:
    """Return every table of an evaluation, as docs/talker-results.md shows them."""
    parts = []
    for group, scores in results["scores"].items():
        parts.append(f"### {group} ({results['minutes'][group]:.1f} min)\n\n" + _table("", scores, _COLUMNS))
        counts = scores["one"].get("by_phone", {})
        parts.append("Closures by phone: " + ", ".join(f"{p} {hit}/{n}" for p, (n, hit) in counts.items()))
        if apart := scores["one"].get("told_apart"):
            parts.append(
                "Told apart (area under the ROC curve): " + ", ".join(f"{p} {a:.3f}" for p, a in apart.items())
            )
    for group, curve in results["curve"].items():
        parts.append(f"### look-ahead, {group} (trunk alone)\n\n" + _table("frames", curve, _COLUMNS))
    for name, scores in results.get("real", {}).items():
        rows = {k: v for k, v in scores.items() if isinstance(v, dict) and "mae" in v}
        rows |= {f"trunk, look-ahead {d}": v for d, v in scores["curve"].items()}
        parts.append(f"### real speech: {name} ({scores['seconds']:.0f} s)\n\n" + _table("", rows, _COLUMNS))
    for name in ("upper", "emotion", "nonspeech"):
        first = next(iter(results[name].values()))
        parts.append(f"### {name}\n\n" + _table("", results[name], {key: key for key in first}))
    for schedule, minutes in results["drift"].items():
        rows = {str(number): row for number, row in enumerate(minutes, 1)}
        parts.append(f"### free run, {schedule}\n\n" + _table("minute", rows, {key: key for key in minutes[0]}))
    return "\n\n".join(parts)
