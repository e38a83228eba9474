"""How the board is: CPU, memory, disk, network, temperature, clock, throttling, and this process.

:data:`METRICS` is the whole list; ``docs/mqtt.md`` shows it, and a test holds the two together.
What a board cannot measure is absent: nothing invents a zero. A rate needs two readings, so the
first one has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekit.wire.canonical import Json

MAX_CORES = 64
MAX_ZONES = 16
_MAX_FILE_BYTES = 4096
# 0 K to well beyond the melting point of solder: others are a sensor's way to say "no value".
_TEMP_C = (-60.0, 200.0)
_MAX_KHZ = 20_000_000
_MAX_STATES = 1000
_MAX_SECONDS = 1e10


@dataclass(frozen=True)
class Metric:
    """One value of a sample.

    Attributes:
        name: With its unit.
        meaning: For people.
        source: Where it comes from.
    """

    name: str
    meaning: str
    source: str


METRICS = (
    Metric("cpu_share", "busy time of all cores since the last sample, 0..1", "/proc/stat"),
    Metric("cpu_core_shares", "the same, core by core", "/proc/stat"),
    Metric("load_1m", "processes that run or wait to, mean of a minute", "/proc/loadavg"),
    Metric("memory_total_bytes", "physical memory", "/proc/meminfo"),
    Metric("memory_available_bytes", "what a new process could have", "/proc/meminfo"),
    Metric("swap_used_bytes", "swapped out; absent without swap", "/proc/meminfo"),
    Metric("disk_total_bytes", "file system of the agent's data", "statvfs"),
    Metric("disk_free_bytes", "of it, free for the agent", "statvfs"),
    Metric("disk_read_bytes_per_s", "all disks", "/proc/diskstats"),
    Metric("disk_written_bytes_per_s", "all disks", "/proc/diskstats"),
    Metric("network_received_bytes_per_s", "all interfaces but lo", "/proc/net/dev"),
    Metric("network_sent_bytes_per_s", "all interfaces but lo", "/proc/net/dev"),
    Metric("network_errors_per_s", "errors and drops, both ways", "/proc/net/dev"),
    Metric("temp_c", "the hottest zone", "/sys/class/thermal"),
    Metric("temps_c", "each zone by its type", "/sys/class/thermal"),
    Metric("clock_mhz", "the fastest core's clock now", "cpufreq"),
    Metric("clock_core_mhz", "each core's clock now", "cpufreq"),
    Metric(
        "cooling_share", "how far the kernel slows the CPU for its heat, 0..1", "cooling_device"
    ),
    Metric(
        "throttle_bits", "Raspberry Pi's word, see the firmware's documentation", "get_throttled"
    ),
    Metric("under_voltage", "now", "get_throttled or hwmon rpi_volt"),
    Metric("frequency_capped", "now, by the firmware", "get_throttled"),
    Metric("throttled", "now, by the firmware", "get_throttled"),
    Metric("soft_temp_limit", "now, by the firmware", "get_throttled"),
    Metric("under_voltage_since_boot", "at least once", "get_throttled"),
    Metric("throttled_since_boot", "at least once", "get_throttled"),
    Metric("uptime_s", "since the kernel started", "/proc/uptime"),
    Metric("rss_bytes", "resident memory of the agent", "/proc/self"),
    Metric("process_cpu_share", "of one core, the agent since the last sample", "/proc/self"),
    Metric("process_threads", "the agent's", "/proc/self"),
    Metric("process_files", "the agent's open file handles", "/proc/self"),
)

# Bits of the firmware's get_throttled; raspberrypi.com/documentation/computers/os.html.
_THROTTLE_BITS = {
    0: "under_voltage",
    1: "frequency_capped",
    2: "throttled",
    3: "soft_temp_limit",
    16: "under_voltage_since_boot",
    18: "throttled_since_boot",
}


class System(Protocol):
    """What is used of psutil; the module itself is one."""

    def cpu_times(self, percpu: bool = ...) -> Any: ...  # noqa: ANN401, D102 - psutil's own types
    def virtual_memory(self) -> Any: ...  # noqa: ANN401, D102
    def swap_memory(self) -> Any: ...  # noqa: ANN401, D102
    def disk_usage(self, path: str) -> Any: ...  # noqa: ANN401, D102
    def disk_io_counters(self) -> Any: ...  # noqa: ANN401, D102
    def net_io_counters(self, pernic: bool = ...) -> Any: ...  # noqa: ANN401, D102
    def Process(self) -> Any: ...  # noqa: ANN401, D102, N802


@dataclass(frozen=True)
class Counters:
    """What a rate is the difference of; from one reading to the next.

    Attributes:
        at_s: Monotonic time in seconds.
        cores: Busy and all seconds of each core.
        totals: Name of a rate to its counter.
    """

    at_s: float
    cores: tuple[tuple[float, float], ...] = ()
    totals: Mapping[str, float] | None = None


def read(
    before: Counters | None,
    *,
    system: System,
    root: Path,
    data_folder: Path,
    monotonic_s: float,
) -> tuple[dict[str, Json], Counters]:
    """Measure everything that this board can measure.

    Args:
        before: Of the last reading; None for the first.
        system: psutil.
        root: ``/``; the tree that holds ``proc`` and ``sys``.
        data_folder: On the file system that counts.
        monotonic_s: Now, in seconds.

    Returns:
        The values by the names of :data:`METRICS`, and the counters for the next reading.
    """
    values: dict[str, Json] = {}
    cores: tuple[tuple[float, float], ...] = ()
    totals: dict[str, float] = {}
    for part in (_memory, _disk, _network, _process):
        # Each board lacks something else; psutil says so in many ways.
        with suppress(OSError, AttributeError, KeyError, ValueError, RuntimeError, TypeError):
            part(system, data_folder, values, totals)
    with suppress(OSError, AttributeError, ValueError, RuntimeError, IndexError):
        cores = tuple(_core_times(times) for times in system.cpu_times(percpu=True)[:MAX_CORES])
    _proc(root / "proc", values)
    _thermal(root / "sys" / "class" / "thermal", values)
    _clocks(root / "sys" / "devices" / "system" / "cpu", values)
    _throttling(root / "sys", values)
    after = Counters(monotonic_s, cores, totals)
    if before is not None:
        _rates(before, after, values)
    return values, after


def reader(
    system: System, root: Path, data_folder: Path, monotonic_s: Callable[[], float]
) -> Callable[[], dict[str, Json]]:
    """Return a function that reads, and remembers the counters from one call to the next.

    Args:
        system: psutil.
        root: ``/``.
        data_folder: On the file system that counts.
        monotonic_s: A clock in seconds that never jumps.
    """
    before: Counters | None = None

    def read_next() -> dict[str, Json]:
        nonlocal before
        values, before = read(
            before, system=system, root=root, data_folder=data_folder, monotonic_s=monotonic_s()
        )
        return values

    return read_next


Totals = dict[str, float]
Values = dict[str, Json]


def _memory(system: System, _folder: Path, values: Values, _totals: Totals) -> None:
    memory = system.virtual_memory()
    values["memory_total_bytes"] = int(memory.total)
    values["memory_available_bytes"] = int(memory.available)
    swap = system.swap_memory()
    if swap.total:
        values["swap_used_bytes"] = int(swap.used)


def _disk(system: System, folder: Path, values: Values, totals: Totals) -> None:
    usage = system.disk_usage(str(folder))
    values["disk_total_bytes"] = int(usage.total)
    values["disk_free_bytes"] = int(usage.free)
    counters = system.disk_io_counters()
    totals["disk_read_bytes_per_s"] = counters.read_bytes
    totals["disk_written_bytes_per_s"] = counters.write_bytes


def _network(system: System, _folder: Path, _values: Values, totals: Totals) -> None:
    every = [c for name, c in system.net_io_counters(pernic=True).items() if name != "lo"]
    if not every:
        return
    totals["network_received_bytes_per_s"] = sum(c.bytes_recv for c in every)
    totals["network_sent_bytes_per_s"] = sum(c.bytes_sent for c in every)
    totals["network_errors_per_s"] = sum(c.errin + c.errout + c.dropin + c.dropout for c in every)


def _process(system: System, _folder: Path, values: Values, totals: Totals) -> None:
    process = system.Process()
    values["rss_bytes"] = int(process.memory_info().rss)
    values["process_threads"] = int(process.num_threads())
    times = process.cpu_times()
    totals["process_cpu_share"] = times.user + times.system
    values["process_files"] = int(process.num_fds())


def _core_times(times: Any) -> tuple[float, float]:  # noqa: ANN401 - psutil's named tuple
    idle = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is counted in user's, too.
    every = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return every - idle, every


def _rates(before: Counters, after: Counters, values: Values) -> None:
    seconds = after.at_s - before.at_s
    if len(before.cores) == len(after.cores) and after.cores:
        # A core's counters may step back by a tick; that is not a busy time.
        busy = [max(b[0] - a[0], 0.0) for a, b in zip(before.cores, after.cores, strict=True)]
        every = [b[1] - a[1] for a, b in zip(before.cores, after.cores, strict=True)]
        if all(span > 0 for span in every):
            values["cpu_share"] = _share(sum(busy) / sum(every))
            values["cpu_core_shares"] = [
                _share(part / span) for part, span in zip(busy, every, strict=True)
            ]
    for name, total in (after.totals or {}).items():
        earlier = (before.totals or {}).get(name)
        # An interface that went away takes its counters along: then there is no rate.
        if earlier is not None and seconds > 0 and total >= earlier:
            rate = (total - earlier) / seconds
            values[name] = round(rate, 4) if name == "process_cpu_share" else round(rate)


def _share(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 4)


def _proc(proc: Path, values: Values) -> None:
    for name, file in (("load_1m", "loadavg"), ("uptime_s", "uptime")):
        text = _text(proc / file)
        with suppress(ValueError, IndexError):
            value = float((text or "").split()[0])
            if 0 <= value <= _MAX_SECONDS:
                values[name] = value


def _thermal(folder: Path, values: Values) -> None:
    zones: dict[str, Json] = {}
    for zone in _folders(folder, "thermal_zone*", MAX_ZONES):
        milli = _number(zone / "temp")
        if milli is None or not _TEMP_C[0] <= milli / 1000 <= _TEMP_C[1]:
            continue
        kind = (_text(zone / "type") or zone.name).strip()[:40] or zone.name
        zones[kind if kind not in zones else f"{kind}-{zone.name[12:]}"] = round(milli / 1000, 1)
    if zones:
        values["temps_c"] = zones
        values["temp_c"] = max(temp for temp in zones.values() if isinstance(temp, float))
    shares = []
    for device in _folders(folder, "cooling_device*", MAX_CORES):
        now, most = _number(device / "cur_state"), _number(device / "max_state")
        kind = _text(device / "type") or ""
        if "cpu" in kind and now is not None and most and 0 <= now <= most <= _MAX_STATES:
            shares.append(_share(now / most))
    if shares:
        values["cooling_share"] = max(shares)


def _clocks(folder: Path, values: Values) -> None:
    clocks = [
        khz / 1000
        for core in _folders(folder, "cpu[0-9]*", MAX_CORES)
        if (khz := _number(core / "cpufreq" / "scaling_cur_freq")) is not None
        and 0 < khz <= _MAX_KHZ
    ]
    if clocks:
        values["clock_mhz"] = round(max(clocks))
        values["clock_core_mhz"] = [round(clock) for clock in clocks]


def _throttling(sys: Path, values: Values) -> None:
    for pattern in ("soc/soc:firmware", "soc*/soc*firmware", "soc*firmware"):
        for folder in _folders(sys / "devices" / "platform", pattern, 4):
            text = _text(folder / "get_throttled")
            with suppress(ValueError, AttributeError):
                bits = int(text.strip(), 16) if text is not None else None
                if bits is not None and 0 <= bits < 1 << 32:
                    values["throttle_bits"] = bits
                    for bit, name in _THROTTLE_BITS.items():
                        values[name] = bool(bits >> bit & 1)
                    return
    for chip in _folders(sys / "class" / "hwmon", "hwmon*", MAX_ZONES):
        alarm = _number(chip / "in0_lcrit_alarm")
        if (_text(chip / "name") or "").strip() == "rpi_volt" and alarm in {0, 1}:
            values["under_voltage"] = bool(alarm)


def _folders(folder: Path, pattern: str, most: int) -> Sequence[Path]:
    def number(path: Path) -> tuple[int, str]:
        digits = path.name.lstrip("abcdefghijklmnopqrstuvwxyz_")
        return (int(digits) if digits.isdigit() else 0, path.name)

    try:
        found: Iterator[Path] = folder.glob(pattern)
        return sorted(found, key=number)[:most]
    except OSError:
        return ()


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
