"""Published StreamingTalker checkpoints to networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from edgetalker.engines.errors import Say, nearest
from edgetalker.models.streamingtalker.config import Config, Untold, config_from_shapes, dataset_of
from edgetalker.models.streamingtalker.keys import published_key
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.wrapping import choose, unwrap
from edgetalker.models.weights import CheckpointError, read_weights, tensor_faults

__all__ = ["load_checkpoint", "model_from_tensors", "read_tensors"]

_PARTS = {"audio_encoder.": "the audio encoder", "autoencoder.": "the VAE", "diff_ar_network.": "the motion network"}
_CONVOLUTION = "audio_encoder.encoder.pos_conv_embed.conv."
_MOST_TENSORS = 20_000
_DATASET = {"vocaset": "VOCASET", "biwi": "BIWI"}


@dataclass(frozen=True)
class State:
    """The tensors of one file by published names. strays: further keys, which are faults unless passed over."""

    tensors: Mapping[str, Tensor]
    strays: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so."""
        return {key: value for key, value in self.tensors.items() if key.startswith(prefix)}


def load_checkpoint(
    path: Path | str,
    vae: Path | str | None = None,
    untold: Untold | None = None,
    *,
    ignore_extra: bool = False,
    say: Say = lambda line: None,
) -> StreamingTalker:
    """Load a stage-2 checkpoint; a stage-1 file `vae` fills in the VAE's tensors that it lacks.

    Names may be wrapped (see `read_tensors`). ignore_extra: pass over keys that no StreamingTalker has. `say` gets
    one line a file of which something was taken off. Returns the network in float32 and evaluation mode.

    Raises:
        CheckpointError: unreadable files; files of two different networks; missing, unexpected, misshapen or
            non-finite tensors, all at once.
        OptionError: what no tensor tells and must be given (see `Untold`).
    """
    state, where = _read(path, say), str(path)
    if vae is not None:
        state = _with_vae(state, _read(vae, say), str(path), str(vae), untold or Untold(), say)
        where = f"{path} with {vae}"
    else:
        _check_parts(state, where)
    strays = list(state.strays)
    if strays and ignore_extra:
        say(f"{where}: passed over {len(strays)} further entries ({', '.join(strays[:3])}, …)")
        strays = []
    return model_from_tensors(state.tensors, untold, where=where, strays=strays, ignore_extra=ignore_extra)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by their published names, without running any of its code.

    The dict of tensors may lie under any key; names may have a common prefix (`model.`) or hold what wrappers put
    into them (`module.`, `_orig_mod.`); a VAE's may lack `autoencoder.`; weight norm may be old, new or folded.
    Entries without a published name come back by their own.

    Raises:
        CheckpointError: not a file, not a checkpoint, or no tensors in it.
    """
    found = choose(read_weights(path).found)
    unwrapped = unwrap(found)
    return {**unwrapped.tensors, **unwrapped.strays}


def _read(path: Path | str, say: Say) -> State:
    file = read_weights(path)
    found = choose(file.found)
    unwrapped = unwrap(found)
    if len(found.tensors) > _MOST_TENSORS:
        raise CheckpointError(str(path), [f"holds {len(found.tensors)} tensors; a StreamingTalker has about 400"])
    notes = (*file.notes, *unwrapped.notes)
    if notes:
        say(f"{path}: {'; '.join(notes)}")
    # Beside the weights of a whole file lie its epoch and its settings; inside a state_dict nothing else belongs.
    others = found.others if found.place else ()
    if not unwrapped.tensors:
        raise _unrelated(str(path), list(unwrapped.strays))
    return State(_unfolded(unwrapped.tensors), (*unwrapped.strays, *others), notes)


def _unfolded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a positional convolution whose weight norm was folded one that leaves it as it is."""
    tensors = dict(tensors)
    weight = tensors.get(_CONVOLUTION + "weight")
    normed = _CONVOLUTION + "parametrizations.weight.original1"
    if weight is not None and normed not in tensors and weight.dim() == 3 and weight.dtype.is_floating_point:
        weight = tensors.pop(_CONVOLUTION + "weight").to(torch.float32)
        tensors[normed] = weight
        tensors[_CONVOLUTION + "parametrizations.weight.original0"] = weight.norm(dim=(0, 1), keepdim=True)
    return tensors


def _unrelated(where: str, keys: Sequence[str]) -> CheckpointError:
    some = ", ".join(f"`{key[:80]}`" for key in keys[:3])
    return CheckpointError(
        where, [f"is no StreamingTalker checkpoint: none of its {len(keys)} tensors has such a name ({some}, …)"]
    )


def _check_parts(state: State, where: str) -> None:
    """Say in one sentence when a whole network is not there."""
    there = [prefix for prefix in _PARTS if state.part(prefix)]
    if there == ["autoencoder."]:
        raise CheckpointError(
            where,
            ["is a stage-1 checkpoint: it holds the VAE alone"],
            hint="give the stage-2 checkpoint, and this one as --vae",
        )
    missing = [name for prefix, name in _PARTS.items() if prefix not in there]
    if missing:
        hint = "give the stage-1 checkpoint too: --vae VAE_CKPT" if missing == ["the VAE"] else None
        raise CheckpointError(where, [f"lacks {' and '.join(missing)}"], hint=hint)


