"""Every TensorRT call that the adapter makes exists in every version that it is made for.

The adapter's source is read for attribute names; those that any binding knows are TensorRT's. Each must exist in
each binding, unless the adapter asks for it first (`Api.has`), as GUARDS says.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgetalker.engines.tensorrt as adapter
from edgetalker.engines.tensorrt.api import Api
from tests.plans import runtime_double
from tests.plans.bindings import VERSIONS, bindings, child, empty_libraries

Members = dict[str, list[str]]

FOLDER = Path(str(adapter.__file__)).parent
RUN_TIME = ("api", "log", "engine")
BUILD_TIME = (*RUN_TIME, "build")

GUARDS = {
    "get_engine_validity": "Runtime.get_engine_validity",
    "EngineValidity": "Runtime.get_engine_validity",
    "EngineInvalidityDiagnostics": "Runtime.get_engine_validity",
    "INVALID": "Runtime.get_engine_validity",
    "create_runtime_config": "IRuntimeCache",
    "create_runtime_cache": "IRuntimeCache",
    "set_runtime_cache": "IRuntimeCache",
    "deserialize": "IRuntimeCache",
    "set_execution_context_allocation_strategy": "IRuntimeCache",
    "cuda_graph_strategy": "IRuntimeCache",
    "CudaGraphStrategy": "IRuntimeCache",
    "DISABLED": "IRuntimeCache",
    "is_stream_capturable": "IExecutionContext.is_stream_capturable",
    "DynamicShapesKernelSpecializationStrategy": "DynamicShapesKernelSpecializationStrategy",
    "dynamic_shapes_kernel_specialization_strategy": "DynamicShapesKernelSpecializationStrategy",
    "REQUIRE_USER_ALLOCATION": "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "ComputeCapability": "IBuilderConfig.set_compute_capability",
    "set_compute_capability": "IBuilderConfig.set_compute_capability",
    "num_compute_capabilities": "IBuilderConfig.set_compute_capability",
    "NetworkDefinitionCreationFlag": "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "STRONGLY_TYPED": "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
}
"""TensorRT's name -> what the adapter asks for before it uses the name."""

COMMON = {"name", "error", "clear", "shape", "value", "write", "file", "message"}
"""Names that Python's own objects have as well; reading the source cannot tell whose they are."""

DUMP = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else "MODULE")
classes = {name: dir(getattr(module, name)) for name in dir(module) if isinstance(getattr(module, name), type)}
print(json.dumps({"": dir(module), **classes}))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_libraries(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="module", params=[*VERSIONS, "lean 11.4"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def members(version: str, libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Class -> members of one version's real bindings; "" for the module itself."""
    number = VERSIONS[version.removeprefix("lean ")]
    lean = version.startswith("lean")
    package = "tensorrt-lean-cu12-bindings" if lean else "tensorrt-cu12-bindings"
    folder = bindings(number, tmp_path_factory.mktemp(number), package)
    module = "tensorrt_lean_bindings" if lean else "tensorrt_bindings"
    done = child(DUMP.replace("MODULE", module), path=[folder], libraries=libraries)
    assert done.returncode == 0, done.stderr
    found: Members = json.loads(done.stdout)
    return found


def known_names(members: Members) -> set[str]:
    return {name for names in members.values() for name in names if not name.startswith("_")} | set(members)


def used_names(module: str) -> Iterator[str]:
    """Yield the attribute names in a module of the adapter."""
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
            yield node.attr


def has(members: Members, path: str) -> bool:
    first, _, second = path.partition(".")
    return first in members[""] and (not second or second in members[first])


def missing(names: set[str], members: Members) -> set[str]:
    """Return the names that a binding lacks and that are not asked for, or are asked for and would be found."""
    return {name for name in names - known_names(members) if name not in GUARDS or has(members, GUARDS[name])}


def test_every_call_exists_or_is_asked_for(members: Members, version: str, rtx: Api) -> None:
    modules = RUN_TIME if version.startswith("lean") else BUILD_TIME
    everything = known_names(members) | {
        name for item in vars(rtx.module).values() if isinstance(item, type) for name in (item.__name__, *dir(item))
    }
    wanted = {name for module in modules for name in used_names(module)} & everything - COMMON
    assert len(wanted) > (20 if version.startswith("lean") else 40)
    assert missing(wanted, members) == set()
    assert missing({"no_such_call"}, members) == {"no_such_call"}


def test_the_guards_are_really_asked_for() -> None:
    source = "".join((FOLDER / f"{module}.py").read_text() for module in BUILD_TIME)
    for name, guard in GUARDS.items():
        assert f'has("{guard}")' in source, f"{name} is not guarded by {guard}"


@pytest.mark.parametrize(
    ("path", "present"),
    [
        ("IExecutionContext.execute_async_v3", True),
        ("IExecutionContext.set_device_memory", True),
        ("ICudaEngine.device_memory_size_v2", True),
        ("ExecutionContextAllocationStrategy.USER_MANAGED", True),
        ("BuilderFlag.REQUIRE_USER_ALLOCATION", False),
        ("IExecutionContext.is_stream_capturable", False),
    ],
)
def test_what_the_guards_ask_for_is_as_expected(members: Members, path: str, present: bool) -> None:
    assert has(members, path) is present


def test_the_runtime_double_has_no_call_that_a_binding_lacks(members: Members) -> None:
    pairs = {
        "IExecutionContext": runtime_double.Context,
        "ICudaEngine": runtime_double.Engine,
        "TensorIOMode": runtime_double.TensorIOMode,
        "ILogger": runtime_double.ILogger,
        "ExecutionContextAllocationStrategy": runtime_double.ExecutionContextAllocationStrategy,
    }
    for name, double in pairs.items():
        own = {member for member in vars(double) if not member.startswith("_")}
        assert own <= {*members[name], "refused"}, name
