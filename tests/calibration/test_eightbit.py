"""8 bits in a bundle: what is written, what is reported, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgetalker.calibration import eightbit
from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.calibration.eightbit import Narrowing, NothingQuantisedError
from edgetalker.calibration.network import Network, name_nodes, read_network
from edgetalker.calibration.quantise import Product, products
from edgetalker.calibration.ranges import Rows
from edgetalker.calibration.report import ConvertReport
from edgetalker.calibration.rollout import RememberingEngine
from edgetalker.calibration.sensitivity import Choice, Layer, Prober, cheapest, curve_of
from edgetalker.calibration.sound import made_up_voice
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.talker import Talker
from tests.calibration.conftest import TINY

pytest.importorskip("onnx")
SF = pytest.importorskip("soundfile")
QUICK = ConvertOptions(
    precision="int8", seconds=1.0, observed=12, kept=3, budget=1.0, goal=0.05, hold=("audio", "decode")
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ConvertReport]:
    folder = tmp_path_factory.mktemp("narrow") / "tiny"
    shutil.copytree(TINY, folder)
    report = convert(Bundle.open(folder), QUICK)
    return Bundle.open(folder), report


@pytest.mark.slow
def test_the_precision_has_a_form_for_the_gpu_and_one_for_the_cpu(narrow: tuple[Bundle, ConvertReport]) -> None:
    bundle, _ = narrow
    assert list(bundle.manifest.precisions) == ["int8", "int8-host"]
    for form in bundle.manifest.precisions.values():
        assert "condition" in form
        assert "audio" not in form, "a held stage"
    assert bundle.onnx("condition", "int8", host=True).parent.name == "int8-host"
    assert bundle.onnx("condition", "int8").parent.name == "int8"
    sizes = [bundle.onnx("condition", name).stat().st_size for name in ("fp32", "int8")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_the_report_says_what_is_narrow_and_what_each_choice_cost(narrow: tuple[Bundle, ConvertReport]) -> None:
    bundle, report = narrow
    document = json.loads(bundle.file("int8/report.json").read_text())
    stage = document["stages"]["condition"]
    assert 0.5 < stage["weights_in_8_bits"] < 1.0
    assert 0.5 < stage["operations_in_8_bits"] < 1.0
    assert 0.0 < document["weights_in_8_bits"] < stage["weights_in_8_bits"]
    assert 0.0 < stage["one_step"]["host"]["worst"] < 0.1
    assert stage["one_step"]["host"]["worst"] == pytest.approx(stage["one_step"]["emulated"]["worst"], rel=0.2)
    assert set(document["range_methods"]) == {"max", "percentile", "entropy", "mse", "each its own"}
    for tensor in document["ranges"]["condition"].values():
        assert set(tensor) == {"max", "percentile", "entropy", "mse", "chosen"}
    shares = [point["share"] for point in document["curve"]]
    assert shares == sorted(shares)
    assert document["curve"][-1]["measured"] > 0
    assert set(document["closed_loop_host"]) == set(document["closed_loop"]) == {"full", "fast"}
    assert bundle.file("int8/report.png").read_bytes().startswith(b"\x89PNG")
    text = "\n".join(report.lines())
    assert "of multiply-adds in 8 bits" in text
    assert report.met


@pytest.mark.slow
def test_a_talker_plays_the_form_for_its_device(narrow: tuple[Bundle, ConvertReport]) -> None:
    bundle, _ = narrow
    motion = {}
    for precision in ("fp32", "int8"):
        with closing(Talker(bundle, precision=precision)) as talker:
            assert talker.model.engines["condition"].precision == precision
            sound = np.full(bundle.manifest.audio.window, 0.01, np.float32)
            motion[precision] = talker.make(window=sound).motion.copy()
    assert not np.array_equal(motion["fp32"], motion["int8"])
    np.testing.assert_allclose(motion["fp32"], motion["int8"], atol=0.05 * float(np.abs(motion["fp32"]).max()))


@pytest.mark.slow
def test_a_conversion_that_narrows_nothing_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "tiny")
    bundle = Bundle.open(tmp_path / "tiny")
    with pytest.raises(NothingQuantisedError, match="no product in it can be written in w8"):
        convert(bundle, replace(QUICK, precision="w8", hold=tuple(bundle.manifest.stages)))
    with pytest.raises(NothingQuantisedError, match="no layer can be in int8 within"):
        convert(bundle, replace(QUICK, goal=1e-9))
    assert not Bundle.open(bundle.path).manifest.precisions


def test_silence_and_too_little_sound_are_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(TINY)
    loud = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    for name, sound, fault in (("silent", np.zeros(160_000), "is silent"), ("short", loud, "holds 1.0 s of sound")):
        (tmp_path / name).mkdir()
        SF.write(tmp_path / name / "a.wav", sound, 16000)
        with pytest.raises(InputError, match=fault) as caught:
            convert(bundle, replace(QUICK, audio=tmp_path / name), output=tmp_path / "copy")
        assert "--audio" in str(caught.value.hint)


def test_an_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean `int8`"):
        convert(Bundle.open(TINY), ConvertOptions(precision="int9"))


def test_no_gram_matrix_is_made_of_what_a_convolution_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fitted to it, and over the samples of a window it would take gigabytes."""
    seen: list[str] = []

    def rows_of(network: Network, names: Iterable[str], inputs: object) -> dict[str, Rows]:
        seen.extend(names)
        return {}

    monkeypatch.setattr(eightbit, "rows_of", rows_of)
    bundle = Bundle.open(TINY)
    pass_ = Narrowing(bundle, "int8", {"audio": [{}]}, np.zeros(1, np.float32), 0.01)
    pass_.networks = {"audio": read_network(bundle.onnx("audio"))}
    name_nodes(pass_.networks["audio"])
    pass_.layers = list(pass_._layers("audio"))
    assert pass_._fit("audio") == {}
    read = {item.source: item.operator for item in products(pass_.networks["audio"])}
    assert "Conv" in read.values()
    assert set(seen) == {source for source, operator in read.items() if operator != "Conv"}


