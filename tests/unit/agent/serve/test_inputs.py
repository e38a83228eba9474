from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.agent.flows import Flow, run_flow
from edgekit.agent.inputs import Sample, create_input, input_names
from edgekit.agent.inputs.camera import command_for
from edgekit.agent.inputs.child import Restarts, chunks
from edgekit.agent.inputs.mjpeg import MjpegFrames, RawFrames
from edgekit.agent.inputs.stdin import StandardInput
from edgekit.runtime import pictures, sounds
from edgekit.wire.errors import ConfigError, MissingToolError

CLOCK = time.monotonic


def jpeg(value: int = 90, *, thumbnail: bool = False, **more: Any) -> bytes:
    random = np.random.default_rng(value)
    image = Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8))
    out = io.BytesIO()
    if thumbnail:
        inner = io.BytesIO()
        image.resize((16, 12)).save(inner, "JPEG")
        more["exif"] = b"Exif\0\0" + inner.getvalue()
    image.save(out, "JPEG", **more)
    return out.getvalue()


def test_every_file_is_an_input_and_a_wrong_name_is_guessed() -> None:
    assert input_names() == ["camera", "folder", "microphone", "mqtt", "stdin"]
    with pytest.raises(ConfigError) as caught:
        create_input("folders", {}, CLOCK)
    assert caught.value.hint == "did you mean folder?"
    with pytest.raises(ConfigError, match='no option "pth"'):
        create_input("folder", {"path": ".", "pth": 1}, CLOCK)


# The watched folder.


class Seen:
    """Runs an input in a thread; answers every sample as it is told."""

    def __init__(self, source: Any, ok: Any = lambda _sample: True) -> None:
        self.samples: list[Sample] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source, ok))
        self._thread.start()

    def _run(self, source: Any, ok: Any) -> None:
        for sample in source.samples(self.stop):
            self.samples.append(sample)
            sample.done(ok(sample))

    def wait(self, count: int, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while len(self.samples) < count:
            assert time.monotonic() < end, f"{len(self.samples)} of {count} samples"
            time.sleep(0.01)

    def end(self) -> None:
        self.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Any]:
    made: list[Seen] = []

    def start(ok: Any = lambda _sample: True, **options: Any) -> Seen:
        source = create_input("folder", {"path": str(tmp_path), "poll_s": 0.03, **options}, CLOCK)
        made.append(Seen(source, ok))
        return made[-1]

    yield start
    for seen in made:
        seen.end()


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def settle(folder: Path, expected: list[str]) -> None:
    end = time.monotonic() + 5
    while listing(folder) != expected and time.monotonic() < end:
        time.sleep(0.01)
    assert listing(folder) == expected


def test_files_are_taken_and_moved(tmp_path: Path, watch: Any) -> None:
    (tmp_path / "a.txt").write_bytes(b"A")
    seen = watch(ok=lambda sample: sample.data != b"bad")
    seen.wait(1)
    (tmp_path / "b.txt").write_bytes(b"bad")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "c.txt.part").write_bytes(b"x")
    (tmp_path / "link.txt").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    seen.wait(2)
    time.sleep(0.2)
    assert [(s.name, s.data) for s in seen.samples] == [("a.txt", b"A"), ("b.txt", b"bad")]
    settle(
        tmp_path,
        [".hidden", "c.txt.part", "done/a.txt", "failed/b.txt", "link.txt", "pipe"],
    )


def test_a_file_that_still_grows_is_left_alone(tmp_path: Path, watch: Any) -> None:
    seen = watch()
    with (tmp_path / "slow.txt").open("wb") as file:
        for _ in range(20):
            file.write(b"x" * 1000)
            file.flush()
            time.sleep(0.02)
            assert seen.samples == []
    seen.wait(1)
    assert len(seen.samples[0].data) == 20_000


def test_the_same_name_twice_keeps_both(tmp_path: Path, watch: Any) -> None:
    seen = watch()
    for index in range(3):
        (tmp_path / "a.txt").write_text(str(index))
        seen.wait(index + 1)
        end = time.monotonic() + 5
        while (tmp_path / "a.txt").exists() and time.monotonic() < end:
            time.sleep(0.01)
    settle(tmp_path, ["done/a-1.txt", "done/a-2.txt", "done/a.txt"])


