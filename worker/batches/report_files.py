"""The report as files beside the output: JSON for programs, one HTML page with its plots inside for people."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

from api_schemas import jsontext
from worker.base import private
from worker.base.errors import InvalidRequest, NotWritten
from worker.base.money import PICO
from worker.batches.output_paths import reports
from worker.batches.report import Report
from worker.db.batches.report import Bucket

#: So much of a file shows whose report it is, in bytes.
_HEAD = 256
_WIDTH, _HEIGHT = 720, 160
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .2rem 1.2rem .2rem 0; text-align: left }}
th {{ font-weight: normal; color: #777 }} svg {{ max-width: 100%; height: auto }} .done {{ fill: #2a7 }} .not {{ fill: #c43 }}
</style>
<h1>{title}</h1>
<table>{facts}</table>
<h2>Lines over time</h2>{plot}
{lists}
</html>
"""


def write(report: Report, output: str, *, shared: bool = False, overwrite: bool = False) -> Sequence[Path]:
    """Write both files beside `output`, each whole or not at all; nothing beside what is no file.

    Only the owner can read them, unless `shared`. What is there is replaced when it is this batch's report, or with
    `overwrite`.

    Raises:
        InvalidRequest: something else is there.
        NotWritten: the disk is full, or a file cannot be made.
    """
    places = reports(output)
    if places is None:
        return ()
    for place in places:
        if not overwrite and place.exists() and not _is_report_of(place, report.row.id):
            raise InvalidRequest(
                f"{place} is there and is no report of {report.row.id}; move it, or name another output"
            )
    for place, content in zip(places, (jsontext.dumps(report.to_json()), page(report).encode()), strict=True):
        real = Path(os.path.realpath(place))  # a link stays, and what it points to is written
        temporary = real.with_name(f"{real.name}.{os.getpid()}.part")
        try:
            with private.open_binary(temporary, "wb", shared=shared) as file:
                file.write(content)
            temporary.replace(real)
        except OSError as error:
            raise NotWritten(str(place), error) from error
        finally:
            temporary.unlink(missing_ok=True)
    return places


def _is_report_of(place: Path, batch: str) -> bool:
    """Whether a file is empty, or has this batch where its report has it."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        head = file.read(_HEAD)
    ours = head.startswith((b'{"batch":{', b"<!doctype html>")) and batch.encode() in head
    return not head or ours


def page(report: Report) -> str:
    """The HTML page, whole: no script, nothing fetched."""
    row = report.row
    quoted = "" if row.quoted_picousd is None else f" ({row.quoted_picousd / PICO:,.4f} quoted)"
    facts = {
        "status": row.status,
        "file": row.input_name,
        "lines": f"{row.total:,}: {row.completed:,} completed, {row.failed:,} failed, {row.expired:,} expired,"
        f" {row.cancelled:,} cancelled",
        "took": "–" if report.seconds is None else f"{report.seconds:,.1f} s",
        "calls": f"{report.calls:,}, {report.retries:,} of them again",
        "call time": ", ".join(f"{name} {value:,.2f} s" for name, value in report.call_seconds.items()) or "–",
        "tokens": f"{row.input_tokens:,} in, {row.output_tokens:,} out",
        "cost in USD": ("unknown" if row.cost_usd is None else f"{row.cost_usd:,.6f}") + quoted,
    }
    if row.duplicates:
        facts["dedupe"] = f"{row.copied:,} lines answered with another's call, {row.saved_usd:,.6f} USD saved"
    rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
    lists = _list("Errors", [(name, f"{count:,}") for name, count in report.errors.items()])
    lists += _list("Slowest lines", [(one, f"{seconds:,.2f} s") for one, seconds in report.slowest])
    lists += _list("Failed lines", report.failed_lines)
    return _PAGE.format(title=html.escape(row.id), facts=rows, plot=_plot(report.over_time), lists=lists)


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<h2>{title}</h2><table>{cells}</table>"


def _plot(buckets: Sequence[Bucket]) -> str:
    """Bars: what ended in each stretch of time, the completed below, the others on top."""
    if not buckets:
        return "<p>No line is over.</p>"
    tallest = max(one.completed + one.others for one in buckets) or 1
    width = _WIDTH / len(buckets)
    bars = []
    for at, one in enumerate(buckets):
        base = float(_HEIGHT)
        for kind, lines in (("done", one.completed), ("not", one.others)):
            height = _HEIGHT * lines / tallest
            base -= height
            if lines:
                place = f'x="{at * width:.1f}" y="{base:.1f}" width="{width * 0.9:.1f}" height="{height:.1f}"'
                bars.append(f'<rect class="{kind}" {place}><title>{lines:,}</title></rect>')
    seconds = buckets[-1].offset + (buckets[1].offset if len(buckets) > 1 else 0)
    label = f'<text x="0" y="{_HEIGHT + 16}" font-size="12">0 s</text>'
    label += f'<text x="{_WIDTH}" y="{_HEIGHT + 16}" font-size="12" text-anchor="end">{seconds:,.1f} s</text>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" role="img">{"".join(bars)}{label}</svg>'
