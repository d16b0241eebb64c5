"""A tiny talker with random weights and a tiny corpus that needs no synthesizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.models.online.data import aligned, mbrola, synths
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.sessions import save, targets
from edgetalker.models.online.data.utterance import RATE, Voice
from edgetalker.models.online.head import Head, HeadSize
from edgetalker.models.online.layout import CHANNELS, MADE, Decoder
from edgetalker.models.online.talker import Talker
from edgetalker.models.online.trunk import Trunk, TrunkSize

TRUNK = TrunkSize(entry=24, width=16)
TRANSFORMER = TrunkSize(entry=16, width=16, layers=2, kind="transformer", window=8, heads=2, hidden=24)
HEAD = HeadSize(features=16, width=24, hidden=32, blocks=1, past=12)
FESTIVAL = Path("/usr/share/festival/voices")


def here(voice: Voice) -> bool:
    """Tell whether a voice can speak on this machine."""
    if voice.engine == "rhvoice":
        return synths.available("rhvoice") and (aligned.RHVOICES / voice.name).exists()
    if voice.engine == "mbrola":
        return synths.available("mbrola") and mbrola.has_voice(voice.name)
    return synths.available(voice.engine) and (voice.engine != "festival" or any(FESTIVAL.glob(f"*/{voice.name}")))


def small_trunk(size: TrunkSize) -> Trunk:
    """Return a trunk with random weights, as if trained: what it remembers moves what it says."""
    trunk = Trunk(size).eval()
    for name, weight in trunk.memory.named_parameters():
        if size.kind == "transformer" and weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
        if name.endswith("gain"):
            torch.nn.init.uniform_(weight, 0.8, 1.2)
    return trunk


def small_talker(size: TrunkSize = TRUNK) -> Talker:
    torch.manual_seed(0)
    trunk, head = small_trunk(size), Head(HEAD).eval()
    last = head.condition.wish[2]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.1)  # as if trained: controls do something
    count = len(CHANNELS)
    return Talker(
        trunk, head, Decoder(torch.full((count,), 0.1), torch.full((count,), 0.2), torch.full((MADE,), 0.1)), 1
    )


@pytest.fixture
def talker() -> Talker:
    return small_talker()


def buzz(seconds: float, seed: int) -> tuple[np.ndarray, list[Segment]]:
    """Return a tone that stops at every closure, with its phones."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    samples = 0.2 * np.sign(np.sin(2 * np.pi * 120 * time)) + 0.01 * rng.standard_normal(time.size)
    segments, at = [], 0.0
    while at < seconds - 0.4:
        for phone, length in (("aa", 0.2), ("m", 0.1), ("iy", 0.15), ("sil", 0.1)):
            segments.append(Segment(phone, at, at + length))
            if phone in ("m", "sil"):
                samples[int(at * 16000) : int((at + length) * 16000)] *= 0.1
            at += length
    return samples.astype(np.float32), segments


def clip(folder: Path, name: str, text: str) -> float:
    """Write a clip with its words; return its length in seconds."""
    soundfile = pytest.importorskip("soundfile")
    folder.mkdir(exist_ok=True)
    (spoken,) = synths.speak(Voice("flite", "slt"), [text], 1.0, 50)
    samples = spoken.samples
    soundfile.write(folder / f"{name}.wav", samples, RATE)
    (folder / f"{name}.txt").write_text(text)
    return samples.size / RATE


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder as the `data` stage leaves it: three training sessions and one of each held-out group."""
    for number, name in enumerate(("train/0000", "train/0001", "train/0002", "validation/00", "rms/00")):
        samples, segments = buzz(8.0, number)
        session = targets(samples, samples, segments, np.random.default_rng(number), not name.startswith("train"))
        path = tmp_path / "data" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(session, path)
    return tmp_path / "data"
