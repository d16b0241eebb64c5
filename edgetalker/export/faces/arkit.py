"""Vertices to ARKit's 52 weights: the nearest blend of the user's shapes, inside [0, 1].

With d (3 V) the vertices less the face at rest and S (3 V, 52) the shapes' deltas, the weights are
argmin ½ |S w - d|² + ½ λ Σ |S_i|² w_i² with 0 <= w <= 1: a quadratic program of 52 unknowns, whose matrix never
changes. It is solved by a fixed number of ADMM steps (S. Boyd et al., "Distributed optimization and statistical
learning via the alternating direction method of multipliers", 2011, section 5.2) that start where the frame before
ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.engines.errors import InputError
from edgetalker.export.faces.shapes import Shapes
from edgetalker.runtime.sinks.names import ARKIT_SHAPES, HEAD_ANGLES

__all__ = ["ArkitStage", "Fit", "fit_of", "lines", "motion_names"]

Array = NDArray[np.float64]
_WEAK = 1e-12  # a shape's share of the strongest one's energy, below which it moves nothing
_RELAXED = 1.6  # over-relaxation, Boyd et al. section 3.4.3
_ALIKE = 1e-3  # share of a shape that no blend of the others makes, below which it cannot be told from them


@dataclass(frozen=True)
class Fit:
    """The quadratic program in unit lengths, y = w length: minimise ½ yᵀ (C + λ) y - yᵀ p d, 0 <= y <= length.

    correlation C (n, n) with ones on its diagonal; project p (n, 3 V); lengths (n,); names of the n shapes that move
    something. scale: what the shapes' coordinates were multiplied by to be of the face's size.
    """

    names: tuple[str, ...]
    rest: Array
    deltas: Array
    lengths: Array
    correlation: Array
    regular: float
    scale: float

    @property
    def condition(self) -> float:
        """The condition number of the problem, regularisation included."""
        values = np.linalg.eigvalsh(self.correlation + self.regular * np.eye(len(self.names)))
        return float(values[-1] / values[0])

    def alike(self) -> list[tuple[str, str, float]]:
        """Return shapes that a blend of the others makes too: name, the most similar one and their cosine, which is -1
        for opposites."""
        inverse = np.linalg.pinv(self.correlation, rcond=1e-12, hermitian=True)
        own = 1 / np.maximum(np.diag(inverse), 1e-300)
        null = np.linalg.eigh(self.correlation)
        lost = null[1][:, null[0] < 1e-9]
        own = np.where((lost**2).sum(1) > 1e-6, 0.0, own)  # in the null space the pseudo-inverse says nothing
        found = []
        for place in np.flatnonzero(own < _ALIKE):
            others = np.abs(self.correlation[place])
            others[place] = -1
            nearest = int(others.argmax())
            found.append((self.names[place], self.names[nearest], float(self.correlation[place, nearest])))
        return found

    def residual(self, basis: Array) -> float:
        """Return the share of a motion's directions (3 V, k), by their energy, that no blend of the shapes makes."""
        span = np.linalg.qr(self.deltas.T)[0]
        return float(1 - (np.square(span.T @ basis).sum() / max(float(np.square(basis).sum()), 1e-300)))

    @property
    def step(self) -> float:
        """ADMM's ρ: ten times λ made 20 to 40 steps reach furthest for every λ from 1e-2 to 1e-4 that was tried."""
        return 10 * self.regular

    @property
    def inverse(self) -> Array:
        """The inverse (n, n) that every step multiplies by."""
        return np.asarray(np.linalg.inv(self.correlation + (self.regular + self.step) * np.eye(len(self.names))))

    def solve(self, faces: Array, steps: int = 5000) -> Array:
        """Return the program's weights (T, n) of faces (T, 3 V), to convergence, by steps of another kind (projected
        gradients with Nesterov's momentum); for checks."""
        matrix = self.correlation + self.regular * np.eye(len(self.names))
        linear = (faces - self.rest) @ self.deltas.T / self.lengths
        length = 1 / np.linalg.eigvalsh(matrix)[-1]
        y = before = np.zeros_like(linear)
        for step in range(steps):
            z = np.clip(y - length * (y @ matrix - linear), 0, self.lengths)
            y, before = z + step / (step + 3) * (z - before), z
        return np.asarray(before / self.lengths)


