"""A bundle as a Triton model repository: the graph is played, and the configuration is read, as Triton would.

No Triton server is here. ONNX Runtime runs the graph for several sequences in one batch, with each sequence's states
handed on by the names in config.pbtxt; `tritonclient`'s own protobuf reads that file.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError, OptionError
from edgetalker.runtime.model import Model, find_bundle
from edgetalker.serve.triton import NEXT, TritonOptions, export_triton

onnx = pytest.importorskip("onnx", reason="the graph is made with the package onnx")
ort = pytest.importorskip("onnxruntime", reason="the graph runs on ONNX Runtime")

SPEECH = Path(edgetalker.__file__).parent / "data" / "speech.wav"
VOCA = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"
GIVEN = ("window", "noise", "emotion", "style", "gaze", "lids")
FRAMES = 12


@pytest.fixture(scope="module")
def talker() -> Bundle:
    return Bundle.open(find_bundle(None))


def alone(model: Model, stream: int, schedule: str) -> list[tuple[dict[str, Any], Any]]:
    """Play one talker, and return of each frame what the host gave it and its motion."""
    with wave.open(str(SPEECH)) as file:
        sound = np.roll(np.frombuffer(file.readframes(20000), np.int16), 3000 * stream)
    frames: list[tuple[dict[str, Any], Any]] = []
    options: Any = {"stream": stream, "schedules": [schedule]}
    with model.talker(**options) as talker, model.talker(**options) as host:
        for one in (talker, host):
            one.set("emotion", {"joy": 0.3 * stream})
            one.hear(sound)
        while len(frames) < FRAMES:
            host.prepare(schedule)
            given = {name: host.staging(name).copy() for name in GIVEN}
            host.finish(0)
            frames.append((given, talker.make(schedule).motion.copy()))
    return frames


@pytest.mark.parametrize("schedule", ["full", "fast", "one"])
def test_sequences_in_one_batch_are_talkers_alone(talker: Bundle, tmp_path: Path, schedule: str) -> None:
    folder = export_triton(talker, tmp_path, TritonOptions(schedule=schedule))
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    kept = [name.removesuffix(NEXT) for name in outputs[1:]]

    def begin(name: str) -> Any:
        tensor = talker.manifest.tensors[name]
        file = folder / "initial_state" / name
        values = np.fromfile(file, tensor.spec.dtype) if file.exists() else np.zeros(tensor.spec.shape, np.float32)
        return values.reshape(tensor.spec.shape)

    with Model(talker) as model:
        wanted = [alone(model, stream, schedule) for stream in range(3)]
    states = [{name: begin(name) for name in kept} for _ in wanted]
    at = [0, 0, 0]
    random = np.random.default_rng(4)
    while min(at) < FRAMES:  # whoever has a frame to make, in any order and number
        batch = [place for place in random.permutation(3) if at[place] < FRAMES and random.random() < 0.7]
        if not batch:
            continue
        given = {name: np.stack([wanted[place][at[place]][0][name] for place in batch]) for name in GIVEN}
        given |= {name: np.stack([states[place][name] for place in batch]) for name in kept}
        results = dict(zip(outputs, session.run(None, given), strict=True))
        for row, place in enumerate(batch):
            np.testing.assert_allclose(results["motion"][row], wanted[place][at[place]][1][None], rtol=0, atol=1e-5)
            states[place] = {name: results[name + NEXT][row] for name in kept}
            at[place] += 1


def test_the_configuration_is_tritons_and_fits_the_graph(talker: Bundle, tmp_path: Path) -> None:
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="Triton's protobuf is tritonclient's")
    text_format = pytest.importorskip("google.protobuf.text_format")
    folder = export_triton(talker, tmp_path / "models", TritonOptions(name="kiosk", talkers=8, gpu=True, idle=2.5))
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), config_pb2.ModelConfig())
    model = onnx.load(str(folder / "1" / config.default_model_filename))
    kinds = {
        getattr(onnx.TensorProto, name): getattr(config_pb2, f"TYPE_{kind}") for name, kind in (("FLOAT", "FP32"),)
    }

    def described(values: Any) -> dict[str, tuple[int, list[int]]]:
        found = {}
        for value in values:
            first, *dims = value.type.tensor_type.shape.dim
            assert first.dim_param, "the axis of sequences has any length"
            found[value.name] = (kinds[value.type.tensor_type.elem_type], [dim.dim_value for dim in dims])
        return found

    batching = config.sequence_batching
    inputs = {item.name: (item.data_type, list(item.dims)) for item in config.input}
    states = {item.input_name: (item.data_type, list(item.dims)) for item in batching.state}
    outputs = {item.name: (item.data_type, list(item.dims)) for item in config.output}
    assert {**inputs, **states} == described(model.graph.input)
    assert {**outputs, **{name + NEXT: form for name, form in states.items()}} == described(model.graph.output)
    assert [item.output_name for item in batching.state] == [item.input_name + NEXT for item in batching.state]
    for item in batching.state:
        (first,) = item.initial_state
        assert (first.data_type, list(first.dims)) == states[item.input_name]
        if first.WhichOneof("state_data") == "data_file":
            size = (folder / "initial_state" / first.data_file).stat().st_size
            assert size == 4 * int(np.prod(first.dims))
    assert {item.initial_state[0].WhichOneof("state_data") for item in batching.state} == {"data_file", "zero_data"}
    assert (config.name, folder.name, config.backend) == ("kiosk", "kiosk", "onnxruntime")
    assert (config.max_batch_size, batching.oldest.max_candidate_sequences) == (8, 32)
    assert batching.max_sequence_idle_microseconds == 2_500_000
    assert config.instance_group[0].kind == config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.parameters["names"].string_value.split(",") == list(talker.manifest.motion.names)
    assert config.parameters["defaults"].string_value == '{"emotion": [0.0, 0.0, 0.0, 0.0], "style": [1.0, 1.0]}'


def test_weights_are_there_once(talker: Bundle, tmp_path: Path) -> None:
    folder = export_triton(talker, tmp_path)
    stages = sum((talker.path / stage.file).stat().st_size for stage in talker.manifest.stages.values())
    assert (folder / "1" / "model.onnx").stat().st_size < 1.1 * stages


def test_the_command_and_what_it_refuses(
    talker: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    assert main(["export", "triton", "-o", str(repository), "--schedule", "one"]) == 0
    assert capsys.readouterr().out == f"{repository / 'talker'}\n"
    assert main(["export", "triton", "-o", str(repository)]) == 64
    assert "is there already" in capsys.readouterr().err
    for options, text in (
        (TritonOptions(schedule="ful"), r"no schedule `ful`.*did you mean `full`"),
        (TritonOptions(name="../other"), "no name of a model"),
    ):
        with pytest.raises(OptionError, match=text):
            export_triton(talker, tmp_path, options)
    with pytest.raises(EngineError, match="once in"):
        export_triton(Bundle.open(VOCA), tmp_path / "voca")
    assert not (tmp_path / "voca").exists()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["export", "triton", "-o", str(repository), "--name", "other"]) == 74
    assert [path.name for path in repository.iterdir()] == ["talker"], "nothing is left half written"
