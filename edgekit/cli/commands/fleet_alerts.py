"""``edgekit fleet alerts``: what is the matter, who is told, and who is not."""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError, UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.fleet.alerts.rows import SilenceRow
    from edgekit.fleet.alerts.rules import AlertSettings
    from edgekit.fleet.client import Fleet
    from edgekit.fleet.opened import Opened

SCHEMA = "edgekit.fleet-alerts/1"


@click.command("alerts")
@click.option("--closed", is_flag=True, help="Those that are over.")
@click.option("--check", is_flag=True, help="Read alerts.toml and show the rules that count.")
@click.option("--test", "channel", metavar="CHANNEL", help="Send a test over this channel.")
@click.option("--silence", "rule", metavar="RULE", help="Tell nobody of this rule; * and ? count.")
@click.option("--device", default="*", metavar="NAME", help="With --silence: of this device alone.")
@click.option("--for", "time_", default="2h", show_default=True, help="With --silence: so long.")
@click.option("--reason", default="", help="With --silence: why, for people.")
@click.option("--silences", is_flag=True, help="Show what is silenced, with its numbers.")
@click.option("--end-silence", type=click.IntRange(1), metavar="N", help="Take a silence back.")
@fleet_options
@common_options
def command(
    closed: bool,
    check: bool,
    channel: str | None,
    rule: str | None,
    device: str,
    time_: str,
    reason: str,
    silences: bool,
    end_silence: int | None,
    fleet: Fleet,
    out: Output,
) -> None:
    """Show alerts, each with what to do next; silence them; try the channels.

    \b
    Examples:
      edgekit fleet alerts
      edgekit fleet alerts --silence temperature --device 'cam-1*' --for 8h --reason painting
      edgekit fleet alerts --test phone
    """
    asked = [closed, check, channel is not None, rule is not None, silences, bool(end_silence)]
    if sum(asked) > 1:
        raise UsageError("one thing at a time", hint="edgekit fleet alerts --help")
    if check:
        _check(fleet.opened(), out)
    elif channel is not None:
        _test(fleet.opened(), channel, out)
    elif rule is not None:
        _silence(fleet.opened(), rule, device, time_, reason, out)
    elif silences or end_silence is not None:
        opened = fleet.opened()
        if end_silence is not None:
            opened.alerts.end_silence(end_silence)
        _show_silences(list(opened.alerts.silence_rows()), out)
    else:
        rows = fleet.alerts(is_open=not closed)
        out.emit(
            SCHEMA,
            {"alerts": rows},
            lambda console: render(console, rows, time.time()),
            quiet="\n".join(str(row["text"]) for row in rows) or None,
        )


def render(console: Console, rows: list[dict[str, Any]], now_s: float) -> None:
    """Print alerts, the worst first."""
    from rich.text import Text

    from edgekit.cli.fleet_view import age, show, table

    if not rows:
        show(console, "  nothing is the matter   next: edgekit fleet watch")
        return
    made = table(("rule", "severity", "since", "what"), right=("since",))
    for row in sorted(rows, key=lambda row: (row["severity"] != "critical", -row["opened_s"])):
        since = age(now_s - row["opened_s"])
        mark = "   (silenced)" if row.get("silenced") else ""
        over = f"   {row['why']}" if row.get("closed_s") is not None else ""
        cells = (f"  {row['rule']}", row["severity"], since, f"{row['text']}{mark}{over}")
        style = "red" if row["severity"] == "critical" and not over else ""
        made.add_row(*map(Text, cells), style=style)
    show(console, made)
    if rows[0].get("closed_s") is None:
        show(console, "")
        for todo in dict.fromkeys(str(row["todo"]) for row in rows):
            show(console, f"  next: {todo}")


def _check(opened: Opened, out: Output) -> None:
    from edgekit.fleet.alerts.rules import load_alerts

    settings = load_alerts(opened.home.alerts_file)
    out.emit(
        SCHEMA,
        {
            "rules": {
                rule.name: {"kind": rule.kind.name, "above": rule.above, "clear": rule.clear}
                for rule in settings.rules.values()
            },
            "channels": {
                c.name: {"kind": c.kind, "to": c.where} for c in settings.channels.values()
            },
        },
        lambda console: _render_rules(console, settings),
        quiet="ok",
    )


