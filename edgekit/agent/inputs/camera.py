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

One picture waits, the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit.agent.inputs import MAX_SAMPLE_BYTES
from edgekit.agent.inputs.child import Restarts
from edgekit.agent.inputs.live import LiveSource
from edgekit.agent.inputs.mjpeg import MjpegFrames, RawFrames
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

_CHANNELS = {"rgb24": 3, "grey": 1}
_MAX_SIDE = 8192


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


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> LiveSource:
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

    return LiveSource(tuple(command), make_parser, restarts, clock, "frame")