def _with_vae(state: State, vae: State, where: str, vae_where: str, untold: Untold, say: Say) -> State:
    """Return stage 2 with what it lacks of the VAE. Raises CheckpointError when the two are of different networks."""
    theirs, ours = vae.part("autoencoder."), state.part("autoencoder.")
    if not theirs:
        raise CheckpointError(vae_where, ["holds no VAE"], hint="--vae wants the stage-1 checkpoint")
    faults = [
        f"{key} is {tuple(value.shape)} in {vae_where}, {tuple(ours[key].shape)} in {where}"
        for key, value in theirs.items()
        if key in ours and ours[key].shape != value.shape
    ]
    shapes = {key: tuple(value.shape) for key, value in {**theirs, **state.part("diff_ar_network.")}.items()}
    motion, trained = dataset_of(shapes, "motion"), dataset_of(shapes, "vae")
    chosen = None not in (untold.frame_rate, untold.period, untold.activation)
    if motion and trained and motion != trained and not chosen:
        faults.insert(0, f"the VAE is {_DATASET[trained]}'s; {where} is {_DATASET[motion]}'s")
    if faults:
        hint = "give the VAE that stage 2 was trained with (if this is it: --fps, --period and --activation say so)"
        raise CheckpointError(f"{where} with {vae_where}", faults, hint=hint)
    added = {key: value for key, value in theirs.items() if key not in ours}
    if ours and set(added) <= {key for key in added if "_post." in key or "_pre." in key}:
        # A whole VAE is there; maps that it was not trained with would change what it says.
        say(f"{where}: holds the whole VAE; {vae_where} adds nothing")
        added = {}
    # Stage 2 may have trained the decoder further (BIWI), so its own tensors win, as in the published order.
    merged = State({**state.tensors, **added}, state.strays)
    _check_parts(merged, where)
    return merged


def model_from_tensors(
    tensors: Mapping[str, Tensor],
    untold: Untold | None = None,
    *,
    where: str = "checkpoint",
    strays: Sequence[str] = (),
    ignore_extra: bool = False,
) -> StreamingTalker:
    """Build the network that fits these tensors (published names) and give it their values.

    strays: further keys of the file, which are told as faults. ignore_extra: pass over tensors that do not belong.

    Raises:
        CheckpointError: every missing, unexpected, misshapen or non-finite tensor, all at once.
        OptionError: what no tensor tells and must be given (see `Untold`).
    """
    untold = untold or Untold()
    if untold.period is None:
        untold = replace(untold, period=_period(tensors.get("diff_ar_network.PPE.pe")))
    try:
        config = config_from_shapes({key: tuple(value.shape) for key, value in tensors.items()}, untold)
        with torch.device("meta"):
            model = StreamingTalker(config)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(where, [f"its tensors are of no StreamingTalker: {error}"]) from None
    names = {own: published_key(own) for own in model.state_dict()}
    wanted = {names[own]: tuple(value.shape) for own, value in model.state_dict().items()}
    if not wanted.keys() & tensors.keys():
        raise _unrelated(where, list(tensors))
    faults = tensor_faults(wanted, tensors, ignore_extra=ignore_extra) + _misfits(config)
    faults += [f"unexpected: {key}{nearest(key, wanted)}" for key in strays[:_MOST_TENSORS]]
    if faults:
        raise CheckpointError(where, faults, hint=_hint(faults))
    values = {own: tensors[theirs].detach().to(torch.float32) for own, theirs in names.items()}
    model.load_state_dict(values, assign=True)
    # Assigning gives each of the two names of the shared map a parameter of its own; make them one again.
    model.motion.head.latent_map = model.motion.latent_map
    return model.eval().requires_grad_(False)


def _period(table: Tensor | None) -> int | None:
    """Return after how many rows a position table (1, rows, width) repeats; None when it does not."""
    if table is None or table.dim() != 3 or not table.dtype.is_floating_point or not 2 < table.shape[1] < 1 << 16:
        return None
    rows = table[0]
    first = (rows - rows[0]).abs().amax(dim=1) < 1e-6
    for period in torch.nonzero(first[1:]).flatten()[:1000].add(1).tolist():
        if bool(first[::period].all()) and torch.allclose(rows[period:], rows[:-period], atol=1e-6):
            return int(period)
    return None


def _hint(faults: Sequence[str]) -> str | None:
    """Return what mends the faults that are there."""
    kinds = {fault.partition(":")[0] for fault in faults}
    if kinds == {"unexpected"}:
        return "pass over what does not belong: --ignore-extra"
    if "not finite" in kinds:
        return "the training diverged or the file is damaged; take an earlier checkpoint"
    if any(fault.startswith("missing: autoencoder.") for fault in faults):
        return "--vae FILE adds the VAE's missing tensors from the stage-1 checkpoint"
    return None


def _misfits(config: Config) -> list[str]:
    faults = []
    if config.latent_width % config.code_width:
        faults.append(f"misfit: latents of {config.latent_width} are no whole number of codes of {config.code_width}")
    if not config.vae_extra_linear and config.latent_width != config.vae_width:
        faults.append(
            f"misfit: latents of {config.latent_width} for a VAE of width {config.vae_width} "
            "that has no encoder_linear_embedding_post and decoder_linear_embedding_pre"
        )
    return faults
