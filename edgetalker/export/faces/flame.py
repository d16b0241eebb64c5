"""A FLAME file of the user's own, and the stage that turns FLAME's numbers into vertices.

FLAME: T. Li, T. Bolkart, M. J. Black, H. Li and J. Romero, "Learning a model of facial shape and expression from 4D
scans", ACM TOG 36 (2017). Nothing of it lies in this project.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_regular
from edgetalker.export.faces.pickled import PickleError, array_of
from edgetalker.models.weights.pickled import describe

__all__ = ["Flame", "FlameStage", "read_flame"]

_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")
_SHAPES = 300  # of the identity; the expression's columns follow them
_JOINTS = ("root", "neck", "jaw", "left eye", "right eye")
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Flame:
    """template (V, 3) in metres with the identity's shape in it; expression (V, 3, E), pose (V, 3, 36), joints
    (5, V), weights (V, 5) of root, neck, jaw and eyes; triangles (F, 3)."""

    template: NDArray[np.float64]
    expression: NDArray[np.float64]
    pose: NDArray[np.float64]
    joints: NDArray[np.float64]
    weights: NDArray[np.float64]
    triangles: NDArray[np.int32]


def read_flame(path: Path, expressions: int, shape: NDArray[Any] | None = None) -> Flame:
    """Read FLAME 2020, 2023 or 2023 Open: the .pkl as it is given out (none of its code runs), or an .npz of its keys.

    expressions: how many of the expression's components the motion has. shape: coefficients of the identity.

    Raises:
        InputError: not such a file; every array that does not fit, all at once.
    """
    arrays = _arrays(path)
    faults = [f"`{key}` is missing" for key in _KEYS if key not in arrays]
    faults += [f"`{key}`: {value}" for key, value in arrays.items() if isinstance(value, str)]
    if not faults:
        faults = _misfits({key: value for key, value in arrays.items() if not isinstance(value, str)}, expressions)
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise InputError(f"{path} is no FLAME file:\n{lines}", hint="a generic_model.pkl or flame2023.pkl is wanted")
    template, directions, pose, joints, weights = (np.asarray(arrays[key], np.float64) for key in _KEYS[:5])
    if shape is not None:
        if shape.ndim != 1 or len(shape) > _SHAPES:
            raise InputError(f"a FLAME shape of {shape.shape}; at most {_SHAPES} coefficients were wanted")
        template = template + directions[:, :, : len(shape)] @ shape
    return Flame(
        template,
        directions[:, :, _SHAPES : _SHAPES + expressions],
        pose.reshape(len(template), 3, 36),
        joints,
        weights,
        np.asarray(arrays["f"]).astype(np.int32),
    )


def _arrays(path: Path) -> dict[str, NDArray[Any] | str]:
    """Return the arrays of the file by key, or why one of them is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size / 1e9:.1f} GB; a FLAME file has some 60 MB")
        if zipfile.is_zipfile(path):
            return dict(cast("dict[str, NDArray[Any]]", read_arrays(path, _KEYS)))
        content = describe(read_regular(path, _MOST_BYTES), _MOST_BYTES)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is neither an .npz of arrays nor a pickle: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; FLAME's dictionary was wanted")
    found: dict[str, NDArray[Any] | str] = {}
    for key in _KEYS:
        if key in content:
            try:
                found[key] = array_of(content[key])
            except PickleError as error:
                found[key] = str(error)
    return found


def _misfits(arrays: dict[str, NDArray[Any]], expressions: int) -> list[str]:
    template = arrays["v_template"]
    if template.ndim != 2 or template.shape[1] != 3 or len(template) < 1:
        return [f"`v_template` is {template.shape}; (V, 3) was wanted"]
    count, columns = len(template), _SHAPES + expressions
    faults = []
    directions = arrays["shapedirs"]
    if directions.ndim != 3 or directions.shape[:2] != (count, 3) or directions.shape[2] < columns:
        faults.append(
            f"`shapedirs` is {directions.shape}; ({count}, 3, {columns}) was wanted: "
            f"{_SHAPES} shapes and {expressions} expressions"
        )
    for key, wanted in (("posedirs", (count, 3, 36)), ("J_regressor", (5, count)), ("weights", (count, 5))):
        if arrays[key].shape != wanted:
            faults.append(f"`{key}` is {arrays[key].shape}; {wanted} was wanted")
    triangles = arrays["f"]
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        faults.append(f"`f` is {triangles.dtype} of {triangles.shape}; whole numbers (F, 3) were wanted")
    elif triangles.size and not 0 <= int(triangles.min()) <= int(triangles.max()) < count:
        faults.append(f"`f` names vertices {triangles.min()} to {triangles.max()} of {count}")
    for key in _KEYS[:5]:
        if not np.isfinite(np.asarray(arrays[key], np.float64)).all():
            faults.append(f"`{key}` holds NaN or infinite values")
    return faults


