"""Quads: the slanted boxes of text. Components of a mask, least rectangles, overlap, matching.

A quad is ``float64[4, 2]``: x and y of its corners in pixels, clockwise from the top left as text
reads, y down. Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NO_AREA = 1e-9  # square pixels: what rounding leaves of a line


@dataclass(frozen=True)
class Component:
    """Pixels of a mask that touch each other, also over corners.

    Attributes:
        rows: int64[R], row of each run.
        starts: int64[R], first column of each run.
        ends: int64[R], the column behind its last one.
    """

    rows: Integers
    starts: Integers
    ends: Integers

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int((self.ends - self.starts).sum())

    def corners(self) -> Points:
        """Outer corners of all rows, float64[N, 2]: their hull is the component's hull."""
        rows, first = np.unique(self.rows, return_index=True)
        left = np.minimum.reduceat(self.starts, first)
        right = np.maximum.reduceat(self.ends, first)
        x = np.concatenate([left, right, left, right])
        y = np.concatenate([rows, rows, rows + 1, rows + 1])
        return np.stack([x, y], axis=1).astype(np.float64)


def components(mask: Mask) -> list[Component]:
    """Split a mask into its 8-connected components.

    Runs of set pixels are the nodes and overlaps between neighbouring rows the edges; every node
    then takes the least index that it can reach.

    Args:
        mask: bool[H, W].

    Returns:
        The components, in the order of their first pixels.
    """
    height, width = mask.shape
    stride = width + 2  # an empty column on either side, so that no run crosses a row's end
    padded = np.zeros((height, stride), dtype=np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded.ravel(), prepend=np.int8(0))
    starts = np.flatnonzero(change == 1).astype(np.int64)
    ends = np.flatnonzero(change == -1).astype(np.int64)
    if not len(starts):
        return []
    below = np.searchsorted(ends, starts + stride, side="left")
    behind = np.searchsorted(starts, ends + stride, side="right")
    count = behind - below
    upper = np.repeat(np.arange(len(starts)), count)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    roots = _least_reachable(len(starts), upper, np.repeat(below, count) + offset)
    order = np.argsort(roots, kind="stable")
    rows = starts // stride
    found = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return [
        Component(rows[i], starts[i] - rows[i] * stride - 1, ends[i] - rows[i] * stride - 1)
        for i in found
    ]


def _least_reachable(nodes: int, first: Integers, second: Integers) -> Integers:
    roots = np.arange(nodes, dtype=np.int64)
    while True:
        least = np.minimum(roots[first], roots[second])
        merged = roots.copy()
        np.minimum.at(merged, roots[first], least)
        np.minimum.at(merged, roots[second], least)
        merged = merged[merged]  # pointer jumping: the rounds grow with the logarithm
        if np.array_equal(merged, roots):
            return roots
        roots = merged