def test_deleting_and_too_large_files(tmp_path: Path, watch: Any) -> None:
    seen = watch(after="delete", max_bytes=10)
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(b"x" * 11)
    seen.wait(1)
    settle(tmp_path, ["failed/large"])


def test_a_file_that_cannot_be_moved_is_not_taken_again(tmp_path: Path, watch: Any) -> None:
    (tmp_path / "done").write_bytes(b"a file where the folder should be")
    seen = watch()
    (tmp_path / "a.txt").write_bytes(b"x")
    seen.wait(2)  # "done" itself is a sample, too
    time.sleep(0.3)
    assert sorted(s.name for s in seen.samples) == ["a.txt", "done"]


def test_a_file_that_cannot_be_deleted_does_not_end_the_watch(
    tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    seen = watch(after="delete")
    (tmp_path / "a.txt").write_bytes(b"A")
    seen.wait(1)
    (tmp_path / "b.txt").write_bytes(b"B")
    seen.wait(2)
    assert [s.name for s in seen.samples] == ["a.txt", "b.txt"]


def test_a_link_leads_no_file_out_of_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "done").symlink_to(elsewhere)
    (folder / "a.txt").write_bytes(b"A")
    seen = Seen(create_input("folder", {"path": str(folder), "poll_s": 0.03}, CLOCK))
    seen.wait(1)
    seen.end()
    assert list(elsewhere.iterdir()) == []
    assert (folder / "a.txt").exists()


# A program that is read.


def test_a_camera_that_the_system_cannot_start_for_a_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    popen, failures = subprocess.Popen, [OSError(errno.EAGAIN, "no"), OSError(errno.ENOMEM, "no")]

    def start(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return popen(*args, **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    stop = threading.Event()
    restarts = Restarts(first_s=0.01)
    for chunk in chunks(["printf", "a picture"], restarts, CLOCK, stop):
        if chunk:
            assert chunk == b"a picture"
            stop.set()
    assert not failures


def test_a_source_that_nobody_reads_any_more_leaves_no_program_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; printf '\\377\\330\\377\\331'; exec sleep 600"
    stop = threading.Event()
    options = {"source": "command", "command": ["sh", "-c", script]}
    for _ in create_input("camera", options, CLOCK).samples(stop):
        stop.set()
        break
    assert not Path("/proc", pid.read_text().strip()).exists()


# Frames.


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("more", [{}, {"thumbnail": True}, {"progressive": True}])
def test_frames_come_out_as_they_went_in(size: int, more: dict[str, Any]) -> None:
    frames = [jpeg(value, **more) for value in range(4)]
    stream = b"noise" + b"".join(frames[:2]) + b"\xff\xd8between" + b"".join(frames[2:])
    parser = MjpegFrames(1 << 20)
    found = [
        frame
        for start in range(0, len(stream), size)
        for frame in parser.feed(stream[start : start + size])
    ]
    assert found == frames


def test_a_frame_without_an_end_is_of_bounded_size() -> None:
    parser = MjpegFrames(10_000)
    head = jpeg()[:-2]
    for _ in range(200):
        assert list(parser.feed(head[:600] + b"\x00" * 600)) == []
    assert len(parser._data) < 30_000
    assert parser.skipped_bytes > 100_000
    assert list(parser.feed(b"\xff\xd9" * 5 + jpeg(3)))[-1:] == [jpeg(3)]


def test_random_bytes_are_no_frames() -> None:
    random = np.random.default_rng(4)
    parser = MjpegFrames(1 << 16)
    for _ in range(300):
        list(parser.feed(random.integers(0, 256, 1000, np.uint8).tobytes()))
        list(parser.feed(b"\xff\xd8\xff" + random.integers(0, 256, 20, np.uint8).tobytes()))
    assert len(parser._data) <= (1 << 16) + 2000


def test_raw_frames_are_pictures() -> None:
    image = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 3), np.uint8)
    parser = RawFrames(8, 6, 3)
    data = image.tobytes()
    found = [
        f for start in range(0, len(data), 100) for f in parser.feed(data[start : start + 100])
    ]
    assert [np.array_equal(pictures.decode(f), i) for f, i in zip(found, image, strict=True)] == [
        True,
        True,
    ]


# Programs that write to a pipe.

