"""How full TensorRT is asked to build, against a stand-in that records: no machine here has a GPU for the real one.

tests/plans/test_conformance.py checks that the real bindings have every call that is made here.
"""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetalker.engines.errors import EngineError
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.build import BuildOptions, Built, build, flags_of
from tests.plans.runtime_double import GPU, DataType, ILogger

ORIN = Target("tensorrt", ("sm87",))


class BuilderFlag(enum.Enum):
    TF32 = 0
    VERSION_COMPATIBLE = 1
    EXCLUDE_LEAN_RUNTIME = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class TimingCache:
    def __init__(self, saved: bytes) -> None:
        self.saved = saved

    def serialize(self) -> bytes:
        return self.saved + b"+measured"


class Config:
    """What a build was asked for. `foreign` is a timing cache of another GPU."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.pools: dict[str, int] = {}
        self.attached: list[tuple[bytes, bool]] = []
        self.max_aux_streams = -1
        self.builder_optimization_level = -1
        self.progress_monitor: Any = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def create_timing_cache(self, saved: bytes) -> TimingCache:
        return TimingCache(saved)

    def set_timing_cache(self, cache: TimingCache, *, ignore_mismatch: bool) -> bool:
        self.attached.append((cache.saved, ignore_mismatch))
        return cache.saved != b"foreign"


def tensor(name: str) -> Any:
    return SimpleNamespace(name=name, dtype=DataType.FLOAT, shape=(1, 4))


class Library:
    """The module `tensorrt`, as far as a build uses it; `config` is the last one that was made."""

    __version__ = "10.3.0"
    ILogger = ILogger
    BuilderFlag = BuilderFlag
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    class IProgressMonitor:
        pass

    def __init__(self, plan: bytes | None = b"plan") -> None:
        self.plan = plan
        self.config = Config()
        self.network_flags = -1
        self.parsed = b""

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - the name that is called
        def create_network(flags: int) -> Any:
            self.network_flags = flags
            return SimpleNamespace(
                num_inputs=1,
                num_outputs=1,
                num_layers=0,
                get_input=lambda i: tensor("x"),
                get_output=lambda i: tensor("y"),
            )

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: self.config,
            build_serialized_network=lambda network, config: self.plan,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802 - the name that is called
        def parse(model: bytes, path: str) -> bool:
            self.parsed = model
            return True

        return SimpleNamespace(parse=parse)


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stage.onnx").write_bytes(b"network")
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: GPU)


def built(library: Library, options: BuildOptions | None = None, **more: Any) -> Built:
    return build(Api("tensorrt", library), Path("stage.onnx"), ORIN, options, **more)


def test_the_library_gets_bytes_and_opens_no_path() -> None:
    """It takes a path as narrow characters, which Windows reads in a code page: one beyond ASCII is not found."""
    library = Library()
    built(library)
    assert library.parsed == b"network"
    Path("stage.onnx").unlink()
    with pytest.raises(EngineError, match=r"stage\.onnx cannot be read: No such file"):
        built(library)


def test_a_plan_is_strongly_typed_on_one_stream_within_a_jetson_s_memory() -> None:
    library = Library()
    assert built(library).plan == b"plan"
    assert library.network_flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert library.config.max_aux_streams == 0
    assert library.config.builder_optimization_level == 3
    assert library.config.pools == {"workspace": 512 << 20}
    assert library.config.flags == set()


def test_options_reach_the_builder() -> None:
    library = Library()
    built(library, BuildOptions(level=1, workspace=64, tf32=True, version_compatible=True))
    assert library.config.builder_optimization_level == 1
    assert library.config.pools == {"workspace": 64 << 20}
    assert library.config.flags == set(BuilderFlag)


def test_measured_times_are_kept_and_those_of_another_gpu_are_not_used() -> None:
    library = Library()
    assert built(library, timing_cache=b"saved").timing_cache == b"saved+measured"
    assert library.config.attached == [(b"saved", False)]
    library = Library()
    assert built(library, timing_cache=b"foreign").timing_cache == b"+measured"
    assert library.config.attached == [(b"foreign", False), (b"", False)]


def test_without_a_timing_cache_none_is_made() -> None:
    library = Library()
    assert built(library, BuildOptions(timing_cache=False)).timing_cache == b""
    assert library.config.attached == []


def test_a_build_that_gives_nothing_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"stage\.onnx cannot be built for tensorrt:sm87 by 10\.3\.0"):
        built(Library(plan=None))


def test_the_lean_runtime_builds_nothing() -> None:
    with pytest.raises(EngineError, match="runs plans, it builds none"):
        build(Api("lean", SimpleNamespace(__version__="11.4")), Path("stage.onnx"), ORIN)


def test_flags_name_everything_that_shapes_a_plan() -> None:
    assert flags_of("tensorrt", BuildOptions()).keys() == {
        "level", "recipe", "tf32", "timing_cache", "version_compatible", "workspace",
    }  # fmt: skip
    assert flags_of("rtx", BuildOptions(level=5)) == {"level": 5, "recipe": 1, "tf32": False, "workspace": 512}
