"""A plan counts by its fingerprint: valid, stale, foreign or damaged, each with every reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError
from edgetalker.engines.machine import Gpu, Machine, NoGpu
from edgetalker.engines.plan import (
    Found,
    PlanRecord,
    State,
    choose,
    find,
    judge,
    plan_folders,
    read_plan,
    read_record,
    store,
    write_record,
)
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api, platform_tag
from edgetalker.engines.tensorrt.build import BuildOptions
from edgetalker.engines.tensorrt.children import PlanBuilder
from tests.plans.conftest import MachineOf, refuse_folders
from tests.support.toy import toy_bundle

SM86 = Target("rtx", ("sm86",))


@pytest.fixture(scope="module")
def plans(rtx: Api, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of stage `decode` for sm86, made once on a machine without a GPU."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(toy_folder, folder)
    machine = Machine({"rtx": rtx.version}, platform_tag(), NoGpu("there is no NVIDIA driver here"))
    PlanBuilder(Bundle.open(folder), SM86, machine).stage("decode")
    return folder / "plans"


@pytest.fixture
def built(plans: Path, bundle: Bundle) -> Found:
    """That plan in a bundle of this test's own."""
    shutil.copytree(plans, bundle.path / "plans")
    (found,) = find(bundle)
    return found


def changed(found: Found, **changes: object) -> Found:
    assert found.record is not None
    return replace(found, record=replace(found.record, **changes))  # type: ignore[arg-type]


def test_a_fresh_plan_is_valid_where_it_was_built_for(built: Found, bundle: Bundle, machine_of: MachineOf) -> None:
    assert judge(built, bundle, machine_of("sm86")).state is State.VALID
    assert choose(bundle, "decode", "fp32", "rtx", machine_of("sm86")) == built
    assert read_plan(built) == built.path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"capabilities": ("sm89",)}, State.FOREIGN, "made for sm89, this GPU is sm86"),
        ({"capabilities": ("portable",)}, State.VALID, ""),
        ({"platform": "linux-riscv64"}, State.FOREIGN, "made on linux-riscv64"),
        ({"flavour": "tensorrt", "platform": "win32-amd64"}, State.FOREIGN, "made on win32-amd64"),
        ({"device": "Test sm87"}, State.FOREIGN, "measured on Test sm87, this GPU is Test sm86"),
        ({"flavour": "tensorrt"}, State.FOREIGN, "made by `tensorrt` for tensorrt; here is `rtx`"),
        ({"version": "1.6.0.1"}, State.STALE, "made by rtx 1.6.0.1, here is"),
        ({"onnx_sha256": "0" * 64}, State.STALE, "built from ONNX 000000000000…"),
        ({"flags": {"recipe": 0}}, State.STALE, "built by rules 0"),
        ({"inputs": {}}, State.STALE, "tensors are not those of the manifest"),
        ({"stage": "gone"}, State.STALE, "no stage `gone`"),
        ({"precision": "int8"}, State.STALE, "no precision `int8`"),
        ({"plan_bytes": 1}, State.DAMAGED, "1 were built"),
        ({"driver": "12.0", "seconds": 9.0}, State.VALID, ""),
    ],
)
def test_every_difference_is_seen(
    built: Found, bundle: Bundle, machine_of: MachineOf, changes: dict[str, object], state: State, reason: str
) -> None:
    verdict = judge(changed(built, **changes), bundle, machine_of("sm86"))
    assert verdict.state is state
    assert reason in str(verdict)


def test_an_rtx_plan_of_linux_is_valid_on_windows(built: Found, bundle: Bundle, machine_of: MachineOf) -> None:
    """NVIDIA's word ("portable to both Windows and Linux"); another processor is not in it."""
    made = changed(built, platform="linux-x86_64")
    assert judge(made, bundle, replace(machine_of("sm86"), platform="win32-amd64")).state is State.VALID
    assert judge(made, bundle, replace(machine_of("sm86"), platform="win32-arm64")).state is State.FOREIGN


def test_all_reasons_are_told_at_once(built: Found, bundle: Bundle, machine_of: MachineOf) -> None:
    verdict = judge(changed(built, version="1.6", onnx_sha256="0" * 64), bundle, machine_of("sm89"))
    assert verdict.state is State.STALE
    assert len(verdict.reasons) == 3


def test_without_a_gpu_a_plan_is_foreign_not_stale(built: Found, bundle: Bundle, machine_of: MachineOf) -> None:
    verdict = judge(built, bundle, machine_of(None))
    assert verdict.state is State.FOREIGN
    assert "no NVIDIA driver" in str(verdict)


