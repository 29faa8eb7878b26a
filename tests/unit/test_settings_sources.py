"""Where settings stand: files of other encodings, what is empty or broken, Kubernetes, and whose upstream gets whose key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.base.errors import SettingsError
from worker.base.settings import Settings, load
from worker.db.connect import Database
from worker.db.ready import ensure_schema

EVIL = "https://elsewhere.example/v1"
ELSEWHERE = {
    ".env": f"STOCKPOT_UPSTREAM_URL={EVIL}\n",
    "stockpot.toml": f'upstream_url = "{EVIL}"\n',
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("file", list(ELSEWHERE))
@pytest.mark.parametrize("key", ["AIMLAPI_API_KEY", "STOCKPOT_API_KEY", "STOCKPOT_API_KEY_FILE"])
def test_a_projects_upstream_does_not_get_the_users_key(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, file: str, key: str
) -> None:
    """The refusal names both places; with the upstream beside the key there is none."""
    (nowhere / file).write_text(ELSEWHERE[file])
    monkeypatch.setenv(key, "sk-of-the-user")
    with pytest.raises(SettingsError, match=re.escape(file)) as refused:
        load()
    assert "the environment" in str(refused.value)
    assert "sk-of-the-user" not in str(refused.value)
    with pytest.raises(SettingsError):
        Settings()  # also where nobody calls `load`
    monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", "https://of-the-user.example/v1")
    assert load().upstream_url == "https://of-the-user.example/v1"


def test_a_projects_upstream_gets_the_key_that_stands_beside_it(nowhere: Path) -> None:
    """One file with both, whichever it is; not two files."""
    (nowhere / ".env").write_text(ELSEWHERE[".env"] + "STOCKPOT_API_KEY=sk-of-the-project\n")
    assert (load().upstream_url, load().key) == (EVIL, "sk-of-the-project")
    (nowhere / ".env").write_text("STOCKPOT_API_KEY=sk-of-the-user\n")
    (nowhere / "stockpot.toml").write_text(ELSEWHERE["stockpot.toml"])
    with pytest.raises(SettingsError, match=r"stockpot\.toml.*\.env"):
        load()


def test_a_project_cannot_name_a_file_of_the_user_as_its_key(nowhere: Path, tmp_path: Path) -> None:
    """A key file beside the settings is the project's own."""
    (tmp_path / "id_token").write_text("sk-of-the-user")
    (nowhere / ".env").write_text(ELSEWHERE[".env"] + "STOCKPOT_API_KEY_FILE=../id_token\n")
    with pytest.raises(SettingsError, match="STOCKPOT_API_KEY_FILE"):
        load()
    (nowhere / "key").write_text("sk-of-the-project")
    (nowhere / ".env").write_text(ELSEWHERE[".env"] + "STOCKPOT_API_KEY_FILE=key\n")
    assert load().key == "sk-of-the-project"


@pytest.mark.parametrize("file", list(ELSEWHERE))
@pytest.mark.parametrize("beside", [False, True])
def test_a_projects_upstream_does_not_get_the_users_headers(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, file: str, *, beside: bool
) -> None:
    """They carry Azure's key, and any other; also where the project has a key of its own."""
    key = {".env": "STOCKPOT_API_KEY=sk-of-the-project\n", "stockpot.toml": 'api_key = "sk-of-the-project"\n'}[file]
    (nowhere / file).write_text(ELSEWHERE[file] + (key if beside else ""))
    monkeypatch.setenv("STOCKPOT_UPSTREAM_HEADERS", "api-key=sk-of-the-user")
    with pytest.raises(SettingsError, match=rf"{re.escape(file)} and STOCKPOT_UPSTREAM_HEADERS") as refused:
        load()
    assert "sk-of-the-user" not in str(refused.value)
    monkeypatch.delenv("STOCKPOT_UPSTREAM_HEADERS")
    with (nowhere / file).open("a") as more:
        more.write(
            {".env": "STOCKPOT_UPSTREAM_HEADERS=x-a=1\n", "stockpot.toml": "upstream_headers = {x-a = '1'}\n"}[file]
        )
    assert load().upstream_headers is not None


