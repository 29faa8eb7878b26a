"""Reading a batch from an offset, on both databases: whenever one stops and goes on, each line is read once."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.batch_factories import ANSWER, DEDUPE, claimed, end, finished, over, submit, write_asked, write_file
from tests.rig.waiting import eventually
from worker.base.errors import InvalidRequest
from worker.batches import importing, results
from worker.batches.result_files import Files
from worker.batches.results import Order
from worker.db.batches import export, lines_in, records
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.producer import batch_control as control
from worker.producer.stockpot import Stockpot


def read(database: Database, batch: str, offset: int = 0, order: Order = Order.ENDED) -> list[tuple[int, str | None]]:
    """What there is behind an offset now: each line's offset and custom id."""
    pages = results.read(database, batch, offset=offset, order=order)
    return [(one.offset, one.custom_id) for page in pages for one in page]


def test_lines_are_read_in_the_order_in_which_they_ended_and_offsets_count_them(
    database: Database, batch: BatchRow
) -> None:
    """Over several transactions; what has been read never changes."""
    jobs = {int((job.custom_id or "").removeprefix("r-")): job for job in claimed(database, batch.id)}
    end(database, over(jobs[7]), over(jobs[2]))
    assert read(database, batch.id) == [(1, "r-7"), (2, "r-2")]
    end(database, over(jobs[9], "failed", error_class="upstream"))
    end(database, over(jobs[1]))
    everything = [(1, "r-7"), (2, "r-2"), (3, "r-9"), (4, "r-1")]
    for offset in range(5):
        assert read(database, batch.id, offset) == everything[offset:]
    assert read(database, batch.id, 4) == []


@pytest.mark.parametrize("order", list(Order))
def test_a_reader_that_stops_anywhere_and_goes_on_reads_each_line_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    """While lines end in all ways and orders, copies among them, in pages of a few lines."""
    monkeypatch.setattr(export, "FIRST_PAGE", 3)
    monkeypatch.setattr(export, "LARGEST_PAGE", 4)
    rng = random.Random(7)
    asked = [f"p{rng.randrange(12)}" if rng.random() < 0.6 else f"own {n}" for n in range(60)]
    batch, _ = submit(database, write_asked(tmp_path / "in.jsonl", asked), DEDUPE)
    seen: list[str | None] = []
    offset, jobs = 0, claimed(database, batch.id)
    rng.shuffle(jobs)
    while len(seen) < 60:
        if len(jobs) > 6:
            some, jobs = jobs[:5], jobs[5:]
            end(database, *(over(job, rng.choice(["completed", "failed"]), response=ANSWER) for job in some))
        elif jobs:  # the last ones never get an answer
            control.cancel(database, batch.id, tenant="default", abort=True)
            end(database, *(over(job, "cancelled") for job in jobs))
            jobs = []
        for page in results.read(database, batch.id, offset=offset, order=order):
            for one in page[: rng.randrange(1, 5)]:
                assert one.offset == offset + 1
                seen.append(one.custom_id)
                offset = one.offset
            break  # it stops here, and goes on from the offset that it saw last
    assert sorted(map(str, seen)) == sorted(f"r-{n}" for n in range(1, 61))
    if order is Order.FILE:
        assert seen == [f"r-{n}" for n in range(1, 61)]


def test_in_the_order_of_the_file_a_line_waits_for_those_before_it(database: Database, batch: BatchRow) -> None:
    """What comes later in the file is read as soon as the gap is closed."""
    jobs = {int((job.custom_id or "").removeprefix("r-")): job for job in claimed(database, batch.id)}
    end(database, over(jobs[1]), over(jobs[3]), over(jobs[4]))
    assert read(database, batch.id, order=Order.FILE) == [(1, "r-1")]
    end(database, over(jobs[2]))
    assert read(database, batch.id, 1, Order.FILE) == [(2, "r-2"), (3, "r-3"), (4, "r-4")]