class FlameStage(nn.Module):
    """Expression, head and jaw to vertices: correctives and linear blend skinning about neck and jaw.

    The head's rotation turns the neck joint. With `apart` the head stays as it is and its rotation comes out as
    yaw, pitch and roll, for receivers that turn the head themselves.
    """

    def __init__(self, flame: Flame, *, apart: bool) -> None:
        super().__init__()
        self.apart, self.expressions = apart, flame.expression.shape[2]
        count = len(flame.template)
        joints = flame.joints @ np.concatenate([flame.template[:, :, None], flame.expression], axis=2).reshape(
            count, -1
        )
        joints = joints.reshape(5, 3, -1)
        neck, jaw = (slice(9 * place, 9 * place + 9) for place in (0, 1))
        self.template = _constant(flame.template.reshape(-1))
        self.directions = _constant(flame.expression.reshape(3 * count, -1))
        self.correct_neck = _constant(flame.pose[:, :, neck].reshape(3 * count, 9))
        self.correct_jaw = _constant(flame.pose[:, :, jaw].reshape(3 * count, 9))
        self.joints = _constant(joints[1:3, :, 0].reshape(-1))
        self.joint_directions = _constant(joints[1:3, :, 1:].reshape(6, -1))
        self.weights = _constant(
            np.stack([flame.weights[:, 0], flame.weights[:, [1, 3, 4]].sum(1), flame.weights[:, 2]])
        )
        skew = np.zeros((9, 3))
        skew[[7, 2, 3], [0, 1, 2]], skew[[5, 6, 1], [0, 1, 2]] = 1, -1
        self.skew, self.unit = _constant(skew), _constant(np.eye(3))

    def forward(self, motion: Tensor) -> tuple[Tensor, ...]:
        """Return vertices (1, V, 3) in metres of motion (1, E + 6), or those with the head unturned and its angles
        (1, 3): yaw, pitch, roll in radians."""
        expression = motion[0, : self.expressions]
        head = self._rotation(motion[0, self.expressions : self.expressions + 3])
        jaw = self._rotation(motion[0, self.expressions + 3 : self.expressions + 6])
        shaped = self.template + self.directions @ expression + self.correct_jaw @ (jaw - self.unit).reshape(9)
        neck_at, jaw_at = torch.split(self.joints + self.joint_directions @ expression, 3)
        still, skull, chin = torch.split(self.weights, 1)
        if self.apart:
            points = shaped.reshape(-1, 3)
            vertices = (still + skull).T * points + chin.T * ((points - jaw_at) @ jaw.T + jaw_at)
            return vertices[None], _angles(head)
        points = (shaped + self.correct_neck @ (head - self.unit).reshape(9)).reshape(-1, 3)
        turned = (points - neck_at) @ head.T + neck_at
        opened = ((points - jaw_at) @ jaw.T + jaw_at - neck_at) @ head.T + neck_at
        return ((still.T * points + skull.T * turned + chin.T * opened)[None],)

    def _rotation(self, axis_angle: Tensor) -> Tensor:
        """Return the rotation (3, 3) of an axis-angle (3,): I + sin(a)/a K + (1 - cos a)/a² K² (Rodrigues).

        1 - cos a is written as 2 sin²(a/2), which loses nothing where a is small.
        """
        angle = torch.sqrt((axis_angle * axis_angle).sum().clamp_min(1e-8))
        cross = (self.skew @ axis_angle).reshape(3, 3)
        half = torch.sin(angle / 2) / angle
        return self.unit + torch.sin(angle) / angle * cross + 2 * half * half * (cross @ cross)


def _angles(turn: Tensor) -> Tensor:
    """Return yaw, pitch and roll (1, 3) of a rotation that is yaw about Y, pitch about X, roll about Z, in this order
    from the left (see edgetalker/face/turn.py). A head turned by less than a right angle is meant."""
    yaw = torch.atan(turn[0, 2] / turn[2, 2].clamp_min(1e-3))
    pitch = torch.asin((-turn[1, 2]).clamp(-1, 1))
    roll = torch.atan(turn[1, 0] / turn[1, 1].clamp_min(1e-3))
    return torch.stack([yaw, pitch, roll])[None]


def _constant(values: NDArray[Any]) -> nn.Buffer:
    return nn.Buffer(torch.from_numpy(np.asarray(values, np.float32)))