@pytest.mark.parametrize(
    "lines",
    [
        f"STOCKPOT_UPSTREAM_URL={EVIL}\nSTOCKPOT_API_KEY=${{OPENAI_API_KEY}}",
        f"STOCKPOT_UPSTREAM_URL={EVIL}/${{OPENAI_API_KEY}}/v1",
        "STOCKPOT_REDIS_URL=redis://elsewhere.example/0?username=${OPENAI_API_KEY:-x}",
        "K='${OPENAI_API_KEY}'\nK=x${K}\nSTOCKPOT_DATABASE_URL=postgresql://elsewhere.example/${K}",
        "AIMLAPI_API_KEY=${OPENAI_API_KEY}\nAIMLAPI_API_KEY=${AIMLAPI_API_KEY}",
    ],
)
def test_a_project_takes_no_secret_out_of_the_environment(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    """Whatever it calls it on the way; a value of its own, a default and the home may be put in."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    (nowhere / ".env").write_text(lines + "\n")
    with pytest.raises(SettingsError, match=r"\$\{OPENAI_API_KEY\} from the environment") as refused:
        load()
    assert "sk-of-the-user" not in str(refused.value)
    monkeypatch.setenv("HOME", str(nowhere))
    monkeypatch.delenv("OPENAI_API_KEY")
    (nowhere / ".env").write_text(
        "P=secret\nSTOCKPOT_HOME=${HOME}/pot\nSTOCKPOT_REDIS_URL=redis://:${P}@${H:-h}/0\nTHEIRS=${PATH}\n"
    )
    assert (str(load().home), load().redis_url) == (str(nowhere / "pot"), "redis://:secret@h/0")


def test_the_usual_upstream_may_be_named_by_anybody(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It directs the key nowhere else."""
    (nowhere / ".env").write_text("STOCKPOT_UPSTREAM_URL=https://api.aimlapi.com/v1/\n")
    monkeypatch.setenv("AIMLAPI_API_KEY", "sk-of-the-user")
    assert load().key == "sk-of-the-user"


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "10.0.0.7", "evil.localhost", "127.0.0.1.elsewhere.example", "[2001:db8::1]"]
)
def test_plain_http_to_another_machine_needs_a_setting(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Loopback needs none."""
    with pytest.raises(SettingsError, match="STOCKPOT_UPSTREAM_PLAIN_HTTP"):
        load(upstream_url=f"http://{host}/v1")
    monkeypatch.setenv("STOCKPOT_UPSTREAM_PLAIN_HTTP", "true")
    assert load(upstream_url=f"http://{host}/v1").upstream_url == f"http://{host}/v1"


@pytest.mark.parametrize("host", ["localhost:8100", "127.0.0.1", "127.8.9.1:1", "[::1]:8100"])
def test_plain_http_to_this_machine_is_fine(host: str) -> None:
    """The simulator, a proxy beside us."""
    assert load(upstream_url=f"http://{host}/v1/").upstream_url == f"http://{host}/v1"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_files_are_read_by_their_byte_order_mark(nowhere: Path, encoding: str) -> None:
    """As Windows editors and shells write them."""
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (nowhere / ".env").write_bytes((mark + "STOCKPOT_RPM=7\n").encode(encoding))
    (nowhere / "stockpot.toml").write_bytes((mark + "tpm = 8\n").encode(encoding))
    assert (load().rpm, load().tpm) == (7, 8)


@pytest.mark.parametrize(
    ("file", "content", "place"),
    [
        (".env", b'A=b\nSTOCKPOT_REDIS_URL="redis://h\nC=d\n', r"\.env, line 2"),
        (".env", b"A=b\nB=\xe9\n", r"\.env, line 2"),
        ("stockpot.toml", b"rpm = 1\ntpm = = 2\n", r"stockpot\.toml: .*line 2"),
        ("stockpot.toml", b"rpm = 1\nx = '\xe9'\n", r"stockpot\.toml, line 2"),
        ("stockpot.toml", b"rpmm = 1\n", r"stockpot\.toml: unknown setting rpmm"),
        ("stockpot.toml", b"[limits]\nrpm = 1\n", r"stockpot\.toml: unknown setting limits"),
        (".env", "STOCKPOT_RPM=7\n".encode("utf-16-le"), r"\.env: it holds NUL bytes.*UTF-16.*save it as UTF-8"),
        (".env", "STOCKPOT_RPM=7\n".encode("utf-16-be"), r"\.env: it holds NUL bytes"),
        ("stockpot.toml", "rpm = 7\n".encode("utf-16-le"), r"stockpot\.toml: it holds NUL bytes"),
    ],
)
def test_a_broken_file_is_one_line_with_its_place(nowhere: Path, file: str, content: bytes, place: str) -> None:
    """Whoever runs a command sees where to look, and no traceback."""
    (nowhere / file).write_bytes(content)
    with pytest.raises(SettingsError, match=place) as refused:
        load()
    assert len(str(refused.value).splitlines()) == 1


def test_lines_of_others_that_cannot_be_read_are_theirs(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not refused, not logged; a virtual environment that is called `.env` is no file of settings."""
    (nowhere / ".env").write_text("{ not: ours }\nSTOCKPOT_RPM=7\n'quoted\n")
    assert load().rpm == 7
    assert caplog.records == []
    (nowhere / ".env").unlink()
    (nowhere / ".env").mkdir()
    assert load().rpm is None


def test_what_is_set_and_empty_is_not_set(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and CI write empty variables for what nobody gave; the next source has its say."""
    names = [f"STOCKPOT_{name.upper()}" for name in Settings.model_fields]
    for name in [*names, "AIMLAPI_API_KEY"]:
        monkeypatch.setenv(name, "")
    assert load() == Settings.model_validate({})
    (nowhere / ".env").write_text("STOCKPOT_RPM=\nSTOCKPOT_API_KEY=sk-mine\n")
    (nowhere / "stockpot.toml").write_text('rpm = 7\nredis_url = ""\n')
    assert (load().rpm, load().redis_url, load().key) == (7, None, "sk-mine")


@pytest.mark.parametrize("level", ["INFO", "Info", "info"])
def test_words_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """As every other program takes them."""
    monkeypatch.setenv("STOCKPOT_LOG_LEVEL", level)
    monkeypatch.setenv("STOCKPOT_ON_AMBIGUOUS", "RETRY")
    assert (load().log_level, load().on_ambiguous) == ("info", "retry")


def test_what_kubernetes_puts_beside_a_service_is_ignored_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services called `stockpot`, `stockpot-gateway` and `stockpot-http`; two of their variables are also settings."""
    for service in ("STOCKPOT", "STOCKPOT_GATEWAY", "STOCKPOT_HTTP"):
        for name, value in {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "80",
            "SERVICE_PORT_HTTP": "80",
            "PORT": "tcp://10.0.0.1:80",
            "PORT_80_TCP": "tcp://10.0.0.1:80",
            "PORT_80_TCP_PROTO": "tcp",
            "PORT_80_TCP_PORT": "80",
            "PORT_80_TCP_ADDR": "10.0.0.1",
        }.items():
            monkeypatch.setenv(f"{service}_{name}", value)
    assert load() == Settings.model_validate({})
    monkeypatch.setenv("STOCKPOT_HTTP_PORT", "9000")
    assert load().http_port == 9000
    for stranger in ("STOCKPOT_PORT", "STOCKPOT_SERVICE_HOSTS", "STOCKPOT_PORT_80"):
        monkeypatch.setenv(stranger, "80")
        with pytest.raises(SettingsError, match=stranger):
            load()
        monkeypatch.delenv(stranger)


def test_a_short_secret_key_is_refused_where_producers_start() -> None:
    """Workers would not start with it either."""
    with pytest.raises(SettingsError, match="STOCKPOT_SECRET_KEY"):
        load(secret_key="long enough for everybody, short")


@pytest.mark.parametrize("name", ["what?", "x%41", "a#b", "50%", "with space", "p@th"])
def test_the_home_may_be_called_anything(tmp_path: Path, name: str) -> None:
    """The database is in the home, not beside it."""
    settings = Settings(home=tmp_path / name)
    ensure_schema(settings)
    database = Database(settings, pool_size=1)
    database.close()
    assert (tmp_path / name / "stockpot.db").stat().st_size > 0
    assert {one.name for one in tmp_path.iterdir()} == {name, "project"}
