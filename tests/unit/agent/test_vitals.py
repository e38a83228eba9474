"""Vitals: boards recorded as text, and what each cannot measure is absent."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edgekit.agent.vitals import METRICS, Counters, read, reader
from edgekit.wire.values import check_value

BOARDS = Path(__file__).with_name("boards")
UNITS = re.compile(r"(_share|_shares|_bytes|_bytes_per_s|_per_s|_s|_c|_mhz|_bits|_1m|_boot)$")
WITHOUT_UNIT = {
    "under_voltage",
    "frequency_capped",
    "throttled",
    "soft_temp_limit",
    "process_threads",
    "process_files",
}


def plant(root: Path, board: str) -> Path:
    """Make the tree of a recorded board."""
    for line in (BOARDS / f"{board}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, text = line.partition("\t")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n", encoding="utf-8")
    return root


class Nothing:
    """A psutil that can measure nothing here."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)


class FakeTimes(tuple):
    __slots__ = ()
    user, system, idle, iowait = (property(lambda self, i=i: self[i]) for i in range(4))


class FakeSystem:
    """A psutil that says what it is told.

    Args:
        scale: How far the counters have come.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def cpu_times(self, percpu: bool = False) -> list[FakeTimes]:  # noqa: ARG002 - psutil's form
        return [FakeTimes((s * self.scale, 0.0, (1 - s) * self.scale, 0.0)) for s in (0.25, 0.75)]

    def virtual_memory(self) -> SimpleNamespace:
        return SimpleNamespace(total=1000, available=400)

    def swap_memory(self) -> SimpleNamespace:
        return SimpleNamespace(total=0, used=0)

    def disk_usage(self, path: str) -> SimpleNamespace:  # noqa: ARG002
        return SimpleNamespace(total=500, free=50)

    def disk_io_counters(self) -> None:
        return None

    def net_io_counters(self, pernic: bool = False) -> dict[str, SimpleNamespace]:  # noqa: ARG002
        one = {"bytes_recv": 100 * self.scale, "bytes_sent": 10 * self.scale}
        none = dict.fromkeys(("errin", "errout", "dropin", "dropout"), 0)
        return {name: SimpleNamespace(**one, **none) for name in ("lo", "eth0", "wlan0")}

    def Process(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(
            memory_info=lambda: SimpleNamespace(rss=30_000_000),
            num_threads=lambda: 4,
            cpu_times=lambda: SimpleNamespace(user=0.004 * self.scale, system=0.001 * self.scale),
            num_fds=lambda: 11,
        )


def values_of(root: Path, system: object = None, before: Counters | None = None) -> dict:
    values, _ = read(
        before, system=system or Nothing(), root=root, data_folder=root, monotonic_s=10.0
    )
    return values


def test_a_raspberry_pi_4(tmp_path: Path) -> None:
    assert values_of(plant(tmp_path, "raspberry-pi-4")) == {
        "load_1m": 0.42,
        "uptime_s": 86400.12,
        "temp_c": 61.8,
        "temps_c": {"cpu-thermal": 61.8},
        "clock_mhz": 1800,
        "clock_core_mhz": [1800, 1800, 1800, 600],
        "throttle_bits": 0x50005,
        "under_voltage": True,
        "frequency_capped": False,
        "throttled": True,
        "soft_temp_limit": False,
        "under_voltage_since_boot": True,
        "throttled_since_boot": True,
    }


def test_a_pi_without_get_throttled_knows_its_voltage_and_no_more(tmp_path: Path) -> None:
    assert values_of(plant(tmp_path, "mainline-pi")) == {
        "temp_c": 48.3,
        "temps_c": {"cpu-thermal": 48.3},
        "under_voltage": False,
    }


@pytest.mark.parametrize("place", ["soc@107c000000:firmware", "soc/soc@0:firmware"])
def test_the_firmware_is_found_under_other_names(tmp_path: Path, place: str) -> None:
    path = tmp_path / "sys" / "devices" / "platform" / place / "get_throttled"
    path.parent.mkdir(parents=True)
    path.write_text("0x8\n")
    assert values_of(tmp_path)["soft_temp_limit"] is True


def test_an_rk3588(tmp_path: Path) -> None:
    values = values_of(plant(tmp_path, "rk3588"))
    assert values["temp_c"] == 84.1
    assert "gpu-thermal" not in values["temps_c"]
    assert values["clock_core_mhz"] == [1800, 2256, 408]
    assert values["cooling_share"] == 0.25
    assert not [name for name in values if "throttle" in name or "voltage" in name]


def test_an_empty_board_has_no_values(tmp_path: Path) -> None:
    assert values_of(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "no", "-", "99999999999999999999999", "\xff\xfe", "nan"])
def test_what_cannot_be_read_is_absent(tmp_path: Path, text: str) -> None:
    for name in ("raspberry-pi-4", "rk3588"):
        root = plant(tmp_path / name, name)
        for path in root.rglob("*"):
            if path.is_file() and path.name not in {"type", "name"}:
                path.write_text(text, encoding="utf-8")
        assert values_of(root) == {}


def test_rates_need_two_readings(tmp_path: Path) -> None:
    first, counters = read(
        None, system=FakeSystem(100), root=tmp_path, data_folder=tmp_path, monotonic_s=5.0
    )
    assert not [name for name in first if name.endswith("_per_s") or "cpu" in name]
    assert values_of(tmp_path, FakeSystem(200), counters) == {
        "memory_total_bytes": 1000,
        "memory_available_bytes": 400,
        "disk_total_bytes": 500,
        "disk_free_bytes": 50,
        "rss_bytes": 30_000_000,
        "process_threads": 4,
        "process_files": 11,
        "cpu_share": 0.5,
        "cpu_core_shares": [0.25, 0.75],
        "network_received_bytes_per_s": 4000,
        "network_sent_bytes_per_s": 400,
        "network_errors_per_s": 0,
        "process_cpu_share": 0.1,
    }


def test_a_counter_that_went_back_is_no_rate(tmp_path: Path) -> None:
    _, counters = read(
        None, system=FakeSystem(200), root=tmp_path, data_folder=tmp_path, monotonic_s=5.0
    )
    values = values_of(tmp_path, FakeSystem(100), counters)
    rates = {name for name in values if name.endswith("_per_s") or "cpu" in name}
    assert rates == {"network_errors_per_s"}


def test_this_host_measures_only_what_is_listed_and_within_reason(tmp_path: Path) -> None:
    read_next = reader(psutil, Path("/"), tmp_path, time.monotonic)
    read_next()
    time.sleep(0.1)
    values = read_next()
    check_value(values, 7, "vitals")
    assert {"cpu_share", "memory_total_bytes", "disk_free_bytes", "rss_bytes"} <= set(values)
    assert set(values) <= {metric.name for metric in METRICS}
    assert 0 <= values["cpu_share"] <= 1
    assert 5e6 < values["rss_bytes"] < 2e9


def test_every_name_has_its_unit() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert [n for n in names if not UNITS.search(n) and n not in WITHOUT_UNIT] == []
