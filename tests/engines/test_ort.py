"""The ONNX Runtime engine works on the session's memory and names what does not fit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.ort import OrtEngine

pytest.importorskip("onnxruntime")


def decode(toy: Bundle) -> OrtEngine:
    stage = toy.manifest.stages["decode"]
    return OrtEngine("decode", toy.onnx("decode"), stage.inputs, stage.outputs)


def test_it_reads_and_writes_in_place(toy: Bundle) -> None:
    engine, device = decode(toy), HostDevice(poison=True)
    buffers = {name: device.allocate(name, spec) for name, spec in {**engine.inputs, **engine.outputs}.items()}
    binding = engine.bind(buffers)
    graph = device.capture("decode", lambda: binding.enqueue(device))
    for value in (1.0, 2.0):
        buffers["x"].array.fill(value)
        buffers["memory"].array.fill(3.0)
        device.launch(graph)
        assert np.array_equal(buffers["motion"].array, np.full((1, 4), value + 3, np.float32))


def test_every_buffer_that_does_not_fit_is_named(toy: Bundle) -> None:
    engine, device = decode(toy), HostDevice()
    with pytest.raises(EngineError) as caught:
        engine.bind(
            {
                "x": device.allocate("x", TensorSpec("float32", (2, 4))),
                "memroy": device.allocate("m", TensorSpec("float32", (1, 4))),
            }
        )
    for text in ("`x` wants float32[1,4]", "`memroy` is no tensor", "did you mean `memory`", "`motion` has no buffer"):
        assert text in str(caught.value)


def test_a_border_unlike_the_manifest_is_refused(toy: Bundle) -> None:
    stage = toy.manifest.stages["decode"]
    with pytest.raises(EngineError) as caught:
        OrtEngine("decode", toy.onnx("decode"), {"x": TensorSpec("float32", (1, 5))}, stage.outputs)
    assert "input `x` is float32[1,4] in the network, float32[1,5] in the manifest" in str(caught.value)
    assert "input `memory` is float32[1,4] in the network, absent in the manifest" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a" * 50])
def test_what_is_no_network_is_refused_by_name(toy: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    stage = toy.manifest.stages["decode"]
    with pytest.raises(EngineError, match="decode"):
        OrtEngine("decode", tmp_path / "bad.onnx", stage.inputs, stage.outputs)


def test_idle_threads_do_not_spin(toy: Bundle) -> None:
    """Spinning workers steal the cores that the sound and the senders need between frames."""
    stage = toy.manifest.stages["decode"]
    engine = OrtEngine("decode", toy.onnx("decode"), stage.inputs, stage.outputs, threads=2)
    options = engine._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_folder_whose_name_is_not_utf8_is_no_obstacle(toy: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    shutil.copy(toy.onnx("decode"), folder / "decode.onnx")
    stage = toy.manifest.stages["decode"]
    OrtEngine("decode", folder / "decode.onnx", stage.inputs, stage.outputs).close()


@pytest.mark.parametrize("marked", [False, True])
def test_a_stage_that_fails_while_it_runs_is_named(toy: Bundle, tmp_path: Path, marked: bool) -> None:
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["x", "index"], ["y"]),
    ]
    given, found = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])] for name in "xy")
    graph = helper.make_graph(nodes, "g", given, found)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    spec, device = {"x": TensorSpec("float32", (2,))}, HostDevice()
    engine = OrtEngine("look", tmp_path / "a.onnx", spec, {"y": spec["x"]})
    buffers = {name: device.allocate(name, spec["x"]) for name in "xy"}
    binding, marks = engine.bind(buffers), [device.mark(name) for name in "ab"]

    def work() -> None:
        if marked:
            device.record(marks[0])
        binding.enqueue(device)
        if marked:
            device.record(marks[1])

    captured = device.capture("look", work)
    device.launch(captured)
    buffers["x"].array.fill(7.0)
    with pytest.raises(EngineError, match=r"stage `look` failed while it ran: .*Gather"):
        device.launch(captured)