CAMERA = """
import io, sys, time
from PIL import Image
count, pause_s, how = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
for index in range(count):
    out = io.BytesIO()
    Image.new("RGB", (32, 24), (index * 20 % 256, 0, 0)).save(out, "JPEG")
    sys.stdout.buffer.write(out.getvalue())
    sys.stdout.buffer.flush()
    time.sleep(pause_s)
if how == "hang":
    time.sleep(60)
sys.exit(3)
"""


def camera(count: int, pause_s: float, how: str = "end", **more: Any) -> Any:
    command = [sys.executable, "-c", CAMERA, str(count), str(pause_s), how]
    return create_input("camera", {"source": "command", "command": command, **more}, CLOCK)


def test_a_camera_that_ends_is_started_again(caplog) -> None:
    source = camera(3, 0.05)
    seen = Seen(source)
    seen.wait(7, 20)
    seen.end()
    assert all(pictures.decode(s.data).shape == (24, 32, 3) for s in seen.samples)
    assert "exit 3" in caplog.text


def test_a_camera_that_hangs_is_started_again() -> None:
    seen = Seen(camera(2, 0.0, "hang", stall_s=1.0))
    seen.wait(3, 20)
    seen.end()


def test_a_slow_model_gets_the_newest_picture() -> None:
    source = camera(40, 0.01, "hang")
    reds: list[int] = []
    stop = threading.Event()
    for sample in source.samples(stop):
        reds.append(int(pictures.decode(sample.data)[0, 0, 0]))
        time.sleep(0.15)
        if source.seen >= 40:
            stop.set()
    assert source.dropped > 10
    assert len(reds) < 20


def test_a_camera_leaves_no_process_behind() -> None:
    seen = Seen(camera(1000, 0.01))
    seen.wait(2)
    children = [p for p in _children() if b"PIL" in p[1]]
    assert children
    seen.end()
    time.sleep(0.2)
    assert not {p[0] for p in children} & {p[0] for p in _children()}


def _children() -> list[tuple[int, bytes]]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == os.getpid():
                found.append((int(place.name), (place / "cmdline").read_bytes()))
        except OSError:
            continue
    return found


def test_a_missing_program_is_said() -> None:
    source = create_input("camera", {"source": "command", "command": ["no-such-camera"]}, CLOCK)
    with pytest.raises(MissingToolError, match="no-such-camera cannot be started"):
        list(source.samples(threading.Event()))


@pytest.mark.parametrize(
    ("source", "device", "program"),
    [
        ("rpicam", "", "rpicam-vid"),
        ("v4l2", "/dev/video2", "v4l2-ctl"),
        ("ffmpeg", "rtsp://cam/1", "ffmpeg"),
    ],
)
def test_commands_for_cameras(source: str, device: str, program: str) -> None:
    command = command_for(source, device=device, width=320, height=240, fps=5)
    assert command[0] == program
    assert any("320" in part for part in command)
    assert not device or device in command


@pytest.mark.parametrize(
    "options",
    [{"source": "command"}, {"command": ["x"]}, {"device": "-x"}, {"width": 0}, {"format": "h264"}],
)
def test_wrong_camera_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create_input("camera", options, CLOCK)


def test_a_microphone_gives_windows_of_sound() -> None:
    program = (
        "import struct, sys, time\n"
        "for n in range(8000): sys.stdout.buffer.write(struct.pack('<h', n))\n"
        "sys.stdout.buffer.flush(); time.sleep(60)\n"
    )
    options = {"command": [sys.executable, "-c", program], "rate_hz": 8000, "window_s": 0.25}
    seen = Seen(create_input("microphone", options, CLOCK))
    seen.wait(4)
    seen.end()
    windows = [sounds.decode(s.data, rate_hz=8000) for s in seen.samples]
    assert [len(w) for w in windows] == [2000] * 4
    assert np.allclose(np.concatenate(windows) * 32768, np.arange(8000))
    with wave.open(io.BytesIO(seen.samples[0].data)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 8000, 2)


# Standard input.


def piped(data: bytes, **more: Any) -> list[bytes]:
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write, data), os.close(write)))
    writer.start()
    source = StandardInput(read, more.get("by_line", True), more.get("max_bytes", 1000))
    found = [s.data for s in source.samples(threading.Event())]
    writer.join()
    os.close(read)
    return found