def _render_rules(console: Console, settings: AlertSettings) -> None:
    from rich.text import Text

    from edgekit.cli.fleet_view import show, table
    from edgekit.fleet.alerts.kinds import show as show_value
    from edgekit.fleet.alerts.notice import span

    made = table(("rule", "kind", "over", "clear", "for", "severity"), right=("over", "clear"))
    for rule in settings.rules.values():
        unit = rule.kind.unit
        limits = (
            ("", "")
            if rule.kind.is_switch
            else (show_value(rule.above, unit), show_value(rule.clear, unit))
        )
        cells = (f"  {rule.name}", rule.kind.name, *limits, span(rule.for_s), rule.severity)
        made.add_row(*map(Text, cells))
    show(console, made, "")
    for channel in settings.channels.values():
        show(console, f"  {channel.name}: {channel.kind}, {channel.where}")
    if settings.channels:
        show(console, f"\n  next: edgekit fleet alerts --test {next(iter(settings.channels))}")
    else:
        show(console, "  nobody is told   next: add a channel, see docs/fleet-alerts.md")


def _test(opened: Opened, name: str, out: Output) -> None:
    from edgekit.fleet.alerts.notice import Notice
    from edgekit.fleet.alerts.rules import load_alerts
    from edgekit.fleet.alerts.send import send

    channels = load_alerts(opened.home.alerts_file).channels
    if name not in channels:
        close = did_you_mean(name, channels)
        raise UsageError(
            f"no channel is named {name[:80]!r}",
            hint=f"did you mean {close}?" if close else "[channels.NAME] in alerts.toml makes one",
            where=str(opened.home.alerts_file),
        )
    now_s = time.time()
    notice = Notice(
        alert_id=f"test-{now_s:.0f}",
        event="test",
        fleet=opened.settings.name,
        rule="test",
        kind="test",
        severity="warning",
        device="",
        model="",
        value=0.0,
        unit="",
        text="this channel works",
        todo="nothing",
        opened_s=now_s,
        at_s=now_s,
    )
    outcome = send(channels[name], notice, opened.address("alerts"))
    if not outcome.ok:
        raise DeviceError(
            f"the test was not taken: {outcome.problem}",
            hint="its keys in alerts.toml: docs/fleet-alerts.md",
            where=f"{name} ({channels[name].kind}, {channels[name].where})",
        )
    out.emit(
        SCHEMA,
        {"sent": name},
        lambda console: console.print(f"  sent to {name}", markup=False),
        quiet=name,
    )


def _silence(opened: Opened, rule: str, device: str, time_: str, reason: str, out: Output) -> None:
    from edgekit.cli.commands.fleet_deploy import span_s
    from edgekit.fleet.alerts.rules import Silence

    now_s = time.time()
    until_s = now_s + span_s(time_, "--for")
    _check_rule(opened, rule)
    silence = Silence(rule, device, {}, until_s, reason[:200])
    opened.alerts.add_silence(silence, now_s)
    _show_silences(list(opened.alerts.silence_rows()), out)


def _check_rule(opened: Opened, pattern: str) -> None:
    """Refuse a silence of no rule: who mistypes its name would be woken all the same."""
    from edgekit.fleet.alerts.rules import load_alerts

    rules = load_alerts(opened.home.alerts_file).rules
    if not fnmatch.filter(rules, pattern):
        close = did_you_mean(pattern, rules)
        raise UsageError(
            f"no rule is named {pattern[:80]!r}",
            hint=f"did you mean {close}?" if close else "`edgekit fleet alerts --check` shows all",
        )


def _show_silences(rows: list[SilenceRow], out: Output) -> None:
    now_s = time.time()
    live = [row for row in rows if row.silence.until_s > now_s]
    out.emit(
        SCHEMA,
        {
            "silences": [
                {
                    "id": row.id,
                    **vars(row.silence),
                    "labels": dict(row.silence.labels),
                    "until_s": None if row.silence.until_s == float("inf") else row.silence.until_s,
                }
                for row in live
            ]
        },
        lambda console: _render_silences(console, live, now_s),
        quiet="\n".join(str(row.id) for row in live) or None,
    )


def _render_silences(console: Console, rows: list[SilenceRow], now_s: float) -> None:
    from rich.text import Text

    from edgekit.cli.fleet_view import age, show, table

    if not rows:
        show(console, "  nothing is silenced here; alerts.toml may silence more")
        return
    made = table(("number", "rule", "device", "ends in", "why"), right=("number", "ends in"))
    for row in rows:
        silence = row.silence
        left = "never" if silence.until_s == float("inf") else age(silence.until_s - now_s)
        cells = (f"  {row.id}", silence.rule, silence.device, left, silence.reason or "–")
        made.add_row(*map(Text, cells))
    show(console, made, "\n  next: edgekit fleet alerts --end-silence NUMBER")
