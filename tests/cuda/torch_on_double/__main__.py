"""Runs the tests of this folder on the driver double: `python -m tests.cuda.torch_on_double [pytest's arguments]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cuda.torch_on_double.rig import CUDA, cuda_torch, environment


def main() -> int:
    """Build the preloads and run pytest with them. Returns 69 where something is missing, else pytest's code."""
    if cuda_torch() is None:
        print("error: this Python has no PyTorch that was built for CUDA\nhint: make test-torch-cuda", file=sys.stderr)
        return 69
    if not (CUDA / "include" / "cuda_runtime_api.h").exists():
        print(f"error: no CUDA headers in {CUDA}\nhint: set CUDA_ROOT", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory(prefix="torch_on_double.") as folder:
        variables = {**environment(Path(folder)), "EDGETALKER_TORCH_ON_DOUBLE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)]
        return subprocess.run([*command, *sys.argv[1:]], env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