def fit_of(shapes: Shapes, rest: Array | None, count: int, regular: float) -> Fit:
    """Return the problem of shapes on a model of `count` vertices that looks like `rest` (V, 3) when still.

    rest: None where the model gives displacements, so that a still face is zeros. regular: λ, how much a weight costs
    beside the shape's own energy.

    Raises:
        InputError: another topology, or shapes that move nothing.
    """
    if len(shapes.neutral) != count:
        raise InputError(
            f"the shapes have {len(shapes.neutral)} vertices, the model {count}",
            hint="make the shapes on the model's own topology, vertex for vertex",
        )
    scale = 1.0
    if rest is not None:
        ours, theirs = (float(np.linalg.norm(face - face.mean(0))) for face in (rest, shapes.neutral))
        if theirs > 0 and not 0.8 < ours / theirs < 1.25:
            scale = ours / theirs  # millimetres against metres and the like
    known = [name for name in ARKIT_SHAPES if name in shapes.deltas]
    deltas = np.stack([shapes.deltas[name].reshape(-1) for name in known]) * scale
    energy = np.square(deltas).sum(1)
    moving = energy > _WEAK * energy.max() if energy.max() > 0 else energy > 0
    if not moving.any():
        raise InputError("every shape is the neutral face")
    deltas, lengths = deltas[moving], np.sqrt(energy[moving])
    return Fit(
        tuple(name for name, moves in zip(known, moving, strict=True) if moves),
        np.zeros(3 * count) if rest is None else rest.reshape(-1),
        deltas,
        lengths,
        deltas @ deltas.T / np.outer(lengths, lengths),
        regular,
        scale,
    )


def motion_names(*, angles: bool) -> tuple[str, ...]:
    """Return the names of the stage's output: the 52 shapes and, with a head that turns, its three angles."""
    return ARKIT_SHAPES + (HEAD_ANGLES if angles else ())


class ArkitStage(nn.Module):
    """A fixed number of ADMM steps from where the frame before ended. Shapes that the file lacks stay 0."""

    def __init__(self, fit: Fit, steps: int) -> None:
        super().__init__()
        self.steps = steps
        n = len(fit.names)
        project = fit.deltas / fit.lengths[:, None]
        inverse = fit.inverse
        self.project, self.offset = _constant((inverse @ project).T), _constant(inverse @ project @ fit.rest)
        self.mix = _constant(fit.step * inverse)
        self.lengths = _constant(fit.lengths)
        place = np.zeros((n, len(ARKIT_SHAPES)))
        place[np.arange(n), [ARKIT_SHAPES.index(name) for name in fit.names]] = 1 / fit.lengths
        self.place = _constant(place)

    def forward(self, vertices: Tensor, before: Tensor, *angles: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (1, 52) in [0, 1], the head's angles after them if given, and the next start (1, 2, n).

        vertices (1, V, 3); before (1, 2, n): zeros, or what the frame before left; angles (1, 3).
        """
        linear = vertices.reshape(1, -1) @ self.project - self.offset
        z, u = before[:, 0], before[:, 1]
        for _ in range(self.steps):
            x = linear + (z - u) @ self.mix
            x = _RELAXED * x + (1 - _RELAXED) * z
            z = torch.minimum(torch.clamp(x + u, min=0.0), self.lengths)
            u = u + x - z
        weights = torch.clamp(z @ self.place, 0.0, 1.0)
        return torch.cat([weights, *angles], dim=1), torch.stack([z, u], dim=1)


def lines(fit: Fit, shapes: Shapes, residual: float | None) -> Sequence[str]:
    """Return what the user should know about the shapes, a sentence each."""
    still = [name for name in shapes.deltas if name not in fit.names]
    said = [f"arkit      {len(fit.names)} of 52 shapes, condition number {fit.condition:.0f}"]
    if residual is not None:
        said.append(f"arkit      {100 * residual:.1f} % of the model's motion (by energy) is in no blend of the shapes")
    if fit.scale != 1:
        said.append(f"arkit      the shapes were scaled by {fit.scale:.4g} to the size of the model's face")
    for what, names in (("missing, held at 0", shapes.missing), ("move nothing, held at 0", still)):
        if names:
            said.append(f"arkit      {what}: {', '.join(names)}")
    for name, other, cosine in fit.alike():
        what = "is the opposite of" if cosine < -0.999 else "cannot be told from a blend of others, nearest"
        said.append(f"arkit      {name} {what} {other} (cosine {cosine:.3f})")
    if shapes.ignored:
        said.append(f"arkit      no shape has the name of: {', '.join(shapes.ignored)}")
    return said


def _constant(values: NDArray[Any]) -> nn.Buffer:
    return nn.Buffer(torch.from_numpy(np.asarray(values, np.float32)))
