"""The manifest of an exported StreamingTalker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.export.faces.attach import mesh_tensor
from edgetalker.export.onnx_stage import StageFile
from edgetalker.export.streamingtalker.options import ExportOptions
from edgetalker.models.streamingtalker.config import Config
from edgetalker.models.streamingtalker.contract import SAMPLE_RATE, Contract

__all__ = ["describe"]

_COUNT_LIMIT = 2**24  # float32 holds every whole number up to here


def describe(
    config: Config,
    contract: Contract,
    options: ExportOptions,
    stages: Sequence[StageFile],
    schedules: Sequence[str],
    rungs: Mapping[str, float],
    triangles: NDArray[np.int32] | None = None,
) -> dict[str, Any]:
    """Return the manifest without name, origin, notes and digests, for `pack`.

    rungs: schedule -> how far it is from the fullest, as measured.
    """
    return {
        "family": "streamingtalker",
        "audio": _audio(contract, options),
        "motion": {
            "tensor": "vertices",
            "kind": "vertices",
            "fps": str(config.frame_rate),
            "units": "metres" if config.dataset == "vocaset" else "",
        },
        "tensors": _tensors(config, contract, options)
        | ({} if triangles is None else {"triangles": mesh_tensor(triangles)}),
        "stages": {stage.name: _stage(stage) for stage in stages},
        "program": _program(contract, options, schedules),
        "schedules": _schedules(options, schedules, rungs),
        # The latents and the features move on together, so that a late frame does not shift speech against motion.
        "skipped": "repeat",
    }


def _audio(contract: Contract, options: ExportOptions) -> dict[str, int]:
    if options.features_input:
        return {"rate": SAMPLE_RATE, "window": 1, "lookahead": 0, "block": 1}
    return {
        "rate": SAMPLE_RATE,
        "window": contract.window,
        "lookahead": contract.lookahead,
        "block": contract.block,
    }


def _tensors(config: Config, contract: Contract, options: ExportOptions) -> dict[str, Any]:
    rows = max(contract.history, contract.decode_window)
    fresh = (config.latent_width,) if contract.past == "append" else (contract.history, config.latent_width)
    return {
        **(_feature_input(config) if options.features_input else _sound(config, contract)),
        "count": _tensor("count", 1, limit=_count_limit(contract, rows)),
        "identity": _identity(config, options),
        "template": _tensor("constant", 1, config.vertex_values // 3, 3, file="template.npy"),
        "noise": _tensor("noise", 1, *fresh),
        "latents": _tensor("state", 1, rows, config.latent_width, file="latents.npy"),
        "feature_window": _tensor("state", 1, contract.history, config.audio_width),
        "condition": _tensor("value", 1, *fresh),
        "latent": _tensor("value", 1, *fresh),
        **(_rewritten(config, rows) if contract.past == "rewrite" else {}),
        "vertices": _tensor("value", 1, config.vertex_values // 3, 3),
    }


def _rewritten(config: Config, rows: int) -> dict[str, Any]:
    return {
        "rewritten": _tensor("value", 1, rows, config.latent_width),
        "newest": _tensor("value", 1, config.latent_width),
    }


def _tensor(role: str, *shape: int, **options: Any) -> dict[str, Any]:
    return {"role": role, "dtype": "float32", "shape": list(shape), **options}


def _sound(config: Config, contract: Contract) -> dict[str, Any]:
    return {
        "audio": _tensor("audio", 1, contract.window),
        "heard": _tensor("heard", 1),
        "floor": _tensor(
            "control", 1, 1, names=["level"], default=[contract.floor_db], low=[-200.0], high=[0.0], glide=0.0
        ),
        "features": _tensor("value", contract.block, 1, config.audio_width),
    }


def _feature_input(config: Config) -> dict[str, Any]:
    return {"features": _tensor("input", 1, config.audio_width)}


def _identity(config: Config, options: ExportOptions) -> dict[str, Any]:
    return _tensor(
        "control",
        1,
        config.identities,
        names=[f"identity_{place}" for place in range(config.identities)],
        default=[float(place == options.identity) for place in range(config.identities)],
        low=[0.0] * config.identities,
        high=[1.0] * config.identities,
    )


def _count_limit(contract: Contract, rows: int) -> int:
    """Return where counting may stop: once every window is full, or never (in practice) with an absolute phase."""
    return _COUNT_LIMIT if contract.phase == "absolute" else rows


def _stage(stage: StageFile) -> dict[str, Any]:
    return {"file": f"{stage.name}.onnx", "inputs": dict(stage.inputs), "outputs": dict(stage.outputs)}


def _step(stage: str, inputs: Mapping[str, str], outputs: Mapping[str, str], **options: Any) -> dict[str, Any]:
    return {"stage": stage, "inputs": dict(inputs), "outputs": dict(outputs), **options}


def _program(contract: Contract, options: ExportOptions, schedules: Sequence[str]) -> list[dict[str, Any]]:
    return [
        *_hearing(contract, options),
        _step(
            "condition",
            {"history": "latents", "features": "feature_window", "identity": "identity", "count": "count"},
            {"condition": "condition"},
        ),
        *_denoising(options, schedules),
        *_remembering(contract),
        _step("decode", {"latents": "latents", "count": "count", "template": "template"}, {"vertices": "vertices"}),
    ]


def _remembering(contract: Contract) -> list[dict[str, Any]]:
    if contract.past == "append":
        return [{"carry": "shift", "from": "latent", "to": "latents"}]
    inputs = {"latents": "latents", "fresh": "latent", "count": "count"}
    return [
        _step("rewrite", inputs, {"rewritten": "rewritten", "newest": "newest"}),
        # The shift is what a frame that is passed over repeats; where none is, the copy has the last word.
        {"carry": "shift", "from": "newest", "to": "latents"},
        {"carry": "copy", "from": "rewritten", "to": "latents"},
    ]


def _hearing(contract: Contract, options: ExportOptions) -> list[dict[str, Any]]:
    if options.features_input:
        return [{"carry": "shift", "from": "features", "to": "feature_window"}]
    return [
        _step(
            "audio",
            {"audio": "audio", "heard": "heard", "floor": "floor"},
            {"features": "features"},
            every=contract.block,
        ),
        {"carry": "shift", "from": "features[phase]", "to": "feature_window"},
    ]


def _denoising(options: ExportOptions, schedules: Sequence[str]) -> list[dict[str, Any]]:
    steps = [
        _step(
            "denoise",
            {"x": "noise", "condition": "condition", "row": "@row"},
            {"x_next": "latent"},
            rows=True,
            carry={"x_next": "x"},
        )
    ]
    if options.collapse:
        steps[0]["schedules"] = list(schedules)
        inputs = {"noise": "noise", "condition": "condition"}
        steps.append(_step("collapse", inputs, {"latent": "latent"}, schedules=["collapsed"]))
    return steps


def _schedules(options: ExportOptions, schedules: Sequence[str], rungs: Mapping[str, float]) -> dict[str, Any]:
    tables: dict[str, Any] = {
        name: {"rank": rank, "file": f"schedules/{name}.npy"} for rank, name in enumerate(schedules)
    }
    if options.collapse:
        tables["collapsed"] = {"rank": len(schedules)}
    for name, differs in rungs.items():
        tables[name]["differs"] = differs
    return tables
