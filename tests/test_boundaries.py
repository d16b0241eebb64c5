"""Imports point down only, the device side loads with numpy alone, and the public surface is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgetalker"
ABOVE = {
    "engines": {"runtime", "models", "export", "calibration", "measure", "cli", "face", "viewer", "serve"},
    "runtime": {"models", "export", "calibration", "measure", "cli", "face", "viewer", "serve"},
    "models": {"export", "calibration", "measure", "cli", "viewer"},
    "export": {"calibration", "measure", "cli", "face", "viewer"},
    "measure": {"models", "export", "calibration", "cli", "face", "viewer"},
    "calibration": {"models", "export", "cli", "face", "viewer"},
    "serve": {"models", "export", "calibration", "measure", "cli", "agents"},
    "face": {"models", "export", "calibration", "measure", "cli", "viewer"},
    "viewer": {"models", "export", "calibration", "measure", "cli", "serve"},
}
"""Folder -> folders that it must not import. What is imported inside a function counts too."""

MODULE = re.compile(r"edgetalker(\.[a-z_]+)+")

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "cuda",
    "soundfile",
    "soxr",
    "pyaudio",
    "websockets",
)


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loggers = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "getLogger"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
        elif isinstance(node, ast.Constant) and id(node) not in loggers and MODULE.fullmatch(str(node.value)):
            yield str(node.value)  # what import_module or `python -m` is given is an import too


@pytest.mark.parametrize("folder", sorted(ABOVE))
def test_imports_point_down_only(folder: str) -> None:
    files = modules(folder)
    assert len(files) > 1, f"nothing was looked at in {folder}"
    wrong = []
    for path in files:
        where = str(path.relative_to(ROOT))
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "edgetalker" and len(parts) > 1 and parts[1] in ABOVE[folder]:
                wrong.append(f"{where} imports {name}")
            if name == "edgetalker.outputs" and folder not in ("cli",):
                wrong.append(f"{where} imports the top: {name}")
            if parts[0] in ABOVE:
                wrong.append(f"{where} imports the top-level link {name}")
    assert not wrong, "\n".join(wrong)


def test_the_top_level_links_point_into_the_package() -> None:
    for name in ("export", "engines", "runtime", "calibration"):
        link = ROOT / name
        assert link.is_symlink(), f"{name} is no link"
        assert link.readlink() == Path("edgetalker") / name


DEVICE_SIDE = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
import importlib, pkgutil, edgetalker
found = []
for folder in ("engines", "runtime"):
    package = importlib.import_module("edgetalker." + folder)
    for item in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        found.append(item.name)
        importlib.import_module(item.name)
assert len(found) > 20, found
foreign = {{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
print(sorted(name for name in foreign if not name.startswith("_") and sys.modules[name] is not None))
"""


def test_the_device_side_loads_with_numpy_alone() -> None:
    """Every module of engines and runtime is imported where nothing but numpy can be."""
    code = DEVICE_SIDE.format(blocked=HEAVY)
    done = subprocess.run([sys.executable, "-S", "-c", _with_path(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(ast.literal_eval(done.stdout)) <= {"edgetalker", "numpy", "numpy_distutils"}, done.stdout


def _with_path(code: str) -> str:
    """-S leaves site-packages out (and with it what .pth files import); numpy's own folder is put back."""
    import numpy

    return f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(numpy.__file__).parents[1])!r}]\n{code}"


def public() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "__main__" not in dotted and "__all__" in path.read_text(encoding="utf-8"):
            names.append(dotted.removesuffix(".__init__"))
    return names


OPTIONAL = {
    "edgetalker.models": "torch",
    "edgetalker.export": "torch",
    "edgetalker.engines.torch": "torch",
    "edgetalker.agents.pipecat": "pipecat",
    "edgetalker.agents.livekit": "livekit.agents",
}


@pytest.mark.parametrize("name", public())
def test_what_is_public_exists_and_has_a_docstring(name: str) -> None:
    for prefix, package in OPTIONAL.items():
        if name.startswith(prefix):
            pytest.importorskip(package)
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert len(module.__all__) == len(set(module.__all__)), f"{name}.__all__ repeats itself"
    for item in module.__all__:
        value = getattr(module, item)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{item} has no docstring"


def test_something_is_public() -> None:
    assert len(public()) > 40


def test_no_path_of_a_machine_and_no_pickle() -> None:
    """What only holds on one machine, or runs what it reads, does not belong into the package."""
    looked = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        looked += 1
        for word in ("/work/", "/home/", "pickle.load", "allow_pickle=True", "weights_only=False"):
            assert word not in text, f"{path} holds {word}"
    assert looked > 60
