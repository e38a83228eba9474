"""Write docs/reference from the code: commands, settings, errors, agent, fleet, parts of recipes.

``python tools/make_reference.py`` writes; with ``--check`` it names what is out of date and exits
with 1.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from edgekit.agent.config import KEYS
from edgekit.cli.main import cli
from edgekit.fleet import settings as fleet_settings
from edgekit.fleet.alerts import rules as alert_rules
from edgekit.runtime.tasks import task_names
from edgekit.toolchain.metrics import metric_names
from edgekit.toolchain.readers import reader_names
from edgekit.toolchain.settings import FILE, SETTINGS
from edgekit.wire import errors

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by tools/make_reference.py (`make docs`): edit the code, not this file. -->\n"
COMMON = ("--json", "--quiet", "--verbose", "--help")  # every command has them: told once
CLI_HEAD = f"""# Commands

{MADE}
Results go to stdout, progress and errors to stderr; `edgekit --version` prints the version. Colour
is left out in pipes and with `NO_COLOR`. Every command takes

| option | |
|---|---|
| `--json` | Print exactly one JSON document with a `schema` name. |
| `-q`, `--quiet` | Print the result alone. |
| `-v`, `--verbose` | Log details; show tracebacks. |
| `-h`, `--help` | Show the command's help. |
"""
SETTINGS_HEAD = f"""# Settings

{MADE}
A flag wins over its environment variable, that over `{FILE}` in the project's folder, that over
the default. `edgekit plan` shows where each value came from.

| in `{FILE}` | flag | environment | default | |
|---|---|---|---|---|"""
AGENT_HEAD = f"""# Settings of the agent

{MADE}
One JSON file, `/etc/edgekit/agent.json` unless `edgekit agent run --config` names another one;
relative paths start at its folder. An unknown key is an error.

| key | |
|---|---|"""
FLEET_HEAD = f"""# Settings of a fleet

{MADE}
Two files in the fleet's folder. An unknown key is an error. `NAME` stands for a name of your own.

## fleet.toml

Written with the defaults by the first `edgekit fleet up`, and read when the fleet starts.

| key | |
|---|---|"""
ALERTS_HEAD = """
## alerts.toml

Need not be there; read again whenever it changes. [Alerts](../fleet-alerts.md) shows an example,
and what can be watched.

| key | |
|---|---|"""
ERRORS_HEAD = f"""# Errors and exit codes

{MADE}
An error says what went wrong, where, and what to do next. With `--json` it is one document:
`{{"schema": "edgekit.error/1", "error", "message", "hint", "where", "exit_code"}}`.

| exit code | class in `edgekit.wire.errors` | |
|---|---|---|"""


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    return {
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "agent-settings.md": agent_page(),
        "fleet-settings.md": fleet_page(),
        "errors.md": errors_page(),
        "recipe-parts.md": parts_page(),
    }


def cli_page() -> str:
    """Describe every command and option."""
    sections = [command_section(path, command) for path, command in commands(cli, ("edgekit",))]
    return "\n".join([CLI_HEAD, *sections])


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Walk over all commands, groups before their members."""
    with click.Context(group, info_name=path[-1]) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is None or command.hidden:
                continue
            yield " ".join((*path, name)), command
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))


