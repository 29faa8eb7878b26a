"""Files are the user's: no output destroys what it should not, whatever path it is given."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from api_schemas import jsontext
from api_schemas.batch import error_line, output_line
from worker.base.errors import InvalidRequest, NotWritten
from worker.batches import output_paths
from worker.batches.line_text import answered
from worker.batches.result_files import Files
from worker.cli.output import put_json
from worker.db.batches.export import FinishedLine

LINE = FinishedLine(
    job_id="job_" + "0" * 32,
    line=1,
    first_line=1,
    answers=1,
    custom_id="a",
    status="completed",
    over=True,
    response="{}",
    request_id=None,
    status_code=200,
    error_class=None,
    error_code=None,
    error_message=None,
    error_body=None,
)
ANSWER = output_line(line_id="l", custom_id="a", status=200, request_id=None, body=b"{}")


def refused(*given: str, **options: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        output_paths.check(*given, **options)  # type: ignore[arg-type]
    return caught.value.problems[0].message


def test_a_new_file_in_a_folder_that_is_there_is_fine(tmp_path: Path) -> None:
    output_paths.check(str(tmp_path / "out.jsonl"))
    output_paths.check("-")


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    given = tmp_path / "in.jsonl"
    given.write_bytes(b"{}\n")
    link = tmp_path / "link.jsonl"
    link.symlink_to(given)
    hard = tmp_path / "hard.jsonl"
    os.link(given, hard)
    for path in (given, link, hard):
        assert "is the input file" in refused(str(path), source=str(given), overwrite=True)
        assert "is the input file" in refused(str(tmp_path / "x"), str(path), source=str(given), overwrite=True)


def test_output_and_errors_are_two_files(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert "output file itself" in refused(str(path), str(tmp_path / "." / "x.jsonl"))
    link = tmp_path / "y.jsonl"
    link.symlink_to(path)
    assert "output file itself" in refused(str(path), str(link))


def test_what_is_there_is_replaced_on_request_only_and_only_if_it_is_a_file_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(ANSWER * 3)
    assert "holds 3 lines" in refused(str(path))
    output_paths.check(str(path), overwrite=True)
    output_paths.check(str(path), continues=True)
    assert "--offset" in refused(str(path), overwrite=True, grows=True)
    path.write_text('{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}}\n')
    for options in ({"overwrite": True}, {"force": True}, {"continues": True}):
        assert "is a file of requests" in refused(str(path), **options)
    path.write_text("my diary")
    assert "does not look like a file of answers" in refused(str(path), overwrite=True)
    assert "does not look like a file of answers" in refused(str(path), continues=True)
    output_paths.check(str(path), force=True)


def test_a_folder_that_is_missing_or_a_path_that_is_one_is_said(tmp_path: Path) -> None:
    assert "there is no folder" in refused(str(tmp_path / "no" / "out.jsonl"))
    assert "is a directory" in refused(str(tmp_path))


def test_a_file_with_more_answers_is_left_as_it_is(tmp_path: Path) -> None:
    """After a purge there is nothing to write, and the good file stays."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(ANSWER * 5)
    with pytest.raises(InvalidRequest, match="holds 5 answers and there are 0"), Files(str(path), None, grows=False):
        pass
    assert path.read_bytes() == ANSWER * 5
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl"]  # no .part is left
    with Files(str(path), None, grows=False, force=True):
        pass
    assert path.read_bytes() == b""


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    target.write_bytes(b"")
    link.symlink_to(target)
    with Files(str(link), None, grows=False):
        pass
    assert link.is_symlink()
    assert link.resolve() == target


@pytest.mark.parametrize("becomes", ["moved", "removed", "replaced"])
def test_a_file_that_goes_while_it_grows_is_said_and_what_is_there_now_stays(tmp_path: Path, becomes: str) -> None:
    """Else answers go where nobody finds them, and the last line of a stranger's file is cut off."""
    path, elsewhere, stranger = tmp_path / "out.jsonl", tmp_path / "old.jsonl", b"not ours, without an end"
    with pytest.raises(NotWritten, match="moved or removed") as caught, Files(str(path), None, grows=True) as files:
        files.write(LINE)
        files.flush()
        path.rename(elsewhere) if becomes == "moved" else path.unlink()
        if becomes == "replaced":
            path.write_bytes(stranger)
        files.write(LINE)
        files.flush()
    assert caught.value.offset == 0
    assert elsewhere.exists() == (becomes == "moved")
    assert not path.exists() or path.read_bytes() == stranger


def test_who_stops_cuts_its_own_file_and_no_other(tmp_path: Path) -> None:
    """The file was rotated away, and its name is another's by now."""
    path, mine = tmp_path / "out.jsonl", tmp_path / "out.jsonl.1"
    with pytest.raises(KeyboardInterrupt), Files(str(path), None, grows=True) as files:
        files.write(LINE)
        files.flush()
        files.write(LINE)
        path.rename(mine)
        path.write_bytes(b"a stranger's file that is longer than one line of answers" * 9)
        raise KeyboardInterrupt
    assert mine.read_bytes() == answered(LINE)
    assert path.read_bytes() == b"a stranger's file that is longer than one line of answers" * 9


def test_a_file_of_requests_is_known_whatever_its_first_line_is(tmp_path: Path) -> None:
    """A picture of megabytes, a bad line, a mark, blanks, gzip: not even `--force` writes over it."""
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "x" * 2_000_000}}
    line, path = jsontext.dumps(asked) + b"\n", tmp_path / "in.jsonl"
    for content in (line, b"a bad line\n" + line, b"\n\n" + line, b"\xef\xbb\xbf" + line, gzip.compress(line)):
        path.write_bytes(content)
        assert "is a file of requests" in refused(str(path), force=True)
    path.write_bytes(b"a diary\n" + ANSWER)
    assert "does not look like a file of answers" in refused(str(path), overwrite=True)


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in ("/dev/null", str(link)):
        output_paths.check(path, "-")
        with Files(path, "-", grows=False):
            pass
    assert Path("/dev/null").is_char_device()
    assert link.is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """The bytes that do not fit are noticed when the file is closed, and what was there before stays."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(ANSWER)
    files = Files(str(path), None, grows=False)
    opened = files._open[0]
    opened.file.close()
    opened.file = Path("/dev/full").open("wb")  # noqa: SIM115 -- `files` closes it
    with pytest.raises(NotWritten, match=r"out\.jsonl: the disk is full"), files:
        opened.file.write(ANSWER)
    assert path.read_bytes() == ANSWER
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085"])
def test_a_line_is_one_line_for_every_reader(character: str) -> None:
    body = jsontext.dumps({"text": f"a{character}b"})
    line = output_line(line_id="l", custom_id=f"c{character}", status=200, request_id=None, body=body)
    error = error_line(line_id="l", custom_id="c", code="failed", message=f"x{character}y")
    for one in (line, error):
        assert len(one.decode().splitlines()) == 1
    assert jsontext.loads(line)["response"]["body"]["text"] == f"a{character}b"
    assert jsontext.loads(line)["custom_id"] == f"c{character}"


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085"])
def test_what_a_command_prints_as_json_is_one_line_for_every_reader(
    capsys: pytest.CaptureFixture[str], character: str
) -> None:
    """`watch --json`, `show --json`, the lists."""
    put_json({"text": f"a{character}b"})
    [line] = capsys.readouterr().out.splitlines()
    assert jsontext.loads(line)["text"] == f"a{character}b"
