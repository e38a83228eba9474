"""A camera: a program that writes pictures to its standard output.

Options:
    source: ``"rpicam"`` (Raspberry Pi), ``"v4l2"`` (v4l2-ctl), ``"ffmpeg"`` (a device or a URL) or
        ``"command"``.
    command: For ``"command"``: the program and its arguments, as a list.
    device: For ``"v4l2"`` and ``"ffmpeg"``: default ``/dev/video0``.
    width, height: In pixels, default 640 and 480.
    fps: Pictures a second, default 5.
    format: What ``command`` writes: ``"mjpeg"`` (default), ``"rgb24"`` or ``"grey"``.
    max_bytes: A larger picture is skipped, default 8 MiB.
    stall_s: A camera that is silent for so long is started again, default 10.

Only the newest picture waits: a model that is slower than the camera gets the present, not a queue
of the past. A program that ends is started again, after 0.5 s, then twice as long up to 30 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.agent.inputs import MAX_SAMPLE_BYTES, Sample
from edgekit.agent.inputs.child import Restarts, chunks
from edgekit.agent.inputs.latest import Latest
from edgekit.agent.inputs.mjpeg import MjpegFrames, RawFrames
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

_CHANNELS = {"rgb24": 3, "grey": 1}
_MAX_SIDE = 8192


@dataclass
class Camera:
    """The input; see the module's text for the options.

    Attributes:
        frames: Pictures seen.
        dropped: Pictures that a newer one replaced.
    """

    command: tuple[str, ...]
    make_parser: Callable[[], MjpegFrames | RawFrames]
    restarts: Restarts
    clock: Callable[[], float]
    frames: int = 0
    _latest: Latest[bytes] = field(default_factory=lambda: Latest(1))

    @property
    def dropped(self) -> int:
        """Pictures that a newer one replaced before the model was ready."""
        return self._latest.dropped

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield the newest picture whenever the last one is dealt with.

        Raises:
            MissingToolError: The camera's program is not installed.
        """
        trouble: list[BaseException] = []
        latest = self._latest = Latest(1)

        def read() -> None:
            try:
                self._read(latest, stop)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the other thread
                trouble.append(error)
            finally:
                latest.close()

        reader = threading.Thread(target=read, name="camera", daemon=True)
        reader.start()
        number = 0
        while not latest.ended and not stop.is_set():
            frame = latest.take(0.5)
            if frame is not None:
                number += 1
                yield Sample(frame, f"frame {number}")
        reader.join(5)
        if trouble:
            raise trouble[0]

    def _read(self, latest: Latest[bytes], stop: threading.Event) -> None:
        parser = self.make_parser()
        for chunk in chunks(self.command, self.restarts, self.clock, stop):
            if chunk is None:
                parser = self.make_parser()  # half a picture of the last program is worth nothing
                continue
            for frame in parser.feed(chunk):
                self.frames += 1
                latest.put(frame)


def command_for(
    source: str, *, device: str, width: int, height: int, fps: float
) -> tuple[str, ...]:
    """Return the program that writes a camera's pictures as MJPEG.

    Args:
        source: ``rpicam``, ``v4l2`` or ``ffmpeg``.
        device: A device or, for ffmpeg, a URL.
        width: In pixels.
        height: In pixels.
        fps: Pictures a second.
    """
    rate = f"{fps:g}"
    if source == "rpicam":
        size = ("--width", str(width), "--height", str(height), "--framerate", rate)
        return ("rpicam-vid", "-n", "-t", "0", "--codec", "mjpeg", *size, "-o", "-")
    if source == "v4l2":
        shape = f"width={width},height={height},pixelformat=MJPG"
        stream = ("--stream-mmap", "--stream-to=-", f"--set-parm={rate}")
        return ("v4l2-ctl", "-d", device, f"--set-fmt-video={shape}", *stream)
    kind = ("-f", "v4l2") if device.startswith("/dev/") else ()
    scale = f"fps={rate},scale={width}:{height}"
    head = ("ffmpeg", "-nostdin", "-loglevel", "error")
    return (*head, *kind, "-i", device, "-vf", scale, "-f", "mjpeg", "-q:v", "4", "-")


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> Camera:
    """Make the input; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "input camera")
    source = opts.choice("source", ("rpicam", "v4l2", "ffmpeg", "command"), "rpicam")
    width = int(opts.within("width", 1, _MAX_SIDE, 640))
    height = int(opts.within("height", 1, _MAX_SIDE, 480))
    kind = opts.choice("format", ("mjpeg", "rgb24", "grey"), "mjpeg")
    max_bytes = int(opts.within("max_bytes", 1000, MAX_SAMPLE_BYTES, 8 << 20))
    device = opts.get("device", str, "/dev/video0")
    fps = opts.within("fps", 0.01, 1000, 5)
    given = opts.strings("command", ())
    restarts = Restarts(stall_s=opts.within("stall_s", 0.1, 3600, 10))
    opts.close()
    if (source == "command") != bool(given) or (source != "command" and kind != "mjpeg"):
        raise ConfigError('input camera: "command" and "format" belong to source = "command"')
    if device.startswith("-"):
        raise ConfigError(f'input camera: "device" is {device}')
    command = given or command_for(source, device=device, width=width, height=height, fps=fps)

    def make_parser() -> MjpegFrames | RawFrames:
        if kind == "mjpeg":
            return MjpegFrames(max_bytes)
        return RawFrames(width, height, _CHANNELS[kind])

    return Camera(tuple(command), make_parser, restarts, clock)
