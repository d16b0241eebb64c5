"""What all commands share: options written out, a bundle named alike, completion, configurations in any encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from edgetalker.cli.config import read_toml
from edgetalker.cli.main import COMMANDS, main, whole_parser
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError
from edgetalker.viewer.colours import colour


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--js"]) == 64
    assert "--js" in capsys.readouterr().err
    assert main(["export", "streamingtalker", "x", "--ou", "y"]) == 64, "a command below a command too"


@pytest.mark.parametrize("command", ["inspect", "bench", "profile", "convert", "build"])
def test_a_bundle_may_be_named_by_its_option_everywhere(command: str) -> None:
    parser = whole_parser()
    assert parser.parse_args([command, "--bundle", "there"]).bundle == Path("there")
    assert parser.parse_args([command, "there"]).bundle == Path("there")
    assert parser.parse_args([command]).bundle is None


def test_two_bundles_are_a_contradiction(toy: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(toy.path), "--bundle", "other"]) == 64
    assert "one bundle was wanted" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="shtab is not installed (extra `shell`)")
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "--schedule" in text or "schedule" in text


@pytest.mark.parametrize("name", ["nope", "#", "12345", "tomatoo", "#red"])
def test_a_colour_that_no_page_knows_is_refused_before_the_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--no-browser", "--background", name, "--bundle", "none"]) == 64
    said = capsys.readouterr().err
    assert "wants transparent, a colour's name in CSS, or digits such as 202830" in said
    assert ("did you mean `tomato`?" in said) == (name == "tomatoo")


def test_colours_are_names_and_digits() -> None:
    assert [colour(word) for word in ("transparent", "Tomato", "#202830", "fff", "")] == [
        "transparent", "Tomato", "202830", "fff", "",
    ]  # fmt: skip


TOML = 'speech = "Grüße.wav"\nloop = true\n'


@pytest.mark.parametrize(
    "content",
    [
        TOML.encode(),
        codecs.BOM_UTF8 + TOML.encode(),
        codecs.BOM_UTF16_LE + TOML.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TOML.encode("utf-16-be"),
        TOML.replace("\n", "\r\n").encode("utf-16"),
    ],
)
def test_a_configuration_is_read_in_any_encoding_that_editors_write(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "live.toml"
    path.write_bytes(content)
    assert read_toml(path) == {"speech": "Grüße.wav", "loop": True}


@pytest.mark.parametrize("content", [b"a = " + b"[" * 100_000, b"x = \xff", b"a = 0x" + b"f" * 6000, b"a" * (1 << 21)])
def test_a_file_that_is_no_configuration_is_a_message(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "live.toml"
    path.write_bytes(content)
    if content.startswith(b"a = 0x"):
        assert main(["live", "--config", str(path)]) == 64
    else:
        with pytest.raises(InputError, match=r"live\.toml"):
            read_toml(path)


def test_a_device_that_never_ends_is_no_configuration() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(InputError, match="more than 1048576 bytes"):
        read_toml(Path("/dev/zero"))