def test_a_large_stage_is_tried_as_a_whole_and_in_groups_where_that_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of its layers alone would take hours."""
    bundle = Bundle.open(TINY)
    networks = {name: read_network(bundle.onnx(name)) for name in ("condition", "decode")}
    for network in networks.values():
        name_nodes(network)
    pass_ = Narrowing(bundle, "int8", {}, np.zeros(1, np.float32), 0.01)
    pass_.networks = networks
    monkeypatch.setattr(eightbit, "_LARGE", 1)
    monkeypatch.setattr(eightbit, "_GROUPS", 4)
    pass_.layers = wholes = [layer for name in networks for layer in pass_._layers(name)]
    assert [layer.stage for layer in wholes] == ["condition", "decode"]
    assert all(len(layer.products) > 4 for layer in wholes)

    class Probed(Prober):
        def drifts(self, choice: Choice) -> dict[str, float]:
            ((stage, kinds),) = choice.items()
            return {"full": drifts[stage] * len(kinds)}

    pass_.prober = Probed(bundle, networks, {}, {}, pass_.sound, Path())
    drifts = {"condition": 0.008 / len(wholes[0].kinds), "decode": 0.0}
    assert len(pass_._in_groups(pass_.prober.try_alone(wholes))) > 2, "below the goal, but above a half of its square"
    drifts = {"condition": 1e-4, "decode": 1e-2}
    found = pass_._in_groups(pass_.prober.try_alone(wholes))
    assert found[0].kinds == wholes[0].kinds
    assert {layer.stage for layer in found[1:]} == {"decode"}
    assert 3 <= len(found[1:]) <= 4
    assert [item for layer in found[1:] for item in layer.products] == list(wholes[1].products)
    assert all(layer.drifts == {"full": 1e-2 * len(layer.kinds)} for layer in found[1:])


def test_what_a_trial_opened_is_closed_before_the_next_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two trials of a large network are more than the memory of the machine that FP32 fits in."""
    bundle = Bundle.open(TINY)
    monkeypatch.setattr(Prober, "model", lambda prober, stage, kinds: prober.bundle.onnx(stage).read_bytes())
    prober = Prober(bundle, {}, {}, {}, made_up_voice(16000, 16000), tmp_path)
    opened, opens = list[RememberingEngine](), Prober._engine

    def counted(prober: Prober, stage: str, path: Path) -> RememberingEngine:
        opened.append(opens(prober, stage, path))
        return opened[-1]

    with closing(prober):
        prober.start(1, 0.0)
        monkeypatch.setattr(Prober, "_engine", counted)
        assert prober.drift({"decode": {"any": "w8"}, "audio": {"any": "w8"}}) == 0.0
        assert [engine.name for engine in opened] == ["decode", "audio"]
        assert [engine._session for engine in opened] == [None, None]


@pytest.mark.parametrize(("of_all", "most"), [(4.0, 0), (1.0, 3), (0.5, 4)])
def test_what_is_played_decides_how_many_layers_are_narrow_not_the_prediction(of_all: float, most: int) -> None:
    """Alone each of four drifts by 0.006, so two are predicted at 0.0085 and three at 0.0104."""
    layers = [Layer("s", (Product(n, "Gemm", "x", 1, 100),), {n: "w8"}, {"full": 0.006}) for n in "abcd"]

    class Played(Prober):
        def drift(self, choice: Choice) -> float:
            return of_all * 0.003 * len(choice["s"])

    bundle = Bundle.open(TINY)
    pass_ = Narrowing(bundle, "int8", {}, np.zeros(1, np.float32), 0.01)
    pass_.prober = Played(bundle, {}, {}, {}, pass_.sound, Path())
    pass_.found.layers, pass_.found.curve = layers, curve_of(layers, 1000)
    assert pass_._most(0.0095) == most


def test_layers_become_narrow_by_what_they_save_for_their_error() -> None:
    def layer(name: str, weights: int, **drifts: float) -> Layer:
        return Layer("s", (Product(name, "Gemm", "x", 1, weights),), {name: "w8"}, drifts)

    layers = cheapest([layer("a", 100, full=0.03), layer("b", 400, full=0.04), layer("c", 100, one=0.01)], 1.0)
    assert [item.products[0].name for item in layers] == ["c", "b", "a"]
    curve = curve_of(layers, 1000)
    assert [point.share for point in curve] == pytest.approx([0.0, 0.1, 0.5, 0.6])
    assert [point.predicted for point in curve] == pytest.approx([0.0, 0.01, 0.04, 0.05]), "schedules are apart"
    passed = cheapest([*layers, layer("d", 50, full=0.002)], 0.035)
    assert [item.products[0].name for item in passed] == ["d", "c", "a", "b"], "what is too much stands behind"
    shared = [replace(item, products=(replace(item.products[0], matrix="w"),)) for item in layers]
    assert [point.share for point in curve_of([shared[0], shared[2]], 1000)] == pytest.approx([0.0, 0.1, 0.1])
