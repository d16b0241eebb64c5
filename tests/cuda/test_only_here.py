"""Nothing but engines/cuda calls CUDA; the probe that runs before any CUDA package asks libcuda through ctypes."""

from __future__ import annotations

import ast
from pathlib import Path

import edgetalker

PACKAGE = Path(edgetalker.__file__).parent
ALLOWED = PACKAGE / "engines" / "cuda"
FORBIDDEN = {"cuda", "pycuda", "cupy"}
BY_NAME = {"required", "LazyModule", "import_module", "__import__"}
"""Calls that import the module that their first argument names."""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in BY_NAME:
                names.add(str(node.args[0].value).split(".")[0])
    return names


def test_cuda_is_called_in_one_folder_only() -> None:
    here = [path for path in ALLOWED.rglob("*.py") if imported(path) & FORBIDDEN]
    assert {path.name for path in here} == {"driver.py"}  # so that the search finds what there is
    outside = [path for path in PACKAGE.rglob("*.py") if ALLOWED not in path.parents]
    assert len(outside) > 50
    assert [path for path in outside if imported(path) & FORBIDDEN] == []
