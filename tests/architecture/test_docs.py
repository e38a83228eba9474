"""What a user can meet is in the documentation."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest

from edgekit.cli.main import cli
from edgekit.fleet import settings as fleet_settings
from edgekit.fleet.alerts import rules as alert_rules
from edgekit.runtime.tasks import task_names
from edgekit.toolchain.metrics import metric_names
from edgekit.toolchain.readers import reader_names
from edgekit.toolchain.settings import SETTINGS
from edgekit.wire import errors
from edgekit.wire.located import Table, parse_toml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def text() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))


@cache
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_reference", ROOT / "tools" / "make_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_commands(
    group: click.Group = cli, path: tuple[str, ...] = ("edgekit",)
) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_documented(path: str) -> None:
    section = re.search(
        rf"^## {re.escape(path)}$(.*?)(?=^## |\Z)", text(), re.MULTILINE | re.DOTALL
    )
    assert section is not None
    general = text().partition("## edgekit ")[0]
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            for name in parameter.opts:
                assert f"`{name}`" in section.group(1) + general, f"{path} {name}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_helps_with_an_example(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert re.search(r"Examples?:\n", command.help), path
    if not isinstance(command, click.Group):
        names = {name for parameter in command.params for name in parameter.opts}
        assert "--json" in names


@pytest.mark.parametrize("path", COMMANDS)
def test_every_document_has_a_schema_that_is_documented(path: str) -> None:
    if not isinstance(COMMANDS[path], click.Group):
        schema = reference().schema_of(COMMANDS[path])
        assert schema is not None
        assert f"`{schema}`" in (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_has_help(path: str) -> None:
    options = [p for p in COMMANDS[path].params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_setting_is_documented(setting: object) -> None:
    for name in (setting.toml, setting.env, setting.flag):  # type: ignore[attr-defined]
        assert name is None or f"`{name}`" in text()


def test_every_key_of_a_fleet_is_documented() -> None:
    page = (DOCS / "reference" / "fleet-settings.md").read_text(encoding="utf-8")
    assert "## fleet.toml" in page
    fleet, alerts = page.split("## alerts.toml")
    assert [key for key in fleet_settings.KEYS if f"\n| `{key}` |" not in fleet] == []
    assert [key for key in alert_rules.KEYS if f"\n| `{key}` |" not in alerts] == []


@pytest.fixture
def keys_read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, ...]]:
    """Every key that anybody asks a TOML table for, whether or not it is there."""
    found: set[tuple[str, ...]] = set()

    def listen(name: str) -> None:
        real = getattr(Table, name)

        def heard(self: Table, key: str, *rest: object) -> object:
            found.add(tuple(str(part) for part in (*self.path, key)))
            return real(self, key, *rest)

        monkeypatch.setattr(Table, name, heard)

    for name in ("get", "optional", "strings", "table", "tables"):
        listen(name)
    return found


def leaves(keys: set[tuple[str, ...]]) -> set[str]:
    inner = {key[:length] for key in keys for length in range(1, len(key))}
    return {".".join(key) for key in keys - inner}


def test_the_keys_of_fleet_toml_are_all_that_is_read(keys_read: set[tuple[str, ...]]) -> None:
    fleet_settings.read_settings(parse_toml("", "fleet.toml"))
    assert leaves(keys_read) == set(fleet_settings.KEYS)


def test_the_keys_of_alerts_toml_are_all_that_is_read(keys_read: set[tuple[str, ...]]) -> None:
    text = """
    [rules.latency]
    channels = ["hook"]
    [channels.hook]
    kind = "webhook"
    url = "https://example.com"
    [channels.mail]
    kind = "smtp"
    host = "mail.example.com"
    from = "a@example.com"
    to = ["b@example.com"]
    [channels.bus]
    kind = "mqtt"
    [[silence]]
    """
    alert_rules.read_alerts(parse_toml(text, "alerts.toml"), DOCS)
    names = {"latency", "hook", "mail", "bus"}
    told = {tuple("NAME" if part in names else part for part in key) for key in keys_read}
    told = {tuple(part for part in key if part != "0") for key in told}
    assert leaves(told) == set(alert_rules.KEYS)


def test_every_error_and_its_exit_code_are_documented() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.EdgekitError)
    ]
    assert len(kinds) == 9
    for kind in kinds:
        assert re.search(rf"\| {kind.exit_code} \| `{kind.__name__}` \|", text())
        assert kind.__name__ in str(errors.__doc__)


@pytest.mark.parametrize("name", [*task_names(), *reader_names(), *metric_names()])
def test_every_part_of_a_recipe_is_documented(name: str) -> None:
    assert re.search(rf"^### {re.escape(name)}$", text(), re.MULTILINE)


def test_the_reference_is_up_to_date() -> None:
    assert reference().stale() == [], "run `make docs`"


def test_a_changed_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = reference()
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert module.main([]) == 0
    assert module.stale() == []
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    (tmp_path / "gone.md").write_text("a page of nothing", encoding="utf-8")
    assert module.stale() == ["cli.md", "gone.md"]
    assert module.main(["--check"]) == 1


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    broken = []
    for page in pages:
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            if link.startswith(("http:", "https:", "#", "mailto:")):
                continue
            if not (page.parent / link.partition("#")[0]).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []
