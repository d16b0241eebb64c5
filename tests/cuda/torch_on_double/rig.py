"""Builds the preloads that put PyTorch's CUDA build on the driver double, without a GPU.

cudart.c stands for the CUDA runtime. cuBLAS is a table of functions that each enqueue a kernel that does nothing; which
functions PyTorch names is read from its own libraries, so that another version of it needs no change here.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

__all__ = ["cuda_torch", "environment"]

HERE = Path(__file__).parent
DOUBLE = HERE.parent / "driver_double"
CUDA = Path(os.environ.get("CUDA_ROOT", "/usr/local/cuda"))

_OWN = {
    "cublasCreate_v2": "int cublasCreate_v2(void **handle) { *handle = malloc(64); return 0; }",
    "cublasSetStream_v2": "int cublasSetStream_v2(void *handle, void *stream) { (void)handle; on = stream; return 0; }",
    "cublasGetMathMode": "int cublasGetMathMode(void *h, int *mode) { (void)h; *mode = 0; return 0; }",
    "cublasGetPointerMode_v2": "int cublasGetPointerMode_v2(void *h, int *mode) { (void)h; *mode = 0; return 0; }",
    "cublasLtGetVersion": "size_t cublasLtGetVersion(void) { return 130000; }",
    "cublasLtMatmul": "int cublasLtMatmul(void *h, void *d, void *al, void *a, void *ad, void *b, void *bd, void *be, "
    "void *c, void *cd, void *r, void *rd, void *algo, void *space, size_t n, void *stream) { return go(stream); }",
    "cublasLtMatmulAlgoGetHeuristic": "int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, "
    "void *r, void *p, int wanted, char *found, int *count) { memset(found, 0, 76); *count = 1; return 0; }",
}
"""Functions that give something back, or that name a stream."""

_HEAD = """
#include <stdlib.h>
#include <string.h>
static __thread void *on;
static void nothing(void *data) { (void)data; }
int cudaLaunchHostFunc(void *, void (*)(void *), void *);
static int go(void *stream) { return cudaLaunchHostFunc(stream, nothing, NULL); }
"""


def cuda_torch() -> Path | None:
    """Return the folder of libraries of a PyTorch that was built for CUDA, without importing it, or None."""
    spec = find_spec("torch")
    folder = Path(str(spec.origin)).parent / "lib" if spec else None
    return folder if folder and (folder / "libtorch_cuda.so").exists() else None


def environment(folder: Path) -> dict[str, str]:
    """Compile everything into `folder` and return the environment of a process that shall run on it."""
    torch = cuda_torch()
    assert torch is not None
    subprocess.run(["sh", str(DOUBLE / "compile.sh"), str(folder)], check=True)
    names = _cublas_names(torch)
    lines = [_HEAD, *(_function(name) for name in sorted(names))]
    (folder / "cublas.c").write_text("\n".join(lines))
    (folder / "cublas.map").write_text(_versions(names))
    (folder / "cudart.map").write_text("libcudart.so.13 { global: cuda*; __cuda*; local: *; };\n")
    compiler = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-w", f"-I{CUDA / 'include'}", "-ldl"]
    preloads = []
    for name, source in (("cudart", HERE / "cudart.c"), ("cublas", folder / "cublas.c")):
        target = folder / f"{name}_double.so"
        script = f"-Wl,--version-script={folder / (name + '.map')}"
        subprocess.run([*compiler, str(source), "-o", str(target), script], check=True)
        preloads.append(str(target))
    return {**os.environ, "LD_PRELOAD": ":".join(preloads), "LD_LIBRARY_PATH": str(folder)}


def _cublas_names(torch: Path) -> set[str]:
    """Return every function of cuBLAS and cuBLASLt that PyTorch's libraries leave undefined."""
    names: set[str] = set()
    for library in ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_python.so"):
        done = subprocess.run(["nm", "-D", "--undefined-only", str(torch / library)], capture_output=True, text=True)
        names |= set(re.findall(r"\b(cublas\w+)", done.stdout))
    assert len(names) > 50, "PyTorch names no cuBLAS: nm or its libraries are not as they were"
    return names


def _function(name: str) -> str:
    if name in _OWN:
        return _OWN[name]
    if name.endswith("Create"):
        return f"int {name}(void **made) {{ *made = malloc(256); return 0; }}"
    if "Destroy" in name or "Set" in name:
        return f"int {name}(void) {{ return 0; }}"
    return f"int {name}(void) {{ return go(on); }}"


def _versions(names: set[str]) -> str:
    light = {name for name in names if name.startswith("cublasLt")}
    tables = (("libcublas.so.13", sorted(names - light), ""), ("libcublasLt.so.13", sorted(light), "local: *; "))
    return "".join(f"{tag} {{ global: {'; '.join(listed)}; {rest}}};\n" for tag, listed, rest in tables)
