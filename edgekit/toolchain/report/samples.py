"""Golden samples in a report: a picture or a text, and what both models say of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.toolchain.report import words

MAX_SHOWN = 6
MAX_AGREEING = 3
_MAX_ENTRIES = 5
_MAX_BOXES = 50
_MAX_TEXT = 400
_SAME = 0.9995
_IMAGE = re.compile(r"data:image/(?:png|jpeg|webp|gif|bmp);base64,[A-Za-z0-9+/]+={0,2}")

Says = dict[str, Any]


def shown_samples(golden: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Choose the samples that differ most and describe them.

    Args:
        golden: As in the document, the sample that differs most first.

    Returns:
        At most six, and where the models agree on all of them three: name, agreement in words,
        picture (a checked ``data:`` URI), text, boxes to draw and what fp32 and the shipped model
        say.
    """
    differ = sum(float(row["agreement"]) < _SAME for row in golden)
    rows = golden[: min(MAX_SHOWN, differ) or MAX_AGREEING]
    return [_sample(row) for row in rows]


def differing(golden: Sequence[Mapping[str, Any]]) -> int:
    """Count the samples on which the models do not agree fully."""
    return sum(float(row["agreement"]) < _SAME for row in golden)


def is_picture(uri: object) -> bool:
    """Tell whether this is a picture that stands in the URI itself."""
    return isinstance(uri, str) and _IMAGE.fullmatch(uri) is not None


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    preview = row.get("preview") or {}
    fp32, shipped = _says(row["fp32"]), _says(row["shipped"])
    if fp32["kind"] == shipped["kind"] == "vector":
        shipped["note"] = f"cosine to fp32 {_cosine(fp32['values'], shipped['values']):.4f}"
    size = _size(preview)
    return {
        "name": words.printable(str(row["name"])),
        "index": row["index"],
        "agreement": words.ratio(float(row["agreement"])),
        "agrees": float(row["agreement"]) >= _SAME,
        "picture": preview["data"]
        if preview.get("kind") == "image" and is_picture(preview.get("data"))
        else None,
        "refused_picture": preview.get("kind") == "image" and not is_picture(preview.get("data")),
        "size": size,
        "text": words.printable(str(preview["data"]))[:_MAX_TEXT]
        if preview.get("kind") == "text"
        else None,
        "outlines": [
            {"model": "fp32", "points": _outlines(row["fp32"])},
            {"model": "shipped", "points": _outlines(row["shipped"])},
        ]
        if size
        else [],
        "frames": [
            {"model": "fp32", "points": _curve(row["fp32"])},
            {"model": "shipped", "points": _curve(row["shipped"])},
        ]
        if _curve(row["fp32"])
        else [],
        "says": [{"model": "fp32", **fp32}, {"model": "shipped", **shipped}],
    }


def _says(prediction: Mapping[str, Any]) -> Says:
    """Turn a task's prediction into rows (label, score), a text or a note."""
    if isinstance(prediction.get("top"), list):
        return {"kind": "rows", "rows": [_scored(e) for e in prediction["top"][:3]], "note": ""}
    if isinstance(prediction.get("boxes"), list):
        boxes = prediction["boxes"]
        rows = [_scored(box) for box in boxes[:_MAX_ENTRIES]]
        more = f"and {len(boxes) - _MAX_ENTRIES} more" if len(boxes) > _MAX_ENTRIES else ""
        return {"kind": "rows", "rows": rows, "note": more or ("" if boxes else "nothing found")}
    if isinstance(prediction.get("text"), str):
        note = f"score {words.ratio(prediction['score'])}" if "score" in prediction else ""
        return {
            "kind": "text",
            "text": words.printable(prediction["text"])[:_MAX_TEXT],
            "note": note,
        }
    if isinstance(prediction.get("segments"), list):
        spans = [f"{s['start_s']:.2f} – {s['end_s']:.2f} s" for s in prediction["segments"]]
        return {"kind": "text", "text": ", ".join(spans[:_MAX_ENTRIES]) or "nothing", "note": ""}
    values = _vector(prediction)
    if values is not None:
        return {"kind": "vector", "values": values, "note": f"{len(values)} numbers"}
    written = json.dumps(prediction, ensure_ascii=False, sort_keys=True)
    return {"kind": "text", "text": words.shorten(written, _MAX_TEXT), "note": ""}


def _scored(entry: Mapping[str, Any]) -> dict[str, Any]:
    label = entry.get("label")
    if label is None:
        label = entry.get("index", "text")
    score = entry.get("score")
    return {
        "label": words.shorten(str(label), 40),
        "score": None if score is None else words.ratio(float(score)),
        "share": 0.0 if score is None else max(0.0, min(1.0, float(score))) * 100,
    }


def _vector(prediction: Mapping[str, Any]) -> list[float] | None:
    if isinstance(prediction.get("embedding"), list):
        return [float(v) for v in prediction["embedding"]]
    if isinstance(prediction.get("outputs"), dict):
        return [float(v) for output in prediction["outputs"].values() for v in output["values"]]
    return None


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) != len(b):
        return math.nan
    norm = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else math.nan


def _size(preview: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of the whole picture in pixels, which boxes are written in."""
    width, height = preview.get("width"), preview.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _outlines(prediction: Mapping[str, Any]) -> list[str]:
    """Corners of boxes and quads as SVG's ``points``."""
    found = []
    for box in (prediction.get("boxes") or [])[:_MAX_BOXES]:
        corners = box.get("quad")
        if corners is None and "box" in box:
            left, top, right, bottom = box["box"]
            corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        if corners:
            found.append(" ".join(f"{float(x):g},{float(y):g}" for x, y in corners))
    return found


def _curve(prediction: Mapping[str, Any]) -> str:
    """Probabilities over time as SVG's ``points`` on a field of 100 × 30, 1 at the top."""
    frames = prediction.get("frames")
    if not isinstance(frames, list) or len(frames) < 2:  # noqa: PLR2004 - a line has two ends
        return ""
    step = 100 / (len(frames) - 1)
    return " ".join(f"{i * step:.2f},{30 - 30 * float(p):.2f}" for i, p in enumerate(frames))
