"""Targets: families, overlays, origins, and what is refused."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.project import folders, packaged_folder
from edgekit.toolchain.targets import KEYS, list_targets, load_target
from edgekit.wire.errors import ConfigError

PACKAGED = packaged_folder("targets")
NAMES = list_targets([PACKAGED])
REQUIRED = {
    "generic-arm64",
    "rpi3",
    "rpi4",
    "rpi5",
    "rpi-zero-2w",
    "rk3566",
    "rk3588",
    "jetson-orin-nano",
    "imx8mp",
    "qcs6490",
    "x86-64-vnni",
    "x86-64-avx2",
    "riscv64",
    "armv7",
}

# Operations a cycle and core: (fp32, int8 by the kernel that onnxruntime has for it).
CORES = {
    "Cortex-A53": (8, 8),
    "Cortex-A72": (8, 8),
    "Cortex-A55": (8, 32),
    "Cortex-A76": (16, 64),
    "Cortex-A78": (16, 64),
    "Cortex-A78AE": (16, 64),
    "Cortex-A7": (2, 4),
    "SiFive U74": (2, 2),
    "Xeon (AVX512-VNNI)": (64, 256),
    "x86-64-v3 (AVX2)": (32, 128 / 3),
}


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_every_required_target_is_there():
    assert set(NAMES) >= REQUIRED


@pytest.mark.parametrize("name", NAMES)
def test_peaks_follow_from_cores_and_clock(name):
    cpu = load_target(name, [PACKAGED]).target.cpu
    fp32, int8 = CORES[cpu.core]
    giga_cycles = cpu.cores * cpu.clock_mhz / 1000
    assert cpu.fp32_gflops == pytest.approx(giga_cycles * fp32, rel=1e-3)
    assert cpu.int8_gops == pytest.approx(giga_cycles * int8, rel=1e-3)
    assert ("dotprod" in cpu.features) == (
        cpu.core.startswith(("Cortex-A55", "Cortex-A7"))
        and cpu.core not in ("Cortex-A7", "Cortex-A72")
    )


@pytest.mark.parametrize("path", sorted(PACKAGED.glob("*.toml")), ids=lambda p: p.stem)
def test_every_number_has_its_source_in_a_comment(path):
    """A number counts as sourced by a comment on its line, or in the block of lines above it."""
    previous_is_comment = False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if re.match(r"\w+ = [\d.]+", line):
            assert "#" in line or previous_is_comment, f"{path.name}:{number} has no source"
        previous_is_comment = line.startswith("#")


def test_only_x86_without_vnni_reduces_the_range():
    reduced = {n for n in NAMES if load_target(n, [PACKAGED]).target.quantization.reduce_range}
    assert reduced == {"x86-64-avx2"}


def test_refused_targets_say_why_and_pass_nothing_on(tmp_path):
    refused = {n for n in NAMES if load_target(n, [PACKAGED]).target.refused}
    assert refused == {"armv7", "riscv64"}
    own = write(tmp_path, "mine", 'title = "Mine"\nextends = "riscv64"\n')
    assert load_target("mine", [PACKAGED, own]).target.refused is None


def test_origins_name_the_file_and_line_of_each_value():
    resolved = load_target("rpi5", [PACKAGED])
    assert set(resolved.origins) == set(resolved.values)
    for key, origin in resolved.origins.items():
        file, _, line = origin.partition(":")
        text = (PACKAGED / Path(file).name).read_text().splitlines()[int(line) - 1]
        assert text.startswith(key.rpartition(".")[2] + " ")
    assert resolved.origins["cpu.core"].startswith("targets/rpi5.toml:")
    assert resolved.origins["runtime.opset_max"].startswith("targets/generic-arm64.toml:")


def test_a_project_overlays_key_by_key(tmp_path):
    own = write(tmp_path / "targets", "rpi5", "[memory]\nsize_mib = 8192\n")
    resolved = load_target("rpi5", folders(tmp_path, "targets"))
    assert resolved.target.memory.size_mib == 8192
    assert resolved.target.cpu.core == "Cortex-A76"
    assert resolved.origins["memory.size_mib"] == "targets/rpi5.toml:2"
    assert resolved.origins["cpu.core"].startswith("edgekit:targets/rpi5.toml:")
    assert own in folders(tmp_path, "targets")


def test_an_overlay_of_the_base_reaches_the_family(tmp_path):
    own = write(tmp_path, "generic-arm64", "[runtime]\nopset_max = 21\n")
    assert load_target("rpi5", [PACKAGED, own]).target.runtime.opset_max == 21


def test_the_repository_is_not_its_own_overlay():
    assert folders(PACKAGED.parent, "targets") == [PACKAGED]


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ('title = "x"\nclok = 3\n', 'unknown key "clok"', 2),
        ("[cpu]\nclock_mhzz = 3\n", "unknown key", 2),
        ('[cpu]\ncores = "four"\n', "expected int", 2),
        ("[cpu]\ncores = 0\n", "must be over 0", 2),
        ("[cpu]\nfp32_gflops = nan\n", "must be over 0", 2),
        ('[cpu]\narch = "arm65"\n', "expected one of", 2),
        ('[runtime]\npython = "three"\n', "expected a version", 2),
        ("[runtime]\nthreads = 64\n", "64 threads on 4 cores", 2),
        ("[cpu\ncores = 4\n", "malformed TOML", 1),
        ("cpu = 4\n", "must be a table", 1),
        ('extends = "rpi6"\n', 'no target named "rpi6"', 1),
        ('extends = "rpi5"\n', "runs in a circle", 1),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, text, message, line):
    own = write(tmp_path, "rpi5", text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_target("rpi5", [PACKAGED, own])
    assert caught.value.where == f"targets/rpi5.toml:{line}"


def test_a_misspelt_key_is_guessed(tmp_path):
    own = write(tmp_path, "rpi5", "[cpu]\nclock_mhzz = 3\n")
    with pytest.raises(ConfigError) as caught:
        load_target("rpi5", [PACKAGED, own])
    assert caught.value.hint == "did you mean clock_mhz?"


def test_extends_in_a_circle_is_named(tmp_path):
    write(tmp_path, "a", 'extends = "b"\n')
    write(tmp_path, "b", 'extends = "a"\n')
    with pytest.raises(ConfigError, match="a → b → a"):
        load_target("a", [tmp_path])


def test_a_missing_value_is_named(tmp_path):
    write(tmp_path, "lonely", 'title = "Lonely"\nfamily = "arm64"\n')
    with pytest.raises(ConfigError, match=r'"cpu\.arch" is missing from the target "lonely"'):
        load_target("lonely", [tmp_path])


@pytest.mark.parametrize("name", ["rpi55", "../secrets", "", "rpi5.toml"])
def test_unknown_targets_get_a_hint(name):
    with pytest.raises(ConfigError) as caught:
        load_target(name, [PACKAGED])
    assert f"`edgekit targets list` shows all {len(NAMES)}." in (caught.value.hint or "")


def test_the_nearest_name_is_guessed():
    with pytest.raises(ConfigError) as caught:
        load_target("rpi55", [PACKAGED])
    assert (caught.value.hint or "").startswith("did you mean rpi5?")


_INTS = [key for key, kind in KEYS.items() if kind is int and key != "runtime.threads"]
_LAYER = st.dictionaries(st.sampled_from(_INTS), st.integers(4, 10**6), max_size=4)


def _toml(values: dict[str, int], extends: str | None) -> str:
    lines = [f'extends = "{extends}"'] if extends else []
    for key, value in sorted(values.items()):
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


@given(chain=st.lists(st.tuples(_LAYER, _LAYER), min_size=1, max_size=5))
def test_the_last_word_wins_whatever_the_depth(tmp_path_factory, chain):
    """Base < derived, and within one target packaged < project, for every key by itself."""
    root = tmp_path_factory.mktemp("targets")
    packaged, own = root / "packaged", root / "own"
    base = "generic-arm64"
    expected = dict(load_target(base, [PACKAGED]).values)
    for depth, (first, second) in enumerate(chain):
        name = f"t{depth}"
        write(packaged, name, _toml(first, base))
        if second:
            write(own, name, _toml(second, None))
        expected |= first | second
        base = name
    resolved = load_target(base, [PACKAGED, packaged, own])
    assert dict(resolved.values) == expected
    for key in expected:
        assert resolved.origins[key].rpartition(":")[2].isdecimal()


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=200))
def test_no_text_breaks_the_reader(tmp_path_factory, text):
    """Any file either loads or is refused as a ConfigError that names it."""
    own = write(tmp_path_factory.mktemp("fuzz"), "rpi5", text)
    place = "targets/rpi5.toml"
    with contextlib.suppress(ConfigError):
        place = load_target("rpi5", [PACKAGED, own]).files[-1]
    assert place == "targets/rpi5.toml"
