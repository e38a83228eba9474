from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.runtime import quads

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
coordinates = st.integers(-50, 50).map(float)
# Corners of pixels: what a component has.
clouds = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=30).map(
    lambda pixels: np.array([(x + a, y + b) for x, y in pixels for a in (0, 1) for b in (0, 1)])
)


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> np.ndarray:
    angle = math.radians(degrees)
    right = np.array([math.cos(angle), math.sin(angle)])
    down = np.array([-right[1], right[0]])
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    return np.array([[x, y] + a * right + b * down for a, b in corners])


def flood(mask: np.ndarray) -> list[frozenset[tuple[int, int]]]:
    """The components by flood filling, one pixel at a time."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while left:
        part, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                edge += [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        parts.append(frozenset(part))
    return parts


@given(masks)
def test_components_are_those_of_a_flood_fill(mask):
    found = [
        frozenset(
            (int(row), column)
            for row, start, end in zip(part.rows, part.starts, part.ends, strict=True)
            for column in range(int(start), int(end))
        )
        for part in quads.components(mask)
    ]
    assert found == flood(mask)
    assert [part.pixels for part in quads.components(mask)] == [len(part) for part in found]


def test_a_long_winding_component_is_one():
    mask = np.zeros((41, 41), np.bool_)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    assert len(quads.components(mask)) == 1


@given(clouds)
def test_the_least_rectangle_holds_all_points_and_is_no_larger_than_the_upright_one(points):
    quad, width, height = quads.least_rectangle(points)
    right = (quad[1] - quad[0]) / width
    down = np.array([-right[1], right[0]])
    u, v = (points - quad[0]) @ right, (points - quad[0]) @ down
    assert u.min() >= -1e-6
    assert u.max() <= width + 1e-6
    assert v.min() >= -1e-6
    assert v.max() <= height + 1e-6
    assert width * height <= np.prod(np.ptp(points, axis=0)) + 1e-6
    assert right[0] >= abs(right[1]) - 1e-9  # it reads from left to right


@pytest.mark.parametrize("degrees", [-40, -10, 0, 7, 44])
def test_a_turned_rectangle_is_found_again(degrees):
    wanted = rectangle(3, 5, 40, 9, degrees)
    rng = np.random.default_rng(1)
    inside = rng.random((200, 2)) @ np.array([wanted[1] - wanted[0], wanted[3] - wanted[0]])
    quad, width, height = quads.least_rectangle(np.vstack([wanted, wanted[0] + inside]))
    np.testing.assert_allclose(quad, wanted, atol=1e-9)
    assert (width, height) == pytest.approx((40, 9))


def test_growing_moves_every_side_by_the_margin():
    grown = quads.grow(rectangle(10, 10, 20, 4, 30), 2)
    assert quads.area(grown) == pytest.approx(24 * 8)
    np.testing.assert_allclose(grown.mean(axis=0), rectangle(10, 10, 20, 4, 30).mean(axis=0))


@given(
    st.tuples(coordinates, coordinates, st.integers(1, 40), st.integers(1, 40)),
    st.tuples(coordinates, coordinates, st.integers(1, 40), st.integers(1, 40)),
    st.integers(-180, 180),
)
def test_overlap_of_turned_quads_is_that_of_the_upright_ones(first, second, degrees):
    size = [
        min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i])
        for i in (0, 1)
    ]
    common = max(0, size[0]) * max(0, size[1])
    wanted = common / (first[2] * first[3] + second[2] * second[3] - common)
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    a, b = rectangle(*first) @ turn, rectangle(*second) @ turn
    assert quads.iou(a, b) == pytest.approx(wanted, abs=1e-9)
    assert quads.iou(b, a[::-1]) == pytest.approx(wanted, abs=1e-9)


def test_a_square_and_the_same_on_its_corner():
    square = rectangle(-1, -1, 2, 2)
    turned = rectangle(0, -math.sqrt(2), 2, 2, 45)
    octagon = 8 * (math.sqrt(2) - 1)
    assert quads.iou(square, turned) == pytest.approx(octagon / (8 - octagon))


def test_points_on_a_line_have_a_rectangle_without_area():
    quad, width, height = quads.least_rectangle(np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert sorted((width, height)) == pytest.approx([0.0, 5.0])
    assert quads.iou(quad, quad) == pytest.approx(0.0)
    single, *size = quads.least_rectangle(np.array([[2.0, 3.0]]))
    assert size == [0.0, 0.0]
    np.testing.assert_array_equal(single, [[2.0, 3.0]] * 4)


def test_quads_without_area_overlap_nothing():
    point = np.full((4, 2), 3.0)
    assert quads.iou(point, point) == 0.0
    assert quads.iou(point, rectangle(0, 0, 10, 10)) == 0.0


def test_matching_is_one_to_one_and_takes_the_best_first():
    wanted = [rectangle(0, 0, 10, 10), rectangle(100, 0, 10, 10)]
    found = [rectangle(1, 0, 10, 10), rectangle(0, 0, 10, 10), rectangle(100, 6, 10, 10)]
    assert quads.match(wanted, found) == 1
    assert quads.match(wanted, found, min_iou=0.2) == 2
    assert quads.match(wanted, []) == 0
    assert quads.match([], []) == 0