def test_in_the_order_of_the_file_copies_wait_for_lines_that_are_not_imported_yet(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are imported first; a line between them and their own would be passed by."""
    monkeypatch.setattr(importing, "SLICE", 1)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 1)
    path = write_asked(tmp_path / "in.jsonl", ["a", "a", "b", "a", "c"])
    insert = lines_in.insert

    def dies(conn: Connection, row: BatchRow, lines: Any, **how: Any) -> None:
        if lines[0].number > 1:
            raise ConnectionError("killed")
        insert(conn, row, lines, **how)

    with monkeypatch.context() as killed:
        killed.setattr(lines_in, "insert", dies)
        with pytest.raises(ConnectionError):
            submit(database, path, DEDUPE)
    [half] = database.read(lambda conn: records.newest(conn, tenant="default"))
    end(database, *(over(job, response=ANSWER) for job in claimed(database, half.id)))
    assert read(database, half.id, order=Order.FILE) == [(1, "r-1")]
    submit(database, path, DEDUPE)
    end(database, *(over(job, response=ANSWER) for job in claimed(database, half.id)))
    assert [custom_id for _, custom_id in read(database, half.id, 1, Order.FILE)] == ["r-2", "r-3", "r-4", "r-5"]


def test_an_offset_counts_lines_and_not_blank_ones(database: Database, tmp_path: Path) -> None:
    """In the order of the file, too, where blank lines have numbers."""
    path = write_file(tmp_path / "in.jsonl", 4)
    path.write_text(path.read_text().replace("\n", "\n\n \n"))
    batch, _ = submit(database, path)
    end(database, *(over(job) for job in claimed(database, batch.id)))
    assert read(database, batch.id, 2, Order.FILE) == [(3, "r-3"), (4, "r-4")]
    assert read(database, batch.id, 9, Order.FILE) == []


def test_lines_that_end_by_transactions_at_once_have_one_order_without_gaps(database: Database, tmp_path: Path) -> None:
    """Four writers; a reader that follows meanwhile reads each line once, and in the order that stays."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 120))
    [proof] = claimed(database, batch.id, 1)  # before one is answered only some are called at once
    end(database, over(proof, response=ANSWER))
    jobs = claimed(database, batch.id, 200)
    followed: list[tuple[int, str | None]] = []

    def follow() -> None:
        for page in results.read(database, batch.id, follow=True):
            followed.extend((one.offset, one.custom_id) for one in page)

    def write(part: int) -> None:
        for at in range(part, len(jobs), 12):
            end(database, *(over(job) for job in jobs[at : at + 12 : 4]))

    threads = [threading.Thread(target=follow)] + [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [offset for offset, _ in followed] == list(range(1, 121))
    assert len({custom_id for _, custom_id in followed}) == 120
    assert followed == read(database, batch.id)


def test_a_file_is_followed_in_pieces(database: Database, batch: BatchRow, tmp_path: Path) -> None:
    """Stopped, told the offset, gone on with: the files have each line once; a line that was cut short is taken away."""
    out = tmp_path / "out.jsonl"
    finished(database, batch)
    control.cancel(database, batch.id, tenant="default", abort=True)
    pages = results.read(database, batch.id)
    first = next(iter(pages))[:4]
    with Files(str(out), None, grows=True) as files:
        for one in first:
            files.write(one.line)
    with out.open("ab") as file:
        file.write(b'{"id":"batch_req_cut')
    with Files(str(out), None, grows=True, append=True) as files:
        written = results.write_on(database, batch.id, files, offset=4, follow=True)
    assert (written.offset, written.complete) == (10, True)
    lines = [
        json.loads(line) for path in (out, tmp_path / "out.errors.jsonl") for line in path.read_text().splitlines()
    ]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"r-{n}" for n in range(1, 11))


@pytest.mark.parametrize("order", list(Order))
def test_a_file_is_continued_from_where_it_ends_and_from_nowhere_else(
    database: Database, tmp_path: Path, order: Order
) -> None:
    """A smaller offset writes lines twice, a larger one leaves some out: both are refused with the right one."""
    out, part, other = (str(tmp_path / name) for name in ("out.jsonl", "part.jsonl", "other.jsonl"))
    asked = ["a", "b", "a", "c", "d", "a", "e"]
    batch, _ = submit(database, write_asked(tmp_path / "in.jsonl", asked), DEDUPE)
    jobs = claimed(database, batch.id)
    with Stockpot(database.settings) as pot:

        def save(path: str, offset: int, **how: Any) -> Any:
            return pot.batches.save(batch.id, path, offset=offset, order=order, **how)

        end(database, over(jobs[0], response=ANSWER), over(jobs[1], "failed"))  # lines 1, 3, 6 and 2
        first = save(out, 0)
        assert first.offset == (4 if order is Order.ENDED else 3)
        end(database, *(over(job, response=ANSWER) for job in jobs[2:]))
        for wrong in (1, first.offset - 1, first.offset + 1, 9):
            with pytest.raises(InvalidRequest, match=f"go on with --offset {first.offset}"):
                save(out, wrong)
        with pytest.raises(InvalidRequest, match="go on with --offset"):
            pot.batches.save(batch.id, out, offset=first.offset + 1, follow=True, order=order)
        assert save(part, first.offset + 1).offset == 7  # a new file takes any offset
        assert save(part, 7).output == 0
        with pytest.raises(InvalidRequest, match="--offset 7"):
            save(part, first.offset + 1)
        text = Path(out).read_text()
        Path(out).write_text(text + '{"id":"batch_req_')  # what was cut short does not count
        assert save(out, first.offset).complete
        errors = Path(out).with_name("out.errors.jsonl")
        ids = [json.loads(line)["custom_id"] for path in (out, errors) for line in Path(path).read_text().splitlines()]
        assert sorted(ids) == [f"r-{number}" for number in range(1, 8)]
        Path(other).write_text(text.replace(jobs[0].id.removeprefix("job_"), "0" * 32))
        with pytest.raises(InvalidRequest, match="holds no line of"):
            save(other, 3)
        assert save(other, 3, force=True).offset == 7


def test_what_was_written_at_one_go_while_the_batch_ran_is_not_continued(
    database: Database, batch: BatchRow, tmp_path: Path
) -> None:
    """It has gaps: its offset says to begin anew, and going on behind what it holds is refused."""
    out = str(tmp_path / "out.jsonl")
    jobs = claimed(database, batch.id)
    with Stockpot(database.settings) as pot:
        end(database, over(jobs[0], response=ANSWER), over(jobs[3], response=ANSWER))
        assert pot.batches.save(batch.id, out).offset == 0
        end(database, over(jobs[1], response=ANSWER))
        with pytest.raises(InvalidRequest, match="cannot be continued"):
            pot.batches.save(batch.id, out, offset=2, order="file")
        assert pot.batches.save(batch.id, out, offset=2).offset == 3  # as they ended these were the first two


def test_a_follower_that_is_told_to_stop_ends_behind_a_whole_page(
    database: Database, batch: BatchRow, tmp_path: Path
) -> None:
    """Its offset is what it wrote."""
    jobs = claimed(database, batch.id)
    stop = threading.Event()
    with Files(str(tmp_path / "out.jsonl"), None, grows=True) as files:
        thread = threading.Thread(
            target=lambda: results.write_on(database, batch.id, files, follow=True, stop=stop), daemon=True
        )
        thread.start()
        end(database, *(over(job) for job in jobs[:3]))
        eventually(lambda: files.written.offset == 3)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
    assert not files.written.complete
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_producer_reads_a_batch_from_python(database: Database, batch: BatchRow) -> None:
    """With the offset behind each line, and OpenAI's own text."""
    finished(database, batch)
    with Stockpot(database.settings) as pot:
        lines = list(pot.batch_lines(batch.id, offset=6))
        assert [line.offset for line in lines] == [7, 8, 9]
        assert lines[0].answered
        assert json.loads(lines[0].text)["custom_id"] == lines[0].custom_id
        assert [line.custom_id for line in pot.batch_lines(batch.id, order=Order.FILE)] == [
            f"r-{number}" for number in range(1, 10)
        ]


@pytest.mark.anyio
async def test_an_asynchronous_producer_reads_a_batch(database: Database, batch: BatchRow) -> None:
    """The same lines."""
    from worker import AsyncStockpot

    finished(database, batch)
    async with AsyncStockpot(database.settings) as pot:
        assert [line.offset async for line in pot.batch_lines(batch.id, offset=2)] == list(range(3, 10))
