from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime import pictures, quads
from edgekit.toolchain.readers import read_samples
from edgekit.toolchain.readers.rendered_text import VOCABULARY, Dice, Language, compose_text
from edgekit.wire.errors import ConfigError

MPL = importlib.util.find_spec("matplotlib")
assert MPL is not None
assert MPL.origin is not None
FONTS = Path(MPL.origin).parent / "mpl-data" / "fonts" / "ttf"
LINES = {"kind": "line", "count": 6, "seed": 1, "words": "even", "fonts": ["DejaVuSans.ttf"]}
PAGES = {**LINES, "kind": "page", "count": 3, "side": 320}


def read(options: dict, fonts: Path = FONTS):
    return list(read_samples("rendered-text", None, options, {"fonts": fonts}))


def test_the_same_seed_gives_the_same_samples_in_another_process():
    code = (
        "import sys; from pathlib import Path;"
        "from edgekit.toolchain.readers import read_samples;"
        f"s = read_samples('rendered-text', None, {LINES!r}, {{'f': Path(sys.argv[1])}});"
        "print(','.join(x.sha256 for x in s))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FONTS)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ",".join(s.sha256 for s in read(LINES))


def test_a_sample_does_not_depend_on_how_many_there_are():
    assert read({**LINES, "count": 9})[:6] == read(LINES)


def test_another_seed_gives_other_samples():
    first, second = read(LINES), read({**LINES, "seed": 2})
    assert not {s.sha256 for s in first} & {s.sha256 for s in second}
    assert [s.label for s in first] != [s.label for s in second]


def test_lines_are_pictures_labelled_with_their_text():
    samples = read({**LINES, "count": 40})
    assert len({s.name for s in samples}) == 40
    sizes = set()
    for sample in samples:
        height, width, _ = pictures.decode(sample.data).shape
        sizes.add(height)
        assert sample.suffix == ".jpg"
        assert sample.label
        assert sample.label.strip() == sample.label
        assert 14 <= height <= 80
        assert width >= height / 2
    assert len(sizes) > 10


def test_the_two_halves_of_the_vocabulary_share_no_word():
    words = VOCABULARY.split()
    assert len(words) == len(set(words)) > 700
    seen = []
    for half in ("even", "odd"):
        texts = [s.label.lower() for s in read({**LINES, "count": 60, "words": half})]
        parts = {p.strip(".,:") for text in texts for p in text.split()}
        seen.append({p for p in parts if p.isalpha()})
    assert len(seen[0]) > 40
    assert not seen[0] & seen[1]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_texts_have_parts_with_joiners_between(seed, most):
    parts = compose_text(Dice(seed), Language(["word"], ["-", "/"]), most)
    assert len(parts) % 2 == 1
    assert (len(parts) + 1) // 2 <= most
    assert all(p in ("-", "/") for p in parts[1::2])
    assert "".join(parts).isascii()


def test_joiners_take_the_place_of_spaces():
    labels = [s.label for s in read({**LINES, "count": 30, "joiners": ["-"]})]
    assert not any(" " in label for label in labels)
    assert any("-" in label for label in labels)


def ink(page: np.ndarray, quad: np.ndarray) -> float:
    """How far the pixels inside a quad's bounding box spread, in grey levels."""
    low, high = quad.min(axis=0).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    inside = page[max(0, low[1]) : high[1], max(0, low[0]) : high[0]].mean(axis=2)
    return float(np.percentile(inside, 99) - np.percentile(inside, 1))


def test_ink_lies_inside_the_labelled_quads_and_nowhere_else():
    for sample in read({**PAGES, "count": 6}):
        page = pictures.decode(sample.data).astype(np.float64)
        assert page.shape == (320, 320, 3)
        covered = np.zeros((320, 320), np.bool_)
        assert sample.label["boxes"]
        for corners in sample.label["boxes"]:
            quad = np.array(corners)
            assert quads.area(quad) > 0  # clockwise
            assert quad[1][0] > quad[0][0]
            assert ink(page, quad) > 60
            low, high = quad.min(axis=0).astype(int) - 6, np.ceil(quad.max(axis=0)).astype(int) + 6
            covered[max(0, low[1]) : high[1], max(0, low[0]) : high[0]] = True
        paper = page.mean(axis=2)[~covered]
        # Light falls off by at most 40 grey levels and the grain adds 28: ink would be 90 away.
        assert np.ptp(np.percentile(paper, [0.5, 99.5])) < 80


def test_lines_of_a_page_do_not_overlap():
    for sample in read(PAGES):
        boxes = [np.array(q) for q in sample.label["boxes"]]
        assert not any(quads.iou(a, b) > 0.1 for i, a in enumerate(boxes) for b in boxes[:i])


def test_pages_are_turned_both_ways():
    slopes = [
        np.sign(s.label["boxes"][0][1][1] - s.label["boxes"][0][0][1])
        for s in read({**PAGES, "count": 12})
    ]
    assert {-1.0, 1.0} <= set(slopes)


@given(st.floats(-100, 100), st.floats(0.001, 100), st.integers(0, 50))
def test_dice_stay_within_their_bounds(low, span, seed):
    dice = Dice(seed)
    for _ in range(10):
        assert low <= dice.uniform(low, low + span) <= low + span
        assert 3 <= dice.integer(3, 7) <= 7
    noise = dice.noise(5, 7)
    assert noise.shape == (5, 7)
    assert np.abs(noise).max() <= 255


def test_dice_fall_as_they_always_have():
    # Data sets, and with them bundles, rest on this stream.
    dice = Dice(1, 2)
    assert [dice.integer(0, 99) for _ in range(6)] == [82, 71, 73, 99, 10, 22]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "poem"},
        {"count": 0},
        {"count": 10**6},
        {"seed": -1},
        {"words": "all"},
        {"fonts": ["Comic*.ttf"]},
        {"side": 10},
        {"joiners": []},
        {"joiners": ["a very long joiner"]},
        {"colour": "red"},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        read({**LINES, **options})


def test_a_damaged_font_is_refused(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    with pytest.raises(ConfigError, match="font"):
        read({**LINES, "fonts": ["*"]}, tmp_path)


def test_a_uri_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="extra"):
        list(read_samples("rendered-text", tmp_path, LINES, {"fonts": FONTS}))
