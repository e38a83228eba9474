"""Cameras and microphones through the real programs: ffmpeg, and arecord on ALSA's own plugins."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.agent.inputs import Sample, create_input

pytestmark = pytest.mark.media
PATTERN = "testsrc=size=320x240:rate=25"
QUIET = ("ffmpeg", "-nostdin", "-loglevel", "error")
RATE_HZ = 16_000


@pytest.fixture
def take() -> Iterator[Callable[..., list[Sample]]]:
    """Take some samples from an input, then stop it as the agent does."""
    stops: list[threading.Event] = []

    def go(kind: str, options: dict[str, Any], count: int) -> list[Sample]:
        stop = threading.Event()
        stops.append(stop)
        source = create_input(kind, options, time.monotonic)
        found = []
        for sample in source.samples(stop):
            found.append(sample)
            if len(found) == count:
                stop.set()
        return found

    yield go
    for stop in stops:
        stop.set()


def picture(sample: Sample) -> Image.Image:
    with Image.open(io.BytesIO(sample.data)) as opened:
        return opened.convert("RGB")


def is_pattern(image: Image.Image) -> bool:
    """ffmpeg's test picture has eight bars: black, red, magenta, blue, …."""
    width = image.width
    seen = [image.getpixel((round(width * x), image.height // 12)) for x in (0.06, 0.19, 0.44)]
    wanted = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    return all(
        abs(a - b) < 60
        for one, other in zip(seen, wanted, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_a_film_is_scaled_and_started_again_at_its_end(take, tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    source = ("-f", "lavfi", "-i", f"{PATTERN}:duration=1", "-c:v", "mjpeg", "-q:v", "3")
    subprocess.run([*QUIET, *source, str(film)], check=True)
    options = {"source": "ffmpeg", "device": str(film), "width": 160, "height": 120, "fps": 5}
    # It has 5 pictures at 5 a second, and one waits: the 7th is of another run of ffmpeg.
    samples = take("camera", options, 7)
    assert [s.name for s in samples] == [f"frame {i}" for i in range(1, 8)]
    pictures = [picture(s) for s in samples]
    assert {p.size for p in pictures} == {(160, 120)}
    assert all(map(is_pattern, pictures))


def test_a_live_camera_gives_its_own_pictures(take) -> None:
    command = [*QUIET, "-re", "-f", "lavfi", "-i", PATTERN, "-f", "mjpeg", "-q:v", "3", "-"]
    samples = take("camera", {"source": "command", "command": command}, 5)
    assert all(is_pattern(picture(s)) for s in samples)
    assert len({s.data for s in samples}) == 5, "a clock runs in it"


@pytest.mark.parametrize(("form", "mode"), [("rgb24", "RGB"), ("grey", "L")])
def test_raw_pictures(take, form: str, mode: str) -> None:
    pixels = "gray" if form == "grey" else form
    source = ["-re", "-f", "lavfi", "-i", PATTERN, "-f", "rawvideo", "-pix_fmt", pixels, "-"]
    options = {"source": "command", "command": [*QUIET, *source], "format": form}
    (sample,) = take("camera", options | {"width": 320, "height": 240}, 1)
    with Image.open(io.BytesIO(sample.data)) as opened:
        assert (opened.size, opened.mode) == ((320, 240), mode)
    if mode == "RGB":
        assert is_pattern(picture(sample))


def test_a_microphone_through_arecord(take, tmp_path: Path, monkeypatch) -> None:
    tone = b"".join(
        struct.pack("<h", round(10_000 * math.sin(2 * math.pi * 440 * i / RATE_HZ)))
        for i in range(4 * RATE_HZ)
    )
    (tmp_path / "tone.raw").write_bytes(tone)
    (tmp_path / "asound.conf").write_text(
        "</usr/share/alsa/alsa.conf>\n"
        "pcm.tone { type file slave.pcm { type null } file /dev/null format raw\n"
        f"  infile {tmp_path / 'tone.raw'} }}\n"
    )
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    options = {"device": "tone", "rate_hz": RATE_HZ, "window_s": 0.5}
    (first,) = take("microphone", options, 1)
    with wave.open(io.BytesIO(first.data)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (RATE_HZ, 1, 2)
        heard = sound.readframes(RATE_HZ)
    assert len(heard) == RATE_HZ // 2 * 2
    # The device has no clock, so windows may be dropped, but each is a piece of the tone.
    assert heard in tone


def test_a_microphone_that_is_not_there_is_tried_again(take, caplog, monkeypatch) -> None:
    stop = threading.Event()
    source = create_input("microphone", {"device": "no-such-device"}, time.monotonic)
    thread = threading.Thread(target=lambda: list(source.samples(stop)))
    with caplog.at_level("WARNING"):
        thread.start()
        deadline = time.monotonic() + 20
        while "started again after 1.0 s" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert "arecord ended (exit 1)" in caplog.text
