"""Prints the table of docs/streamingtalker.md: `python -m tests.models.streamingtalker.make_table`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgetalker.models.streamingtalker import CheckpointError, load_checkpoint, read_tensors
from tests.models.streamingtalker.conftest import TINY, TINY_BIWI, TINY_UNTOLD
from tests.models.streamingtalker.test_checkpoint import WRAPPINGS
from tests.models.weights.test_weights import WRONG


def main() -> None:
    """Write each kind of file, load it, and print what becomes of it."""
    print("| file | what becomes of it |\n|---|---|")
    tensors = read_tensors(TINY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.ckpt"
        for name, wrap in WRAPPINGS.items():
            torch.save(wrap(tensors), path)
            print(row(name, path, folder))
        torch.save({"state_dict": tensors}, path, pickle_protocol=4)
        print(row("pickle protocol 4", path, folder))
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
        print(row("torch.save before 1.6", path, folder))
        save_file({key: value.contiguous() for key, value in tensors.items()}, Path(folder) / "own.safetensors")
        print(row("safetensors", Path(folder) / "own.safetensors", folder))
        vae = {key: value for key, value in tensors.items() if key.startswith("autoencoder.")}
        rest = {key: value for key, value in tensors.items() if key not in vae}
        torch.save({"state_dict": vae}, path)
        print(row("the VAE alone (stage 1)", path, folder))
        torch.save({"state_dict": rest}, path)
        print(row("stage 2 without the VAE", path, folder))
        print(row("stage 2 without the VAE, --vae of another network", path, folder, TINY_BIWI))
        torch.save({"state_dict": tensors}, path)
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        print(row("one flipped bit", path, folder))
        path.write_bytes(damaged[: len(damaged) // 2])
        print(row("cut off", path, folder))
        torch.save({f"layer{place}.weight": torch.zeros(1) for place in range(409)}, path)
        print(row("another network's", path, folder))
        for text, content in WRONG.items():
            path.write_bytes(content)
            print(row(text.removeprefix("is "), path, folder))


def row(name: str, path: Path, folder: str, vae: Path | None = None) -> str:
    """Return the table's row for one file."""
    said: list[str] = []
    try:
        load_checkpoint(path, vae, TINY_UNTOLD, say=said.append)
        result = "loads" + (f" ({said[0].partition(': ')[2]})" if said else "")
    except CheckpointError as error:
        first = error.faults[0].replace(f"{folder}/", "")
        more = f"; {len(error.faults) - 1} more" if len(error.faults) > 1 else ""
        hint = f"; hint: {error.hint}" if error.hint else ""
        result = f"refused: {first}{more}{hint}"
    return f"| {name} | {result} |".replace(str(TINY_BIWI), "VAE_CKPT")


if __name__ == "__main__":
    main()
