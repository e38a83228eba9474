from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.runtime import pictures
from edgekit.wire.errors import ConfigError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a picture that fills the memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_the_pixels_back(kind):
    pixels = noise(5, 9)
    assert np.array_equal(pictures.decode(encoded(Image.fromarray(pixels), kind)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind):
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    decoded = pictures.decode(encoded(Image.fromarray(pixels), kind))
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).max() <= 8


def test_exif_orientation_is_applied():
    image = Image.fromarray(noise(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    decoded = pictures.decode(encoded(image, "PNG", exif=exif))
    assert decoded.shape == (6, 4, 3)
    assert np.array_equal(decoded, np.rot90(np.asarray(image), -1))


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert pictures.decode(encoded(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_sixteen_bit_greys_are_scaled_and_not_clipped():
    grey = np.array([[0, 257 * 128, 65535]], np.uint16)
    decoded = pictures.decode(encoded(Image.fromarray(grey)))
    assert decoded[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    decoded = pictures.decode(encoded(Image.new("RGB", (3, 2), "white").convert(mode), kind))
    assert decoded.shape == (2, 3, 3)
    assert decoded.dtype == np.uint8
    assert decoded.min() >= 250


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_a_config_error(data):
    with pytest.raises(ConfigError, match="not a readable picture"):
        pictures.decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_a_config_error(kind):
    data = encoded(Image.fromarray(noise(40, 40)), kind)
    with pytest.raises(ConfigError) as caught:
        pictures.decode(data[: len(data) // 2])
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("side", [7_500, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with pytest.raises(ConfigError, match=r"pixels"):
        pictures.decode(huge_png(side, side))


def test_an_unlisted_format_is_refused():
    with pytest.raises(ConfigError, match="unknown format"):
        pictures.decode(encoded(Image.new("RGB", (4, 4)), "PCX"))


def test_npy_pictures_get_a_channel_axis():
    grey = noise(3, 4, 1)
    assert np.array_equal(pictures.decode_npy(npy(grey[:, :, 0])), grey)
    assert pictures.decode_npy(npy(noise(3, 4))).shape == (3, 4, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_npy_of_another_type_or_shape_is_refused(array):
    with pytest.raises(ConfigError):
        pictures.decode_npy(npy(array))


@given(st.binary(max_size=120))
def test_damaged_npy_is_a_config_error(tail):
    with pytest.raises(ConfigError):
        pictures.decode_npy(b"\x93NUMPY" + tail)


def test_an_npy_header_that_asks_for_all_memory_is_refused():
    honest = npy(np.zeros((8, 8), np.uint8))
    hostile = honest.replace(b"(8, 8)", b"(1000000000000, 8)").replace(b" " * 12, b" ", 1)
    with pytest.raises(ConfigError):
        pictures.decode_npy(hostile)


def test_npy_with_pickled_objects_is_refused():
    out = io.BytesIO()
    np.save(out, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError):
        pictures.decode_npy(out.getvalue())


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 64),
    st.integers(1, 64),
    st.sampled_from(["centre", "top-left"]),
)
def test_letterbox_keeps_proportions_and_stays_on_the_canvas(width, height, wide, high, align):
    image = np.full((height, width, 3), 255, np.uint8)
    canvas, fit = pictures.letterbox(image, wide, high, fill=0, align=align)
    assert canvas.shape == (high, wide, 3)
    rows = np.flatnonzero(canvas[:, :, 0].any(axis=1))
    columns = np.flatnonzero(canvas[:, :, 0].any(axis=0))
    used = (len(columns), len(rows))
    assert used == (round(width * fit.scale_x), round(height * fit.scale_y))
    assert used[0] == wide or used[1] == high
    assert (rows[0], columns[0]) == (fit.top, fit.left)


@given(
    st.integers(20, 400),
    st.integers(20, 400),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8),
)
def test_boxes_survive_the_way_to_the_canvas_and_back(width, height, shares):
    _, fit = pictures.letterbox(np.zeros((height, width, 3), np.uint8), 64, 48)
    boxes = np.array(shares, np.float32) * np.array([width, height] * 2, np.float32)
    back = fit.to_source(fit.to_canvas(boxes))
    assert np.allclose(back, boxes, atol=1e-2)


def test_boxes_beyond_the_picture_are_cut_off():
    _, fit = pictures.letterbox(np.zeros((10, 20, 3), np.uint8), 40, 40)
    assert fit.to_source(np.array([[-9, -9, 99, 99]], np.float32)).tolist() == [[0, 0, 20, 10]]


def test_resize_is_pillows_and_keeps_greys_grey():
    pixels = noise(9, 7)
    expected = np.asarray(Image.fromarray(pixels).resize((5, 3), Image.Resampling.BICUBIC))
    assert np.array_equal(pictures.resize(pixels, 5, 3, "bicubic"), expected)
    assert pictures.resize(noise(9, 7, 1), 5, 3).shape == (3, 5, 1)
    assert pictures.resize(pixels, 7, 9) is pixels


def test_an_unknown_resize_method_is_named():
    with pytest.raises(ConfigError, match="cubic"):
        pictures.resize(noise(4, 4), 2, 2, "cubic")


def test_centre_crop_takes_the_middle():
    image = np.arange(5 * 7).reshape(5, 7, 1).astype(np.uint8)
    assert pictures.centre_crop(image, 3, 1)[:, :, 0].tolist() == [[16, 17, 18]]


def test_normalise_orders_channels_and_axes():
    image = np.array([[[10, 20, 30]]], np.uint8)
    rgb = pictures.normalise(image, (10.0,), (10.0,))
    assert rgb.tolist() == [[[[0.0]], [[1.0]], [[2.0]]]]
    bgr = pictures.normalise(image, (0.0, 10.0, 0.0), (1.0,), order="bgr", layout="nhwc")
    assert bgr.tolist() == [[[[30.0, 10.0, 10.0]]]]
    assert rgb.dtype == bgr.dtype == np.float32
    assert rgb.flags["C_CONTIGUOUS"]


def test_grey_is_pillows_luma():
    pixels = noise(20, 20)
    grey = pictures.normalise(pixels, (0.0,), (1.0,), order="grey")[0, 0]
    assert np.array_equal(grey, np.asarray(Image.fromarray(pixels).convert("L"), np.float32))


def test_png_round_trip():
    pixels = noise(6, 5)
    assert np.array_equal(pictures.decode(pictures.encode_png(pixels)), pixels)
    assert pictures.decode(pictures.encode_png(noise(6, 5, 1))).shape == (6, 5, 3)
