"""Finds every contradiction inside a manifest, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import nearest
from edgetalker.engines.manifest import ROW, Carry, Manifest, Reference, Step, Tensor, reference

__all__ = ["contradictions", "traffic"]

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
    faults += _group_faults(manifest)
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
        if tensor.role in ("noise", "control", "input") and tensor.spec.dtype != "float32":
            yield f"tensor `{tensor.name}` ({tensor.role}) is {tensor.spec.dtype}; float32 was wanted"
        if tensor.role == "noise" and tensor.spec.shape[0] != manifest.talkers:
            yield f"tensor `{tensor.name}` (noise) is {tensor.spec} for {manifest.talkers} talkers"
        if tensor.role in ("control", "input"):
            yield from _places_faults(tensor)


def _places_faults(tensor: Tensor) -> Iterator[str]:
    """Of a control or an input, whose values stand in places."""
    what, size = f"{tensor.role} `{tensor.name}`", tensor.spec.shape[-1]
    for key in ("names", "default", "low", "high"):
        count = len(getattr(tensor, key))
        if count != size and (count or (key == "default" and tensor.role == "control")):
            yield f"{what} has {count} {key} for {size} places"
    for low, value, high in zip(tensor.low, tensor.default, tensor.high, strict=False):
        if not low <= value <= high:
            yield f"{what} has default {value:g} outside {low:g} to {high:g}"
    for key in ("glide", "stale"):
        if getattr(tensor, key) < 0:
            yield f"{what} has a negative {key} of {getattr(tensor, key):g} s"


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
    for read in sorted(set(step.inputs.values())):
        for written in sorted(set(step.outputs.values())):
            if _overlap(read, written):
                yield f"reads and writes `{read}` in one run; write another tensor and add a `copy` carry"
    yield from _row_faults(manifest, step)
    yield from _period_faults(manifest, step)


def _overlap(read: str, written: str) -> bool:
    """Whether a run that reads one reference and writes the other touches some memory twice."""
    try:
        first, second = reference(read), reference(written)
    except ValueError:
        return False
    if first.name != second.name:
        return False
    return not (first.part and second.part) or (first.part[0] < second.part[1] and second.part[0] < first.part[1])


def _period_faults(manifest: Manifest, step: Step | Carry) -> Iterator[str]:
    if manifest.audio.block % step.every:
        yield f"runs every {step.every} frames, which does not divide the audio block of {manifest.audio.block}"


def _input_faults(manifest: Manifest, step: Step, name: str, wanted: TensorSpec) -> Iterator[str]:
    text = step.inputs[name]
    if text == ROW:
        if not step.rows:
            yield f"input `{name}` reads `{text}`, but the step has no rows"
        return
    try:
        found = _seen(manifest, text)[2]
    except ValueError as error:
        yield f"input `{name}`: {error}"
        return
    if found != wanted:
        yield f"input `{name}` is {wanted}, but `{text}` is {found}"


def _seen(manifest: Manifest, text: str) -> tuple[Reference, Tensor, TensorSpec]:
    """Return what a reference (not `@row`) sees. Raises ValueError with what is wrong with it."""
    ref = reference(text)
    if ref.name not in manifest.tensors:
        raise ValueError(f"`{ref.name}` is no tensor{nearest(ref.name, manifest.tensors)}")
    tensor = manifest.tensors[ref.name]
    return ref, tensor, ref.of(tensor.spec)


def _target_faults(manifest: Manifest, target: str, wanted: TensorSpec, what: str) -> Iterator[str]:
    try:
        ref, tensor, found = _seen(manifest, target)
    except ValueError as error:
        yield f"{what}: {error}"
        return
    if ref.phase:
        yield f"{what}: `{target}` cannot be written; a tensor or a part `name[first:last]` can"
        return
    if tensor.role not in _WRITABLE:
        yield f"{what} goes to `{ref.name}`, a {tensor.role}, which nobody may write"
    if found != wanted:
        yield f"{what} is {wanted}, but `{target}` is {found}"


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
    for output in step.carry:
        with suppress(ValueError):  # a reference without form is a fault of its own
            if reference(step.outputs.get(output, output)).part:
                yield f"carry `{output}` hands on a part of a tensor; a whole one was wanted"
    for name in step.schedules or manifest.schedules:
        if name in manifest.schedules and not manifest.schedules[name].file:
            yield f"has rows, but schedule `{name}` has no table"


def _carry_faults(manifest: Manifest, carry: Carry) -> Iterator[str]:
    yield from _unknown("schedule", carry.schedules, manifest.schedules)
    yield from _period_faults(manifest, carry)
    ends = []
    for text in (carry.source, carry.target):
        try:
            ends.append(_seen(manifest, text))
        except ValueError as error:
            yield str(error)
    if len(ends) < 2:
        return
    (_, _, found), (ref, tensor, target) = ends
    if ref.phase or (ref.part and carry.kind == "shift"):
        yield f"{'shifts into' if carry.kind == 'shift' else 'writes'} `{carry.target}`, which cannot be"
    if tensor.role not in _WRITABLE:
        yield f"writes `{ref.name}`, a {tensor.role}, which nobody may write"
    if found.dtype != target.dtype:
        yield f"moves {found} into {target}"
    elif _overlap(carry.source, carry.target):
        yield f"moves `{carry.source}` into `{carry.target}`, which is the same memory"
    elif carry.kind == "copy" and found.nbytes != target.nbytes:
        yield f"copies {found} to {target}"
    elif carry.kind == "shift":
        yield from _shift_faults(found, target)


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
        written = {name for name, tensor in manifest.tensors.items() if tensor.role != "value"}
        for place, step in enumerate(manifest.program):
            if step.schedules and schedule not in step.schedules:
                continue
            reads, writes = traffic(step)
            for name in sorted((reads & manifest.tensors.keys()) - written):
                yield f"program[{place}]: reads `{name}` before anything wrote it (schedule `{schedule}`)"
            written |= writes
        if manifest.motion.tensor in manifest.tensors and manifest.motion.tensor not in written:
            yield f"schedule `{schedule}` never writes the motion `{manifest.motion.tensor}`"


def traffic(step: Step | Carry) -> tuple[set[str], set[str]]:
    """Return the names of the tensors that a step or a carry reads and writes."""
    if isinstance(step, Carry):
        return set(_names([step.source])), set(_names([step.target]))
    return set(_names(step.inputs.values())), set(_names(step.outputs.values()))


def _names(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        with suppress(ValueError):  # a reference without form is a fault of its own
            if not (ref := reference(text)).row:
                yield ref.name


def _group_faults(manifest: Manifest) -> Iterator[str]:
    """What runs once in several frames runs first; and what is spread over frames must not meet them half-way."""
    block, spread = manifest.audio.block, manifest.audio.spread
    framed: list[Step | Carry] = []
    for place, step in enumerate(manifest.program):
        if step.every == 1:
            framed.append(step)
            continue
        reads, writes = traffic(step)
        for other in framed:
            read, written = traffic(other)
            for name in sorted((reads | writes) & written | (writes & read)):
                yield (
                    f"program[{place}] runs every {step.every} frames and shares `{name}` with a step of every frame "
                    "before it; put it first"
                )
    if spread >= block and spread:
        yield f"audio.spread is {spread} frames; less than the block of {block} was wanted"
    if not spread:
        return
    chunk = [traffic(step) for step in manifest.program if step.every == block > 1]
    if not chunk:
        yield f"audio.spread is {spread} frames, but no step runs once a block"
    for step in manifest.program:
        if step.every == block:
            continue
        reads, writes = traffic(step)
        for read, written in chunk:
            for name in sorted(writes & (read | written)):
                yield f"`{name}` is written while a group that is spread over the frames uses it"


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


def _unknown(what: str, names: Iterable[str], known: Mapping[str, object]) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"unknown {what}: `{name}`{nearest(name, known)}"
