"""The neutral face that is added to every frame: from a mesh, an array, or the datasets' own template pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import fits, read_arrays
from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.engines.files import read_regular
from edgetalker.engines.mesh import read_template as read_mesh
from edgetalker.export.faces.pickled import PickleError, array_of
from edgetalker.models.weights.pickled import Made, describe

__all__ = ["read_template"]

_MOST_BYTES = 256 << 20  # BIWI's 14 faces are 8 MB


def read_template(
    path: Path, vertices: int, subject: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
    """Return the template (1, vertices, 3) of a .ply, .obj, .npy or .pkl file, and its triangles (F, 3) if it has any.

    subject: whose face, where the file holds several by name (the datasets' `templates.pkl`, a dict of arrays in an
    .npz). A pickle is looked through and not run. Raises InputError for a file that holds no such face, OptionError
    for a subject that is not in it or was not chosen.
    """
    suffix = path.suffix.lower()
    triangles = None
    if suffix in (".ply", ".obj"):
        values, faces = read_mesh(path)
        triangles = faces.astype(np.int32)
    else:
        values = _chosen(path, _arrays(path), subject)
    if values.dtype.kind != "f" or values.size != 3 * vertices or values.shape not in ((vertices, 3), (3 * vertices,)):
        raise InputError(
            f"template {path} is {values.dtype} of {values.shape}; floats of ({vertices}, 3) were wanted",
            hint="is it of the dataset that the checkpoint was trained on?",
        )
    if not fits(values):
        raise InputError(f"template {path} holds NaN, infinite or huge values")
    return values.astype(np.float32).reshape(1, -1, 3), triangles


def _arrays(path: Path) -> Any:
    """Return what an array file or a pickle holds: an array, or values by name."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"template {path} has {path.stat().st_size / 1e6:.0f} MB; a face has some kB")
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80" or path.suffix.lower() in (".pkl", ".pickle")
        if pickled:
            content = describe(read_regular(path, _MOST_BYTES), _MOST_BYTES)
            return content.items if isinstance(content, Made) and content.items else content
        return read_arrays(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"template {path} is no array file (.npy), mesh (.ply, .obj) or pickle of arrays: {error}"
        ) from None


def _chosen(path: Path, content: Any, subject: str | None) -> NDArray[Any]:
    if isinstance(content, dict):
        names = [str(name) for name in content]
        if subject is None and len(names) > 1:
            raise OptionError(
                f"template {path} holds {len(names)} faces", hint=f"choose one with --subject: {', '.join(names[:20])}"
            )
        wanted = subject or (names[0] if names else "")
        if wanted not in names:
            raise OptionError(
                f"template {path} holds no `{wanted}`{nearest(wanted, names)}", hint=f"it holds {', '.join(names[:20])}"
            )
        content = next(value for name, value in content.items() if str(name) == wanted)
    elif subject is not None:
        raise OptionError(f"template {path} is one face; it has no subjects to choose `{subject}` from")
    if isinstance(content, np.ndarray):
        return content
    try:
        return array_of(content)
    except PickleError as error:
        raise InputError(f"template {path} {error}") from None
