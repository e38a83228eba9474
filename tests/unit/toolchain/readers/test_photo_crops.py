from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime import pictures
from edgekit.toolchain.readers import read_samples
from edgekit.toolchain.readers.photo_crops import windows
from edgekit.wire.errors import ConfigError


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8)
    (tmp_path / "photo.png").write_bytes(pictures.encode_png(pixels))
    return tmp_path


def test_one_photograph_gives_the_whole_and_five_windows(photo):
    samples = list(read_samples("photo-crops", photo, {"shares": [1.0, 0.5]}, {}))
    assert [s.name for s in samples] == ["photo.png@1.0", *(f"photo.png@0.5.{i}" for i in range(5))]
    assert [pictures.decode(s.data).shape for s in samples] == [(60, 90, 3)] + [(30, 45, 3)] * 5
    assert len({s.sha256 for s in samples}) == 6
    assert all(s.suffix == ".jpg" and s.label is None for s in samples)


def test_reading_twice_gives_the_same_bytes(photo):
    first, second = (list(read_samples("photo-crops", photo, {}, {})) for _ in range(2))
    assert first == second


def test_windows_are_scaled_down_and_never_up(photo):
    options = {"shares": [1.0, 0.2], "max_side": 45}
    sizes = [
        pictures.decode(s.data).shape[:2] for s in read_samples("photo-crops", photo, options, {})
    ]
    assert sizes == [(30, 45)] + [(16, 18)] * 5


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.01, 1))
def test_windows_stay_inside(width, height, share):
    for left, top, right, bottom in windows(width, height, share):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@pytest.mark.parametrize(
    "options",
    [{"shares": [0]}, {"shares": [1.1]}, {"shares": []}, {"quality": 100}, {"label": "x"}],
)
def test_wrong_options_are_refused(photo, options):
    with pytest.raises(ConfigError):
        list(read_samples("photo-crops", photo, options, {}))


def test_a_damaged_photograph_is_named(photo):
    (photo / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ConfigError) as caught:
        list(read_samples("photo-crops", photo, {}, {}))
    assert caught.value.where.endswith("bad.png")