def command_section(path: str, command: click.Command) -> str:
    """Describe one command."""
    lines = [f"## {path}\n"]
    with click.Context(command, info_name=path) as context:
        if not isinstance(command, click.Group):
            usage = " ".join(command.collect_usage_pieces(context))
            lines.append(f"```\n{path} {usage}\n```\n")
        lines.append(help_text(command.help or ""))
        schema = schema_of(command)
        if schema is not None:
            lines.append(f"`--json` prints one document, `{schema}`.\n")
        rows = []
        for parameter in command.get_params(context):
            if not isinstance(parameter, click.Option) or set(parameter.opts) & set(COMMON):
                continue
            text = f"{parameter.help or ''}{' Required.' if parameter.required else ''}"
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            value = "" if parameter.is_flag else f" `{parameter.make_metavar(context)}`"
            rows.append(
                "| " + f"{names}{value}\n{text}".replace("|", "\\|").replace("\n", " | ") + " |"
            )
        if rows:
            lines.append("| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(lines)


def schema_of(command: click.Command) -> str | None:
    """Return the schema of what ``--json`` prints; None for a group."""
    if isinstance(command, click.Group) or command.callback is None:
        return None
    function = inspect.unwrap(command.callback)
    named = re.search(r'"(edgekit\.[a-z.-]+/\d+)"', inspect.getsource(function))
    found = named[1] if named else getattr(sys.modules[function.__module__], "SCHEMA", None)
    return None if found is None else str(found)


def help_text(text: str) -> str:
    """Turn a click docstring into Markdown; a paragraph marked with a backspace stays as it is."""
    out = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            out.append(paragraph)
            continue
        title, *rest = paragraph.removeprefix("\b").strip("\n").splitlines()
        if title.endswith(":"):
            out.append(title)
        else:
            rest.insert(0, title)
        out.append("```\n" + inspect.cleandoc("\n".join(["", *rest])) + "\n```")
    return "\n\n".join(out) + "\n"


def settings_page() -> str:
    """Describe every setting."""
    rows = [
        f"| `{s.toml}` | {f'`{s.flag}`' if s.flag else '–'} | `{s.env}` | {s.default} | {s.help} |"
        for s in SETTINGS
    ]
    return "\n".join([SETTINGS_HEAD, *rows, ""])


def agent_page() -> str:
    """Describe every key of agent.json."""
    return "\n".join([AGENT_HEAD, *key_rows(KEYS), ""])


def fleet_page() -> str:
    """Describe every key of fleet.toml and alerts.toml."""
    fleet, alerts = key_rows(fleet_settings.KEYS), key_rows(alert_rules.KEYS)
    return "\n".join([FLEET_HEAD, *fleet, ALERTS_HEAD, *alerts, ""])


def key_rows(keys: Mapping[str, str]) -> Iterator[str]:
    """Describe keys, each with what it means, as rows of a table."""
    return (f"| `{key}` | {text} |" for key, text in keys.items())


def errors_page() -> str:
    """Describe every error class and exit code."""
    kinds = sorted(
        (
            kind
            for _, kind in inspect.getmembers(errors, inspect.isclass)
            if issubclass(kind, errors.EdgekitError)
        ),
        key=lambda kind: kind.exit_code,
    )
    rows = [f"| {k.exit_code} | `{k.__name__}` | {summary(k)} |" for k in kinds]
    worked = f"| {errors.EXIT_OK} | – | It worked. |"
    interrupted = f"| {errors.EXIT_INTERRUPTED} | – | Interrupted (Ctrl-C). |"
    return "\n".join([ERRORS_HEAD, worked, *rows, interrupted, ""])


def summary(kind: type) -> str:
    """Return the first line of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def parts_page() -> str:
    """Describe what a recipe can name: tasks, readers, metrics."""
    return "\n".join(
        [
            "# Parts of recipes\n",
            MADE,
            "Each is one file; to add one is to add a file.\n",
            *section("Tasks", "edgekit/runtime/tasks", "edgekit.runtime.tasks", task_names()),
            *section(
                "Readers", "edgekit/toolchain/readers", "edgekit.toolchain.readers", reader_names()
            ),
            *section(
                "Metrics", "edgekit/toolchain/metrics", "edgekit.toolchain.metrics", metric_names()
            ),
        ]
    )


def section(title: str, folder: str, package: str, names: Sequence[str]) -> list[str]:
    """Describe the modules of a package by their docstrings."""
    lines = [f"## {title}\n", f"Files of `{folder}/`.\n"]
    root = Path(str(importlib.import_module(package).__file__)).parent
    for name in names:
        source = (root / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        # Read, not imported: a task may need a package that is not here.
        text = ast.get_docstring(ast.parse(source)) or ""
        lines += [f"### {name}\n", fenced(text.replace("``", "`")) + "\n"]
    return lines


def fenced(text: str) -> str:
    """Keep indented lines as they are: Markdown would run them together."""
    out: list[str] = []
    inside = False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if indented != inside and (line or not inside):
            out.append("```" if inside else "\n```text")
            inside = indented
        out.append(line.removeprefix("    ") if indented else line)
    # The blank line after a block belongs behind its end.
    return "\n".join([*out, *(["```"] if inside else [])]).replace("\n\n```\n", "\n```\n\n")


def stale() -> list[str]:
    """Return the names of pages that are missing, out of date or no page any more."""
    wanted = pages()
    there = {path.name for path in FOLDER.glob("*.md")}
    return sorted(
        (there - set(wanted))
        | {
            name
            for name, text in wanted.items()
            if name not in there or (FOLDER / name).read_text(encoding="utf-8") != text
        }
    )


def main(argv: list[str]) -> int:
    """Write or check the pages."""
    old = stale()
    if "--check" in argv:
        for name in old:
            print(f"docs/reference/{name} is out of date: make docs", file=sys.stderr)
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for name in old:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
        print(f"  docs/reference/{name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