def test_other_onnx_makes_plans_stale(built: Found, bundle: Bundle, machine_of: MachineOf, tmp_path: Path) -> None:
    other = toy_bundle(tmp_path / "other", name="other")
    document = json.loads((other.path / "manifest.json").read_text())
    document["files"]["decode.onnx"] = bundle.manifest.files["blend.onnx"]
    shutil.copy(bundle.path / "blend.onnx", other.path / "decode.onnx")
    (other.path / "manifest.json").write_text(json.dumps(document))
    assert judge(built, Bundle.open(other.path), machine_of("sm86")).state is State.STALE


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data[:-1] + bytes([data[-1] ^ 128]),
        lambda data: b"garbage",
        lambda data: b"",
    ],
    ids=["a byte short", "truncated", "flipped byte", "flipped last bit", "garbage", "empty"],
)
def test_a_byte_off_is_refused(built: Found, damage: Callable[[bytes], bytes]) -> None:
    built.path.write_bytes(damage(built.path.read_bytes()))
    with pytest.raises(EngineError, match="is damaged: SHA-256") as caught:
        read_plan(built)
    assert "edgetalker build" in str(caught.value.hint)


def test_choosing_says_why_each_plan_was_refused(bundle: Bundle, built: Found, machine_of: MachineOf) -> None:
    with pytest.raises(EngineError) as caught:
        choose(bundle, "decode", "fp32", "rtx", machine_of("sm89"))
    assert "made for sm86, this GPU is sm89" in caught.value.message
    assert f"edgetalker build {bundle.path} --target rtx --precision fp32" in str(caught.value.hint)
    with pytest.raises(EngineError, match="none was built"):
        choose(bundle, "audio", "fp32", "rtx", machine_of("sm86"))


def test_the_plan_with_the_fewest_targets_is_chosen(bundle: Bundle, built: Found, machine_of: MachineOf) -> None:
    PlanBuilder(bundle, Target("rtx", ("sm75", "sm86", "sm89")), machine_of(None)).stage("decode")
    assert choose(bundle, "decode", "fp32", "rtx", machine_of("sm86")) == built
    assert choose(bundle, "decode", "fp32", "rtx", machine_of("sm89")).path != built.path


def test_a_second_build_changes_nothing_and_a_damaged_plan_is_rebuilt(
    bundle: Bundle, built: Found, machine_of: MachineOf
) -> None:
    before = (built.path.stat().st_mtime_ns, built.path.read_bytes())
    builder = PlanBuilder(bundle, SM86, machine_of(None))
    assert builder.stage("decode") == built
    assert built.path.stat().st_mtime_ns == before[0]
    built.path.write_bytes(b"?" * len(before[1]))
    builder.stage("decode")
    assert built.path.read_bytes() == before[1]


def test_other_options_build_again(bundle: Bundle, built: Found, machine_of: MachineOf) -> None:
    again = PlanBuilder(bundle, SM86, machine_of(None), options=BuildOptions(level=0)).stage("decode")
    assert again.record is not None
    assert again.record.flags["level"] == 0


def test_a_read_only_bundle_puts_its_plans_into_the_user_s_cache(
    bundle: Bundle, machine_of: MachineOf, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folders(bundle.path, monkeypatch)
    found = PlanBuilder(bundle, SM86, machine_of(None)).stage("decode")
    assert found.path.is_relative_to(own_cache)
    assert not (bundle.path / "plans").exists()
    assert choose(bundle, "decode", "fp32", "rtx", machine_of("sm86")) == found
    assert plan_folders(bundle)[1].name.startswith("toy-")


def test_a_bundle_with_plans_in_it_still_opens(bundle: Bundle, built: Found) -> None:
    assert built.path.is_relative_to(bundle.path / "plans")
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_a_record_survives_its_file(built: Found, tmp_path: Path) -> None:
    assert built.record is not None
    write_record(tmp_path / "record.json", built.record)
    assert read_record(tmp_path / "record.json") == built.record
    assert built.record.peak_memory > 10 << 20
    assert built.record.seconds > 0
    assert built.record.plan_bytes == built.path.stat().st_size


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda document: document["plan"].update(extra=1), "unknown key `extra`"),
        (lambda document: document["plan"].pop("onnx_sha256"), "`onnx_sha256` is missing"),
        (lambda document: document["plan"].update(capabilities=[]), "`capabilities` is empty"),
        (lambda document: document["plan"]["flags"].update(level="3"), "flag `level`"),
        (lambda document: document.update(version=2), "wanted format"),
    ],
)
def test_a_broken_record_makes_a_damaged_plan(
    built: Found, bundle: Bundle, machine_of: MachineOf, edit: Callable[[dict[str, object]], object], part: str
) -> None:
    path = built.path.with_suffix(".json")
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    (found,) = find(bundle)
    verdict = judge(found, bundle, machine_of("sm86"))
    assert verdict.state is State.DAMAGED
    assert part in str(verdict)
    with pytest.raises(EngineError, match="no valid fp32 plan"):
        choose(bundle, "decode", "fp32", "rtx", machine_of("sm86"))


