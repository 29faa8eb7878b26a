"""`stockpot doctor`: is everything there, and how to mend what is not."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import RenderableType
from rich.text import Text

from worker.base.settings import Settings, load
from worker.cli import options
from worker.cli.exit_codes import FAILED, UNREACHABLE
from worker.cli.operations import checks
from worker.cli.operations.check import Check
from worker.cli.output import put_json, screen
from worker.cli.tables import items
from worker.local.running import beside

#: Characters of the longest name of a check.
_NAME = 18
_MARKS = {"ok": ("✓", "green"), "note": ("•", "yellow"), "failed": ("✗", "red"), "unreachable": ("✗", "red")}


@click.command(
    epilog="\b\nExamples:\n  stockpot doctor\n  stockpot doctor --json | jq '.checks[] | select(.outcome != \"ok\")'\n"
)
@options.as_json
def doctor(*, as_json: bool) -> None:
    """Check names, encryption, settings, permissions, database, tables, file storage, workers, Redis, broker, upstream, key, clock.

    Each with how to mend it. Beside `stockpot up --simulate` it looks at the simulator.

    Exits 3 if something is unreachable, 1 if something else is wrong, else 0.
    """
    found: list[Check] = []
    console = screen()
    for check in checks.every(*_as_it_runs(load())):
        found.append(check)
        if not as_json:
            console.print(_lines(check))
    outcomes = {check.outcome for check in found}
    code = UNREACHABLE if "unreachable" in outcomes else FAILED if "failed" in outcomes else 0
    if as_json:
        put_json({"ok": code == 0, "checks": [asdict(check) for check in found]})
    click.get_current_context().exit(code)


def _lines(check: Check) -> RenderableType:
    """What was found, each part folded beneath its beginning."""
    mark, colour = _MARKS[check.outcome]
    lines = items()
    lines.add_row(Text(mark, style=colour).append(f" {check.name:<{_NAME}}", style="default"), check.detail)
    if check.mend:
        lines.add_row("", f"→ {check.mend}")
    return lines


def _as_it_runs(settings: Settings) -> tuple[Settings, list[Check]]:
    """The settings that the workers of a `stockpot up --simulate` of this home have, and the word on that."""
    found = beside(settings)
    if found is settings:
        return settings, []
    detail = "`stockpot up --simulate` runs in this home: its simulator is looked at, and not the real upstream"
    return found, [Check("simulator", "ok", detail)]