def test_lines_are_samples() -> None:
    assert piped(b"one\n\n two \r\nthree") == [b"one", b"two", b"three"]


def test_a_long_line_is_cut_off_and_the_next_is_whole() -> None:
    assert piped(b"x" * 5000 + b"\nnext\n", max_bytes=10) == [b"x" * 10, b"next"]


def test_the_whole_is_one_sample() -> None:
    assert piped(b"a\nb\n", by_line=False) == [b"a\nb\n"]
    assert piped(b"x" * 5000, by_line=False, max_bytes=10) == [b"x" * 10]


# A flow.


class Kept:
    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def send(self, result: dict[str, Any]) -> None:
        self.results.append(result)

    def close(self) -> None:
        pass


class Broken(Kept):
    def send(self, _result: dict[str, Any]) -> None:
        raise OSError("this output is broken")


class Given:
    def __init__(self, *data: bytes) -> None:
        self.told: list[bool] = []
        self._data = data

    def samples(self, _stop: threading.Event) -> Iterator[Sample]:
        for index, data in enumerate(self._data):
            yield Sample(data, f"s{index}", self.told.append)


def test_a_flow_sends_results_and_errors_to_every_output(engine, echo, caplog) -> None:
    echo()
    source, kept = Given(b"one", b"bad", b"two"), Kept()
    flow = Flow(source, "echo", (Broken(), kept))
    assert run_flow(flow, engine, threading.Event(), lambda: 12.3456) == 3
    one, bad, two = kept.results
    assert (one["model"], one["name"], one["time_s"]) == ("echo", "s0", 12.346)
    assert one["prediction"]["text"] == "one"
    assert one["latency_ms"] > 0
    assert bad["error"] == "that is bad"
    assert "prediction" not in bad
    assert two["prediction"]["text"] == "two"
    assert source.told == [True, False, True]
    assert "this output is broken" in caplog.text


class Closing(Kept):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.closed = False
        self._fails = fails

    def close(self) -> None:
        self.closed = True
        if self._fails:
            raise OSError("it does not close")


class Ending(Given):
    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        yield from super().samples(stop)
        raise MissingToolError("the camera's program has gone")


def test_the_outputs_of_a_flow_are_closed_however_it_ends(engine, echo) -> None:
    echo()
    outputs = (Closing(fails=True), Closing())
    run_flow(Flow(Given(b"one"), "echo", outputs), engine, threading.Event(), time.time)
    assert [output.closed for output in outputs] == [True, True]
    last = Closing()
    with pytest.raises(MissingToolError):
        run_flow(Flow(Ending(b"one"), "echo", (last,)), engine, threading.Event(), time.time)
    assert last.closed
    assert len(last.results) == 1


def test_samples_wait_for_a_model_that_does_not_serve_yet(engine, echo, caplog) -> None:
    source, kept, stop = Given(b"one", b"two"), Kept(), threading.Event()
    caplog.set_level("INFO", logger="edgekit")
    thread = threading.Thread(
        target=run_flow, args=(Flow(source, "echo", (kept,)), engine, stop, time.time)
    )
    thread.start()
    time.sleep(0.3)
    assert source.told == []
    echo()
    thread.join(10)
    assert not thread.is_alive()
    assert [result["prediction"]["text"] for result in kept.results] == ["one", "two"]
    assert source.told == [True, True]
    assert caplog.text.count('waits for the model "echo"') == 1


def test_a_flow_that_waits_for_its_model_ends_when_it_is_told_to(engine) -> None:
    source, stop = Given(b"one"), threading.Event()
    thread = threading.Thread(
        target=run_flow, args=(Flow(source, "echo", ()), engine, stop, time.time)
    )
    thread.start()
    time.sleep(0.1)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert source.told == []


def test_a_prediction_that_json_has_no_form_for_is_an_error(engine, echo) -> None:
    echo().version = float("nan")  # type: ignore[assignment]
    source, kept = Given(b"one"), Kept()
    run_flow(Flow(source, "echo", (kept,)), engine, threading.Event(), time.time)
    (result,) = kept.results
    assert "prediction" not in result
    assert result["error"] == "the prediction is not finite"
    assert source.told == [False]
