"""Many talkers of one bundle in lock-step: one session, one set of launches, a batch of talkers, with PyTorch.

Bundles are made for one talker (or a fixed number). Here each of its tensors gets a leading axis of talkers, and each
stage is mapped over it by torch.vmap. What all talkers share stays single: constants, schedules, controls, and what the
clock alone says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.lazy import LazyModule
from edgetalker.engines.manifest import ROW, Carry, Manifest, Stage, Step, reference
from edgetalker.engines.torch.engine import TorchEngine, TorchPool
from edgetalker.engines.torch.graph import OnnxModule
from edgetalker.serve.wide import WideBundle

__all__ = ["LockstepModule", "lockstep"]

torch: Any = LazyModule("torch")

_SHARED = ("heard", "count", "constant", "control")


class LockstepModule:
    """One stage mapped over talkers. mapped: the inputs that each talker has of its own."""

    def __init__(self, module: OnnxModule, talkers: int, mapped: frozenset[str]) -> None:
        self.inputs = {name: widened(spec, talkers) if name in mapped else spec for name, spec in module.inputs.items()}
        self.outputs = {name: widened(spec, talkers) for name, spec in module.outputs.items()}
        self._module, self._talkers, self._mapped = module, talkers, mapped
        self._run = torch.vmap(module.compute, in_dims=(dict.fromkeys(mapped, 0), None))

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Compute `outputs` in place from `inputs`."""
        own = {name: self._by_talker(inputs[name], self._module.inputs[name]) for name in self._mapped}
        shared = {name: value for name, value in inputs.items() if name not in self._mapped}
        for name, value in self._run(own, shared).items():
            self._by_talker(outputs[name], self._module.outputs[name]).copy_(value)

    def _by_talker(self, tensor: Any, single: TensorSpec) -> Any:
        return tensor.view(self._talkers, *single.shape)


def widened(spec: TensorSpec, talkers: int) -> TensorSpec:
    """Return a tensor's spec for many talkers: a leading 1 becomes their number, else an axis is put before."""
    rest = spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape
    return TensorSpec(spec.dtype, (talkers, *rest))


def lockstep(bundle: Bundle, talkers: int, device: Device) -> tuple[WideBundle, Mapping[str, Any]]:
    """Return the widened bundle and PyTorch engines for it.

    Raises EngineError when the bundle plays several talkers already, or reads one row of a block of frames
    (`name[phase]`), which has no axis of talkers.
    """
    if bundle.manifest.talkers != 1:
        raise EngineError(f"the bundle plays {bundle.manifest.talkers} talkers already")
    mapped = _mapped_inputs(bundle.manifest)
    pool = TorchPool(device)
    engines, stages = {}, {}
    for name, stage in bundle.manifest.stages.items():
        module = LockstepModule(OnnxModule(bundle.onnx(name), pool.where), talkers, mapped[name])
        stages[name] = Stage(name, stage.file, module.inputs, module.outputs)
        engines[name] = TorchEngine(name, module, pool, module.inputs, module.outputs)
    return WideBundle(bundle.path, _widened(bundle.manifest, talkers, stages), bundle), engines


def _widened(manifest: Manifest, talkers: int, stages: Mapping[str, Stage]) -> Manifest:
    tensors = {
        name: tensor if tensor.role in _SHARED else replace(tensor, spec=widened(tensor.spec, talkers))
        for name, tensor in manifest.tensors.items()
    }
    return replace(manifest, talkers=talkers, tensors=tensors, stages=stages)


def _mapped_inputs(manifest: Manifest) -> dict[str, frozenset[str]]:
    """Return for each stage the inputs that differ from talker to talker."""
    found: dict[str, frozenset[str]] = {}
    for step in manifest.program:
        texts = [step.source] if isinstance(step, Carry) else list(step.inputs.values())
        if any(reference(text).phase for text in texts):
            raise EngineError(f"bundle `{manifest.name}` computes blocks of frames, whose rows have no talkers")
        if isinstance(step, Step):
            own = _own_inputs(manifest, step)
            if found.setdefault(step.stage, own) != own:
                raise EngineError(f"stage `{step.stage}` is run both with shared and with own inputs")
    return found


def _own_inputs(manifest: Manifest, step: Step) -> frozenset[str]:
    own = {name for name, text in step.inputs.items() if text != ROW and manifest.tensors[text].role not in _SHARED}
    if not own:
        raise EngineError(f"stage `{step.stage}` reads nothing of a talker's own")
    return frozenset(own | set(step.carry.values()))
