"""Adds to a bundle what turns a model's own numbers into motion that people can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.export.faces.arkit import ArkitStage, Fit, fit_of, lines, motion_names
from edgetalker.export.faces.flame import Flame, FlameStage, read_flame
from edgetalker.export.faces.shapes import read_shapes
from edgetalker.export.onnx_stage import Check, StageFile, compare, export_stage, runner

__all__ = ["Face", "FaceOptions", "attach", "mesh_tensor"]

_FIT_TOLERANCE = 0.02  # of a weight, against the solved program


@dataclass(frozen=True)
class FaceOptions:
    """flame: a FLAME file of the user's own. flame_shape: coefficients of the identity, .npy. arkit: the 52 shapes.
    regular: what a weight costs beside its shape's own energy. steps: of the solver, a frame."""

    flame: Path | None = None
    flame_shape: Path | None = None
    arkit: Path | None = None
    regular: float = 1e-4
    steps: int = 20

    def __bool__(self) -> bool:
        return self.flame is not None or self.arkit is not None


@dataclass
class Face:
    """What is added to a bundle: stages, checks, pieces of the manifest, files, and sentences for the user."""

    motion: dict[str, Any]
    stages: list[StageFile] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)
    program: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, NDArray[Any]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def merged(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Return a manifest with this in it."""
        stages = {
            stage.name: {"file": f"{stage.name}.onnx", "inputs": dict(stage.inputs), "outputs": dict(stage.outputs)}
            for stage in self.stages
        }
        return {
            **description,
            "motion": {**description["motion"], **self.motion},
            "tensors": {**description["tensors"], **self.tensors},
            "stages": {**description["stages"], **stages},
            "program": [*description["program"], *self.program],
        }


def attach(
    options: FaceOptions,
    *,
    tensor: str = "motion",
    width: int = 0,
    vertices: int = 0,
    rest: NDArray[Any] | None = None,
    basis: NDArray[Any] | None = None,
    tolerance: float = 2e-4,
) -> Face:
    """Return the stages that `options` asks for.

    A model of FLAME's numbers gives `width` (expressions, head 3, jaw 3); one of vertices gives `vertices`, its face
    at rest (V, 3), None for displacements, and a `basis` (3 V, k) of all motion that it can make.

    Raises:
        InputError: files that cannot be used. OptionError: a choice that this model cannot serve.
        ExportError: a stage that cannot be exported.
    """
    if options.flame is not None and not width:
        raise OptionError("this model gives vertices already", hint="leave out --flame; --arkit works on its vertices")
    if options.arkit is not None and width and options.flame is None:
        raise OptionError("FLAME's numbers become ARKit shapes by way of vertices", hint="add --flame FLAME_FILE")
    face = Face({})
    with torch.no_grad():
        if options.flame is not None:
            flame = read_flame(options.flame, width - 6, _coefficients(options.flame_shape))
            _add_flame(face, flame, tensor, width, tolerance, apart=options.arkit is not None)
            tensor, vertices, rest = "vertices", len(flame.template), flame.template
            basis = np.concatenate([flame.expression.reshape(3 * vertices, -1), _jaw_directions(flame)], axis=1)
        if options.arkit is not None:
            shapes = read_shapes(options.arkit)
            fit = fit_of(shapes, None if rest is None else np.asarray(rest, np.float64), vertices, options.regular)
            _add_arkit(face, fit, tensor, options.steps, angles=options.flame is not None)
            face.said += lines(fit, shapes, None if basis is None else fit.residual(np.asarray(basis, np.float64)))
    return face


def _coefficients(path: Path | None) -> NDArray[Any] | None:
    if path is None:
        return None
    values = read_arrays(path)
    if isinstance(values, dict) or values.dtype.kind not in "fiu":
        raise InputError(f"{path} is no array file (.npy) of numbers")
    return values.astype(np.float64).reshape(-1)


def _jaw_directions(flame: Flame) -> NDArray[np.float64]:
    """Return (3 V, 1): the jaw opened by a degree, as the published motion opens it."""
    stage = FlameStage(flame, apart=True).double()
    motion = torch.zeros(1, flame.expression.shape[2] + 6, dtype=torch.float64)
    still = stage(motion)[0]
    motion[0, -3] = np.pi / 180
    return np.asarray((stage(motion)[0] - still).numpy().reshape(-1, 1))


def _tensor(role: str, *shape: int, dtype: str = "float32", **options: Any) -> dict[str, Any]:
    return {"role": role, "dtype": dtype, "shape": list(shape), **options}


def mesh_tensor(triangles: NDArray[np.int32]) -> dict[str, Any]:
    """Return the manifest's entry of a mesh's triangles (F, 3), which the file triangles.npy holds."""
    return _tensor("constant", *triangles.shape, dtype="int32", file="triangles.npy")


def _add_flame(face: Face, flame: Flame, tensor: str, width: int, tolerance: float, *, apart: bool) -> None:
    random = torch.Generator().manual_seed(2)
    motion = torch.randn(4, width, generator=random) * torch.tensor([1.0] * (width - 6) + [0.3] * 6)
    outputs = ["vertices", "angles"] if apart else ["vertices"]
    stage = export_stage("flame", FlameStage(flame, apart=apart), {"motion": motion[:1]}, outputs)
    run, exact, pairs = runner(stage), FlameStage(flame, apart=apart).double(), []
    for row in [*motion, torch.zeros(width)]:  # a still head too, where Rodrigues' formula divides by nearly nothing
        found = run({"motion": row[None].numpy()})
        pairs += [(found[name], value.numpy()) for name, value in zip(outputs, exact(row[None].double()), strict=True)]
    face.stages.append(stage)
    face.checks.append(compare("flame", pairs, tolerance))
    face.tensors["vertices"] = _tensor("value", 1, len(flame.template), 3)
    if apart:
        face.tensors["head_angles"] = _tensor("value", 1, 3)
    names = {"vertices": "vertices"} | ({"angles": "head_angles"} if apart else {})
    face.program.append({"stage": "flame", "inputs": {"motion": tensor}, "outputs": names})
    face.motion = {"tensor": "vertices", "kind": "vertices", "names": [], "units": "metres"}
    face.tensors["triangles"] = mesh_tensor(flame.triangles)
    face.files["triangles.npy"] = flame.triangles


def _add_arkit(face: Face, fit: Fit, tensor: str, steps: int, *, angles: bool) -> None:
    n = len(fit.names)
    given = {"vertices": torch.from_numpy(fit.rest.reshape(1, -1, 3)).float(), "before": torch.zeros(1, 2, n)}
    extra = {"angles": torch.zeros(1, 3)} if angles else {}
    stage = export_stage("arkit", ArkitStage(fit, steps), {**given, **extra}, ["shapes", "after"])
    found, wanted = zip(*_fitted(stage, fit, angles=angles), strict=True)
    check = compare("arkit", [(np.stack(found), np.stack(wanted))], _FIT_TOLERANCE)
    face.stages.append(stage)
    face.checks.append(check)
    names = motion_names(angles=angles)
    face.tensors |= {
        "fit": _tensor("state", 1, 2, n),
        "fit_next": _tensor("value", 1, 2, n),
        "shapes": _tensor("value", 1, len(names)),
    }
    inputs = {"vertices": tensor, "before": "fit"} | ({"angles": "head_angles"} if angles else {})
    face.program += [
        {"stage": "arkit", "inputs": inputs, "outputs": {"shapes": "shapes", "after": "fit_next"}},
        {"carry": "copy", "from": "fit_next", "to": "fit"},
    ]
    face.motion = {"tensor": "shapes", "kind": "arkit", "names": list(names), "units": ""}


def _fitted(stage: StageFile, fit: Fit, *, angles: bool) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield weights, as the stage finds them frame after frame, and as the solved program has them; a made-up face."""
    random, n = np.random.default_rng(3), len(fit.names)
    slow = np.cumsum(random.normal(0, 0.06, (60, n)), axis=0) + random.uniform(-0.4, 0.6, n)
    faces = fit.rest + np.clip(slow, 0, 1) @ fit.deltas
    run, before = runner(stage), np.zeros((1, 2, n), np.float32)
    extra = {"angles": np.zeros((1, 3), np.float32)} if angles else {}
    places = [motion_names(angles=False).index(name) for name in fit.names]
    for face, exact in zip(faces, fit.solve(faces), strict=True):
        result = run({"vertices": face.reshape(1, -1, 3).astype(np.float32), "before": before, **extra})
        before = result["after"]
        yield result["shapes"][0, places], exact
