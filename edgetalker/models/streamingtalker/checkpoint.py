"""Reads published StreamingTalker checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgetalker.engines.errors import InputError, nearest
from edgetalker.models.streamingtalker.config import HeadCounts, config_from_shapes
from edgetalker.models.streamingtalker.keys import published_key, with_new_weight_norm
from edgetalker.models.streamingtalker.model import StreamingTalker

__all__ = ["CheckpointError", "load_checkpoint", "model_from_tensors", "read_tensors", "tensor_faults"]


class CheckpointError(InputError):
    """A checkpoint that cannot be read or does not fit the network; `faults` lists every reason."""

    def __init__(self, where: str, faults: list[str], *, hint: str | None = None) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{where}: {count}", *(f"  - {fault}" for fault in faults)]), hint=hint)


def load_checkpoint(
    path: Path | str, vae: Path | str | None = None, heads: HeadCounts | None = None
) -> StreamingTalker:
    """Load a stage-2 checkpoint; a stage-1 file `vae` fills in the VAE's tensors that it lacks.

    Returns the network in float32 and evaluation mode.

    Raises:
        CheckpointError: unreadable files; missing, unexpected, misshapen or non-finite tensors, all at once.
        OptionError: a head count that must be given (see `HeadCounts`).
    """
    tensors = read_tensors(path)
    where = str(path)
    if vae is not None:
        # Stage 2 may have trained the decoder further (BIWI), so its own tensors win, as in the published order.
        tensors = read_tensors(vae) | tensors
        where = f"{path} with {vae}"
    return model_from_tensors(tensors, heads, where=where)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read the `state_dict` of a Lightning file, or a bare one, without running any of its code.

    Objects beside the weights are passed over. Old weight-norm names come back as new ones.

    Raises:
        CheckpointError: not a file, not a checkpoint, or a state_dict that holds more than tensors.
    """
    content = _read(Path(path))
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(str(path), ["holds no state_dict of tensors"])
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(str(path), [f"`{key}` is not a tensor" for key in strange])
    return {with_new_weight_norm(str(key)): value for key, value in state.items()}


class _Inert:
    """Stands in for every class that a checkpoint names and that is no tensor or plain value: does nothing.

    Lightning files may keep hyper-parameters and callbacks as objects beside the weights. None of their code is
    imported or run; their places in the file are filled with these.
    """

    def __new__(cls, *_args: object, **_options: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


def _read(path: Path) -> object:
    try:
        with path.open("rb"):
            pass
        with torch.serialization.safe_globals([(_Inert, name) for name in _foreign(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(str(path), ["no such file"]) from None
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            str(path),
            [f"is not a checkpoint, or holds more than tensors and plain values: {reason}"],
            hint="where it was trained, save the weights alone: torch.save({'state_dict': module.state_dict()}, FILE)",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(str(path), [f"is truncated or not a checkpoint: {reason}"]) from None


def _foreign(path: Path) -> list[str]:
    """Return the full names of classes in the file that `weights_only` does not know; read, not imported."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a damaged file fails in many ways here; torch.load then says how
        return []


def model_from_tensors(
    tensors: Mapping[str, Tensor], heads: HeadCounts | None = None, *, where: str = "checkpoint"
) -> StreamingTalker:
    """Build the network that fits these tensors (published names) and give it their values.

    Raises:
        CheckpointError: every missing, unexpected, misshapen or non-finite tensor, all at once.
        OptionError: a head count that must be given (see `HeadCounts`).
    """
    config = config_from_shapes({key: tuple(value.shape) for key, value in tensors.items()}, heads)
    with torch.device("meta"):
        model = StreamingTalker(config)
    names = {own: published_key(own) for own in model.state_dict()}
    wanted = {names[own]: tuple(value.shape) for own, value in model.state_dict().items()}
    faults = tensor_faults(wanted, tensors)
    if faults:
        raise CheckpointError(
            where, faults, hint="a StreamingTalker stage-2 checkpoint is wanted; --vae FILE adds a missing VAE"
        )
    values = {own: tensors[theirs].detach().to(torch.float32) for own, theirs in names.items()}
    model.load_state_dict(values, assign=True)
    # Assigning gives each of the two names of the shared map a parameter of its own; make them one again.
    model.motion.head.latent_map = model.motion.latent_map
    return model.eval().requires_grad_(False)


def tensor_faults(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> list[str]:
    faults = [f"missing: {key} {shape}" for key, shape in wanted.items() if key not in given]
    for key, value in given.items():
        shape = tuple(value.shape)
        if key not in wanted:
            faults.append(f"unexpected: {key} {shape}{nearest(key, wanted)}")
        elif shape != wanted[key]:
            faults.append(f"misshapen: {key} is {shape}, wanted {wanted[key]}")
        elif not value.dtype.is_floating_point:
            faults.append(f"misfit: {key} is {value.dtype}, wanted a floating-point type")
        elif not bool(torch.isfinite(value).all()):
            faults.append(f"not finite: {key} holds NaN or infinite values")
    return faults