def hull(points: Points) -> Points:
    """Convex hull by Andrew's monotone chain (1979).

    Args:
        points: float64[N, 2], N ≥ 1.

    Returns:
        float64[M, 2], in one direction of turning, without points on an edge.
    """
    ordered = sorted({(x, y) for x, y in points.tolist()})
    if len(ordered) <= 2:  # noqa: PLR2004 - a point or a line is its own hull
        return np.array(ordered)

    def chain(walk: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for x, y in walk:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def least_rectangle(points: Points) -> tuple[Points, float, float]:
    """Find the rectangle of least area around points: one of its sides lies on a hull edge.

    Source: Freeman and Shapira (1975), Determining the minimum-area encasing rectangle.

    Args:
        points: float64[N, 2], N ≥ 1.

    Returns:
        The quad and its width and height (along the text's direction and across it), in pixels.
    """
    outline = hull(points)
    edges = np.roll(outline, -1, axis=0) - outline
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    edges, lengths = edges[lengths > 0], lengths[lengths > 0]
    along = edges / lengths[:, np.newaxis] if len(edges) else np.array([[1.0, 0.0]])
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = outline @ along.T, outline @ across.T
    area = (u.max(axis=0) - u.min(axis=0)) * (v.max(axis=0) - v.min(axis=0))
    best = int(np.argmin(area))
    # Of the four directions that the rectangle has, reading goes along the one nearest to "right".
    right, down = along[best], across[best]
    for _ in range(3):
        if right[0] >= abs(right[1]):
            break
        right, down = down, -right
    u, v = outline @ right, outline @ down
    low_u, high_u = float(u.min()), float(u.max())
    low_v, high_v = float(v.min()), float(v.max())
    sides = [(low_u, low_v), (high_u, low_v), (high_u, high_v), (low_u, high_v)]
    quad = np.array([a * right + b * down for a, b in sides])
    return quad, high_u - low_u, high_v - low_v


def grow(quad: Points, margin: float) -> Points:
    """Move every side of a rectangle outwards.

    Args:
        quad: A rectangle with sides longer than 0.
        margin: In pixels.
    """
    right, down = quad[1] - quad[0], quad[3] - quad[0]
    right = right * (margin / np.hypot(*right))
    down = down * (margin / np.hypot(*down))
    grown: Points = quad + np.array([-right - down, right - down, right + down, down - right])
    return grown


def area(quad: Points) -> float:
    """Area of a polygon, by the shoelace formula; positive where it turns clockwise (y down)."""
    x, y = quad[:, 0], quad[:, 1]
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def iou(first: Points, second: Points) -> float:
    """Overlap of two convex quads: intersection over union, 0..1.

    The intersection is cut out by Sutherland and Hodgman's algorithm (1974).

    Args:
        first: float64[4, 2]; either direction of turning.
        second: float64[4, 2].
    """
    if (first.max(axis=0) <= second.min(axis=0)).any() or (
        second.max(axis=0) <= first.min(axis=0)
    ).any():
        return 0.0
    a, b = (q if area(q) >= 0 else q[::-1] for q in (first, second))
    kept = [(float(x), float(y)) for x, y in a]
    corners = [(float(x), float(y)) for x, y in b]
    for index, start in enumerate(corners):
        kept = _cut(kept, start, corners[(index + 1) % len(corners)])
    common = max(0.0, area(np.array(kept))) if len(kept) > 2 else 0.0  # noqa: PLR2004
    union = area(a) + area(b) - common
    return min(1.0, common / union) if union > NO_AREA else 0.0


def _cut(
    polygon: list[tuple[float, float]], start: tuple[float, float], end: tuple[float, float]
) -> list[tuple[float, float]]:
    edge_x, edge_y = end[0] - start[0], end[1] - start[1]
    sides = [edge_x * (y - start[1]) - edge_y * (x - start[0]) for x, y in polygon]
    kept: list[tuple[float, float]] = []
    for index, point in enumerate(polygon):
        before, side = sides[index - 1], sides[index]
        if (before < 0) != (side < 0):
            previous = polygon[index - 1]
            share = before / (before - side)
            kept.append(
                (
                    previous[0] + share * (point[0] - previous[0]),
                    previous[1] + share * (point[1] - previous[1]),
                )
            )
        if side >= 0:
            kept.append(point)
    return kept


def match(first: list[Points], second: list[Points], min_iou: float = 0.5) -> int:
    """Count the pairs of quads that can be made one to one, largest overlap first.

    Args:
        first: Quads of one side.
        second: Quads of the other.
        min_iou: Least overlap of a pair.
    """
    if not first or not second:
        return 0
    a, b = np.stack(first)[:, np.newaxis], np.stack(second)[np.newaxis]
    # Most pairs lie apart: their bounding boxes say so at once.
    apart = (a.max(axis=2) <= b.min(axis=2)) | (b.max(axis=2) <= a.min(axis=2))
    overlaps = [
        (-overlap, i, j)
        for i, j in np.argwhere(~apart.any(axis=2)).tolist()
        if (overlap := iou(first[i], second[j])) >= min_iou
    ]
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    for _, i, j in sorted(overlaps):
        if i not in taken_first and j not in taken_second:
            taken_first.add(i)
            taken_second.add(j)
    return len(taken_first)
