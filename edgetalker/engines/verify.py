"""Finds every contradiction inside a manifest, all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import nearest
from edgetalker.engines.manifest import Carry, Manifest, Step, Tensor
from edgetalker.engines.references import block_row, reference

__all__ = ["contradictions"]

_FILLED_BY_RUNTIME = ("audio", "heard", "count", "noise", "control", "input", "constant", "state")
_WRITABLE = ("value", "state")


def contradictions(manifest: Manifest) -> list[str]:
    """Return a sentence for every contradiction; an empty list means that the manifest is sound."""
    faults: list[str] = []
    faults += _tensor_faults(manifest)
    faults += _motion_faults(manifest)
    faults += _schedule_faults(manifest)
    for place, step in enumerate(manifest.program):
        where = f"program[{place}]"
        found = _step_faults(manifest, step) if isinstance(step, Step) else _carry_faults(manifest, step)
        faults += [f"{where}: {text}" for text in found]
    faults += _order_faults(manifest)
    faults += _file_faults(manifest)
    return faults


def _tensor_faults(manifest: Manifest) -> Iterator[str]:
    audio = [tensor for tensor in manifest.tensors.values() if tensor.role == "audio"]
    wanted = (manifest.talkers, manifest.audio.window)
    for tensor in audio:
        if tensor.spec != TensorSpec("float32", wanted):
            yield f"tensor `{tensor.name}` is {tensor.spec}; the audio contract wants {TensorSpec('float32', wanted)}"
    if len(audio) > 1:
        yield f"several tensors hold the audio: {', '.join(tensor.name for tensor in audio)}"
    for tensor in manifest.tensors.values():
        if tensor.role in ("heard", "count") and tensor.spec != TensorSpec("float32", (1,)):
            yield f"tensor `{tensor.name}` ({tensor.role}) is {tensor.spec}; float32[1] was wanted"
        if tensor.role in ("noise", "control") and tensor.spec.dtype != "float32":
            yield f"tensor `{tensor.name}` ({tensor.role}) is {tensor.spec.dtype}; float32 was wanted"
        if tensor.role == "control":
            yield from _control_faults(tensor)


def _control_faults(tensor: Tensor) -> Iterator[str]:
    size = tensor.spec.shape[-1]
    if len(tensor.default) != size:
        yield f"control `{tensor.name}` has {len(tensor.default)} default values for {size} places"
    for key in ("names", "low", "high"):
        values = getattr(tensor, key)
        if values and len(values) != size:
            yield f"control `{tensor.name}` has {len(values)} {key} for {size} places"
    for low, value, high in zip(tensor.low, tensor.default, tensor.high, strict=False):
        if not low <= value <= high:
            yield f"control `{tensor.name}` has default {value:g} outside {low:g} to {high:g}"
    if tensor.glide < 0:
        yield f"control `{tensor.name}` has a negative glide of {tensor.glide:g} s"


def _motion_faults(manifest: Manifest) -> Iterator[str]:
    motion = manifest.motion
    tensor = manifest.tensors.get(motion.tensor)
    if tensor is None:
        yield f"motion.tensor `{motion.tensor}` is no tensor{nearest(motion.tensor, manifest.tensors)}"
        return
    if tensor.role not in _WRITABLE or tensor.spec.dtype != "float32":
        yield f"motion.tensor `{tensor.name}` is a {tensor.role} of {tensor.spec.dtype}; a float32 value was wanted"
    if tensor.spec.shape[0] != manifest.talkers:
        yield f"motion.tensor `{tensor.name}` is {tensor.spec} for {manifest.talkers} talkers"
    if motion.names and len(motion.names) != tensor.spec.shape[-1]:
        yield f"motion has {len(motion.names)} names for {tensor.spec.shape[-1]} values a frame"
    if motion.kind == "arkit" and len(motion.names) < 52:
        yield f"motion of kind `arkit` has {len(motion.names)} names; at least the 52 shapes were wanted"


def _schedule_faults(manifest: Manifest) -> Iterator[str]:
    if not manifest.schedules:
        yield "there is no schedule"
    ranks: dict[int, str] = {}
    for schedule in manifest.schedules.values():
        other = ranks.setdefault(schedule.rank, schedule.name)
        if other != schedule.name:
            yield f"schedules `{other}` and `{schedule.name}` have the same rank {schedule.rank}"


def _step_faults(manifest: Manifest, step: Step) -> Iterator[str]:
    yield from _unknown("schedule", step.schedules, manifest.schedules)
    stage = manifest.stages.get(step.stage)
    if stage is None:
        yield f"`{step.stage}` is no stage{nearest(step.stage, manifest.stages)}"
        return
    yield from _unknown(f"input of stage `{stage.name}`", step.inputs, stage.inputs)
    yield from _unknown(f"output of stage `{stage.name}`", step.outputs, stage.outputs)
    for name in sorted(stage.inputs.keys() - step.inputs.keys()):
        yield f"input `{name}` of stage `{stage.name}` reads nothing"
    for name in sorted(stage.outputs.keys() - step.outputs.keys()):
        yield f"output `{name}` of stage `{stage.name}` goes nowhere"
    for name in sorted(stage.inputs.keys() & step.inputs.keys()):
        yield from _input_faults(manifest, step, name, stage.inputs[name])
    for name in sorted(stage.outputs.keys() & step.outputs.keys()):
        yield from _target_faults(manifest, step.outputs[name], stage.outputs[name], f"output `{name}`")
    for name in sorted({text.removesuffix("[phase]") for text in step.inputs.values()} & set(step.outputs.values())):
        yield f"reads and writes `{name}` in one run; write another tensor and add a `copy` carry"
    yield from _row_faults(manifest, step)
    if manifest.audio.block % step.every:
        yield f"runs every {step.every} frames, which does not divide the audio block of {manifest.audio.block}"


def _input_faults(manifest: Manifest, step: Step, name: str, wanted: TensorSpec) -> Iterator[str]:
    text = step.inputs[name]
    try:
        ref = reference(text)
    except ValueError as error:
        yield f"input `{name}`: {error}"
        return
    if ref.row:
        if not step.rows:
            yield f"input `{name}` reads `{text}`, but the step has no rows"
        return
    tensor = manifest.tensors.get(ref.name)
    if tensor is None:
        yield f"input `{name}` reads `{ref.name}`, which is no tensor{nearest(ref.name, manifest.tensors)}"
        return
    found = block_row(tensor.spec) if ref.phase else tensor.spec
    if found != wanted:
        yield f"input `{name}` is {wanted}, but `{text}` is {found}"


def _target_faults(manifest: Manifest, target: str, wanted: TensorSpec, what: str) -> Iterator[str]:
    tensor = manifest.tensors.get(target)
    if tensor is None:
        yield f"{what} goes to `{target}`, which is no tensor{nearest(target, manifest.tensors)}"
        return
    if tensor.role not in _WRITABLE:
        yield f"{what} goes to `{target}`, a {tensor.role}, which nobody may write"
    if tensor.spec != wanted:
        yield f"{what} is {wanted}, but `{target}` is {tensor.spec}"


def _row_faults(manifest: Manifest, step: Step) -> Iterator[str]:
    if not step.rows:
        if step.carry:
            yield "has a carry from row to row, but no rows"
        return
    stage = manifest.stages[step.stage]
    for output, given in step.carry.items():
        if output not in stage.outputs or given not in stage.inputs:
            yield f"carry `{output}` -> `{given}` is not an output and an input of stage `{stage.name}`"
        elif stage.outputs[output] != stage.inputs[given]:
            yield f"carry `{output}` is {stage.outputs[output]}, `{given}` is {stage.inputs[given]}"
    if step.every != 1:
        yield "has rows and runs every k-th frame only, which cannot be combined"
    for name in step.schedules or manifest.schedules:
        if name in manifest.schedules and not manifest.schedules[name].file:
            yield f"has rows, but schedule `{name}` has no table"


def _carry_faults(manifest: Manifest, carry: Carry) -> Iterator[str]:
    yield from _unknown("schedule", carry.schedules, manifest.schedules)
    try:
        ref = reference(carry.source)
    except ValueError as error:
        yield str(error)
        return
    missing = [name for name in (ref.name, carry.target) if name not in manifest.tensors]
    for name in missing:
        yield f"`{name}` is no tensor{nearest(name, manifest.tensors)}"
    if missing:
        return
    source, target = manifest.tensors[ref.name].spec, manifest.tensors[carry.target]
    found = block_row(source) if ref.phase else source
    if target.role not in _WRITABLE:
        yield f"writes `{carry.target}`, a {target.role}, which nobody may write"
    if found.dtype != target.spec.dtype:
        yield f"moves {found} into {target.spec}"
    elif carry.kind == "copy" and found.nbytes != target.spec.nbytes:
        yield f"copies {found} to {target.spec}"
    elif carry.kind == "shift":
        yield from _shift_faults(found, target.spec)


def _shift_faults(newest: TensorSpec, window: TensorSpec) -> Iterator[str]:
    if len(window.shape) < 2:
        yield f"shifts into {window}, which has no axis of rows; (talkers, rows, ...) was wanted"
        return
    row = window.nbytes // window.shape[1]
    if newest.nbytes % row or newest.nbytes >= window.nbytes:
        yield f"shifts {newest} into {window}: not a whole number of its rows, or all of them"


def _order_faults(manifest: Manifest) -> Iterator[str]:
    """A value that is read before anything wrote it in the same frame would be stale or poison."""
    for schedule in manifest.schedules:
        written = {name for name, tensor in manifest.tensors.items() if tensor.role in _FILLED_BY_RUNTIME}
        for place, step in enumerate(manifest.program):
            if step.schedules and schedule not in step.schedules:
                continue
            reads, writes = _traffic(step)
            for name in sorted((reads & manifest.tensors.keys()) - written):
                yield f"program[{place}]: reads `{name}` before anything wrote it (schedule `{schedule}`)"
            written |= writes
        if manifest.motion.tensor in manifest.tensors and manifest.motion.tensor not in written:
            yield f"schedule `{schedule}` never writes the motion `{manifest.motion.tensor}`"


def _traffic(step: Step | Carry) -> tuple[set[str], set[str]]:
    if isinstance(step, Carry):
        return {step.source.removesuffix("[phase]")}, {step.target}
    return {text.removesuffix("[phase]") for text in step.inputs.values()}, set(step.outputs.values())


def _file_faults(manifest: Manifest) -> Iterator[str]:
    wanted = {stage.file: f"stage `{stage.name}`" for stage in manifest.stages.values()}
    wanted |= {tensor.file: f"tensor `{tensor.name}`" for tensor in manifest.tensors.values() if tensor.file}
    wanted |= {item.file: f"schedule `{item.name}`" for item in manifest.schedules.values() if item.file}
    for precision, stages in manifest.precisions.items():
        yield from _unknown(f"stage in precision `{precision}`", stages, manifest.stages)
        wanted |= {file: f"precision `{precision}` of stage `{stage}`" for stage, file in stages.items()}
    for file, user in wanted.items():
        if file not in manifest.files:
            yield f"{user} uses `{file}`, which `files` does not list{nearest(file, manifest.files)}"


def _unknown(what: str, names: object, known: Mapping[str, object]) -> Iterator[str]:
    assert isinstance(names, (tuple, Mapping))
    for name in names:
        if name not in known:
            yield f"unknown {what}: `{name}`{nearest(name, known)}"