def test_a_plan_without_a_record_is_an_interrupted_build(bundle: Bundle, built: Found, machine_of: MachineOf) -> None:
    built.path.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="its record"):
        choose(bundle, "decode", "fp32", "rtx", machine_of("sm86"))


def record_of(found: Found) -> PlanRecord:
    assert found.record is not None
    return found.record


@pytest.mark.parametrize(
    ("made", "here", "state"),
    [
        ("11.4.0.106", "11.4.0.106", State.VALID),
        ("11.2.0.1", "11.4.0.106", State.VALID),
        ("11.5.0.1", "11.4.0.106", State.STALE),
        ("10.16.1.11", "11.4.0.106", State.STALE),
    ],
)
def test_lean_runs_version_compatible_plans_of_its_own_and_older_versions(
    bundle: Bundle, built: Found, machine_of: MachineOf, made: str, here: str, state: State
) -> None:
    flags = {**record_of(built).flags, "version_compatible": True}
    plan = changed(built, flavour="tensorrt", version=made, flags=flags, device="Test sm86")
    machine = machine_of("sm86", lean=here)
    assert judge(plan, bundle, machine).state is state
    store(plan_folders(bundle)[0], built.path.read_bytes(), record_of(plan))
    if state is State.VALID:
        assert choose(bundle, "decode", "fp32", "lean", machine).record == plan.record
    incompatible = changed(plan, flags={**flags, "version_compatible": False})
    assert judge(incompatible, bundle, machine).state is State.FOREIGN


def test_lean_beside_full_tensorrt_runs_no_plan_that_was_made_for_full_alone(
    bundle: Bundle, built: Found, machine_of: MachineOf
) -> None:
    version = "11.4.0.106"
    flags = {**record_of(built).flags, "version_compatible": False}
    plan = changed(built, flavour="tensorrt", version=version, flags=flags, device="Test sm86")
    store(plan_folders(bundle)[0], built.path.read_bytes(), record_of(plan))
    machine = machine_of("sm86", tensorrt=version, lean=version)
    assert choose(bundle, "decode", "fp32", "tensorrt", machine).record == plan.record
    with pytest.raises(EngineError, match="made by `tensorrt` for tensorrt; here is `lean`"):
        choose(bundle, "decode", "fp32", "lean", machine)


def test_a_record_from_before_multiprocessors_were_counted_is_read_and_no_mismatch(
    bundle: Bundle, built: Found, machine_of: MachineOf
) -> None:
    plan = record_of(changed(built, flavour="tensorrt", version="10.3", device="Orin", capabilities=("sm87",)))
    path = store(plan_folders(bundle)[0], built.path.read_bytes(), plan).with_suffix(".json")
    document = json.loads(path.read_text())
    del document["plan"]["processors"]
    path.write_text(json.dumps(document))
    found = Found(path.with_suffix(".plan"), read_record(path))
    machine = replace(machine_of("sm87", tensorrt="10.3"), gpu=Gpu("Orin", "sm87", 1, "12.6", 16))
    assert judge(found, bundle, machine).state is State.VALID
    assert record_of(found).same_build(replace(plan, processors=16))
    assert not replace(plan, processors=8).same_build(replace(plan, processors=16))


def test_two_gpus_of_one_capability_do_not_share_measured_plans(
    bundle: Bundle, built: Found, machine_of: MachineOf, rtx: Api
) -> None:
    plan = changed(built, flavour="tensorrt", version="11.4", device="NVIDIA A10")
    machine = replace(machine_of("sm86", tensorrt="11.4"), gpu=Gpu("NVIDIA GeForce RTX 3060", "sm86", 1, "13.0"))
    assert "measured on NVIDIA A10" in str(judge(plan, bundle, machine))
