"""PNG files, still pictures without a screen, and curves."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.face.names import MOTION_NAMES, SHAPE_INDEX
from edgetalker.face.plot import liveliest, plot_motion
from edgetalker.face.png import png_bytes
from edgetalker.face.raster import Camera, draw
from edgetalker.face.sheet import render_face, render_sheet


def read_png(data: bytes) -> NDArray[np.uint8]:
    """Decode an unfiltered 8-bit RGB PNG, checking every chunk's sum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * 3)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_png_reads_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(read_png(png_bytes(image)), image)


def test_png_opens_in_another_library() -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(pillow.open(io.BytesIO(png_bytes(image)))), image)


def test_png_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        png_bytes(np.zeros((4, 4), np.uint8))


def square(z: float, size: float = 0.05) -> NDArray[np.float64]:
    return np.array([[-size, -size, z], [size, -size, z], [size, size, z], [-size, size, z]])


def test_the_nearer_of_two_squares_is_seen() -> None:
    p = np.concatenate([square(0.0), square(0.1, 0.02)])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    colours = np.repeat([[1.0, 0, 0], [0, 1.0, 0]], 4, axis=0)
    normals = np.tile([0.0, 0, 1], (8, 1))
    camera = Camera(distance=0.8, height=0.0)
    image = draw(p, normals, colours, faces, 64, camera)
    assert image[32, 32, 1] > 100
    assert image[32, 32, 0] == 0
    assert image[32, 24, 0] > 100
    again = draw(p, normals, colours, faces[::-1], 64, camera)
    assert np.array_equal(image, again)  # order of triangles does not matter


def test_triangles_that_face_away_are_not_drawn() -> None:
    image = draw(square(0.0), np.tile([0.0, 0, 1], (4, 1)), np.ones((4, 3)), np.array([[2, 1, 0]]), 32)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 1


def motion_with(**weights: float) -> NDArray[np.float32]:
    motion = np.zeros(55, np.float32)
    for name, weight in weights.items():
        motion[MOTION_NAMES.index(name)] = weight
    return motion


def mouth(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    size = len(image)
    return image[int(0.60 * size) : int(0.85 * size), int(0.35 * size) : int(0.65 * size)].astype(np.int64)


def test_an_open_mouth_looks_different_and_dark_inside() -> None:
    shut, wide = (render_face(motion_with(JawOpen=jaw), size=128) for jaw in (0.0, 1.0))
    assert np.abs(mouth(shut) - mouth(wide)).max() > 80
    dark = [int((mouth(image).sum(2) < 120).sum()) for image in (shut, wide)]
    assert dark[1] > dark[0] + 20


def test_the_face_is_even_and_a_left_blink_is_on_the_pictures_right() -> None:
    rest, blink = (render_face(motion_with(EyeBlinkLeft=b), size=128).astype(np.int64) for b in (0.0, 1.0))
    changed = np.abs(rest - blink).sum(2) > 60
    assert changed[:, 64:].sum() > 30
    assert changed[:, :64].sum() == 0


def test_turning_the_head_to_its_left_moves_the_nose_to_the_pictures_right() -> None:
    def weight(image: NDArray[np.uint8]) -> float:
        skin = image[40:90, :, 0].astype(float) * (image[40:90, :, 0] > image[40:90, :, 2] + 40)
        return float((skin * np.arange(128)).sum() / skin.sum())

    straight, turned = (render_face(motion_with(HeadYaw=yaw), size=128) for yaw in (0.0, 0.5))
    assert weight(turned) > weight(straight) + 3


def test_sheet_has_a_tile_for_each_time(tmp_path: Path) -> None:
    motion = np.stack([motion_with(JawOpen=k / 10) for k in range(10)])
    render_sheet(tmp_path / "s.png", motion, Fraction(25), [0.0, 0.2, 99.0], columns=2, size=48)
    image = read_png((tmp_path / "s.png").read_bytes())
    assert image.shape == (96, 96, 3)
    last = render_face(motion[9], size=48)
    assert np.array_equal(image[48:, :48], last)
    assert not image[48:, 48:].any()


def test_sheet_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        render_sheet(tmp_path / "s.png", np.zeros((0, 55)), 25, [0.0])


def test_liveliest_are_those_that_move_in_their_own_order() -> None:
    motion = np.zeros((10, 55))
    motion[:, SHAPE_INDEX["MouthPucker"]] = np.arange(10)
    motion[:, SHAPE_INDEX["JawOpen"]] = np.arange(10) * 0.1
    motion[:, SHAPE_INDEX["EyeBlinkLeft"]] = np.arange(10) * 0.2
    motion[:, SHAPE_INDEX["EyeBlinkRight"]] = np.arange(10) * 0.2
    assert liveliest(motion, MOTION_NAMES) == ["EyeBlinkLeft", "JawOpen", "MouthPucker"]
    assert liveliest(motion, MOTION_NAMES, 2) == ["JawOpen", "MouthPucker"]
    motion[3, SHAPE_INDEX["EyeBlinkRight"]] = 0  # a wink is worth a curve of its own
    assert "EyeBlinkRight" in liveliest(motion, MOTION_NAMES)


def test_plot_is_a_png_that_shows_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `view`)")
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    motion = np.zeros((50, 55))
    sound = np.sin(np.arange(32000) / 9).astype(np.float32) * 0.5
    pictures = []
    for jaw in (0.0, 0.8):
        motion[10:40, SHAPE_INDEX["JawOpen"]] = jaw
        plot_motion(tmp_path / "p.png", motion, sound, 16000, MOTION_NAMES, shown=["JawOpen"], stills=0)
        pictures.append(np.asarray(pillow.open(tmp_path / "p.png").convert("RGB")).astype(int))
    assert pictures[0].shape[:2] == (672, 1320)
    assert (np.abs(pictures[0] - pictures[1]).sum(2) > 0).sum() > 500


def test_plot_has_stills_of_the_face_over_their_moments(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `view`)")
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    motion = np.zeros((50, 55))
    motion[25:, SHAPE_INDEX["JawOpen"]] = 1.0
    plot_motion(tmp_path / "p.png", motion, np.zeros(32000, np.float32), 16000, MOTION_NAMES, stills=2)
    image = np.asarray(pillow.open(tmp_path / "p.png").convert("RGB")).astype(int)
    top = image[: image.shape[0] // 5]
    skin = (top[:, :, 0] > top[:, :, 2] + 40) & (top[:, :, 0] > 120)
    middle = image.shape[1] // 2
    assert skin[:, :middle].sum() > 1000
    assert skin[:, middle:].sum() > 1000


def test_plot_refuses_unknown_curves_and_wrong_shapes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JawOpne"):
        plot_motion(tmp_path / "p.png", np.zeros((3, 55)), np.zeros(9), 16000, MOTION_NAMES, shown=["JawOpne"])
    with pytest.raises(InputError, match="wanted"):
        plot_motion(tmp_path / "p.png", np.zeros((3, 4)), np.zeros(9), 16000, MOTION_NAMES)
