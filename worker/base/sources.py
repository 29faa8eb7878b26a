"""Where settings come from: the environment, then `.env`, then `stockpot.toml` of the working directory.

A variable that is set and empty is not set. What cannot be read is one line that names the file and the place.
"""

from __future__ import annotations

import io
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from worker.base.errors import SettingsError

PREFIX = "STOCKPOT_"
ENVIRONMENT, DOTENV, TOML = "the environment", ".env", "stockpot.toml"

#: Keys that other programs or the Makefile read; they are ours by prefix and no setting.
NOT_SETTINGS = frozenset({"STOCKPOT_CRASH_AT", "STOCKPOT_REDIS_SERVER"})
#: The provider's own name for the key, which many already have in their environment; and a name that pydantic has taken.
_ALIASES = {"AIMLAPI_API_KEY": "api_key", "STOCKPOT_SCHEMA": "schema_name"}

#: What Kubernetes puts into every pod beside a Service called `stockpot` or `stockpot-…`.
_SERVICE_NAME = re.compile(
    r"STOCKPOT_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"STOCKPOT_(?:\w+_)?PORT")
_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")

#: What a `.env` may take from the environment: where things lie, nothing that is secret.
_PLACES = frozenset(
    {"HOME", "PWD", "TMPDIR", "USER", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"}
)

_ENCODINGS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def variable(field: str) -> str:
    """The variable of a setting."""
    ours = (name for name, of in _ALIASES.items() if of == field and name.startswith(PREFIX))
    return next(ours, PREFIX + field.upper())


class Everything(PydanticBaseSettingsSource):
    """All three sources as one, so that what belongs together can be compared by where it stands."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._names = set(settings_cls.model_fields)
        self._usual = settings_cls.model_fields["upstream_url"].default

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """No value by itself: `__call__` gives all fields at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every value that is set, by its field; the first source that has it.

        Raises:
            SettingsError: an unknown key, a file that cannot be read, or an upstream of the project for the user's key.
        """
        environment = self._fields(_environment(), ENVIRONMENT)
        project = {DOTENV: self._fields(_dotenv(Path(".env")), DOTENV), TOML: _toml(Path("stockpot.toml"), self._names)}
        refuse_mixed(self.current_state, environment, project, usual=self._usual)
        return {**project[TOML], **project[DOTENV], **environment}

    def hidden(self) -> list[tuple[str, str, str]]:
        """What is set in a file and otherwise in a source that goes before it: the variable, its file, the winner."""
        places: dict[str, Mapping[str, Any]] = {
            ENVIRONMENT: self._fields(_environment(), ENVIRONMENT),
            DOTENV: self._fields(_dotenv(Path(".env")), DOTENV),
            TOML: _toml(Path("stockpot.toml"), self._names),
        }
        found, names = [], list(places)
        for at, place in enumerate(names):
            for field, value in places[place].items():
                winner = next((name for name in names[:at] if field in places[name]), None)
                if winner is not None and str(places[winner][field]) != str(value):
                    found.append((variable(field), place, winner))
        return found

    def _fields(self, variables: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
        found: dict[str, str] = {}
        unknown = []
        for name, value in variables:
            if name in _ALIASES:
                found[_ALIASES[name]] = value
            elif name in NOT_SETTINGS or not name.startswith(PREFIX):
                continue
            elif (field := name.removeprefix(PREFIX).lower()) in self._names:
                found.setdefault(field, value)
            else:
                unknown.append(name)
        if unknown:
            beside = "" if where == ENVIRONMENT else f"{where}: "
            raise SettingsError(
                f"{beside}unknown setting {', '.join(sorted(unknown))}; `docs/settings.md` lists the names"
            )
        return found


def refuse_mixed(
    arguments: Mapping[str, Any],
    environment: Mapping[str, Any],
    project: Mapping[str, Mapping[str, Any]],
    *,
    usual: str,
) -> None:
    """Refuse a project file's upstream for a key, or for headers, that stand elsewhere: it may be a stranger's file.

    Args:
        usual: the upstream that needs no setting; a file may name it.

    Raises:
        SettingsError: naming both places.
    """
    upstream = next((name for name in (DOTENV, TOML) if "upstream_url" in project[name]), None)
    if upstream is None or "upstream_url" in arguments or "upstream_url" in environment:
        return
    if str(project[upstream]["upstream_url"]).rstrip("/") == usual:
        return
    sources = {"the program's arguments": arguments, ENVIRONMENT: environment, **project}
    for field in ("upstream_headers", "api_key", "api_key_file"):
        place = next((name for name, values in sources.items() if values.get(field) is not None), None)
        if place is None:
            continue
        if place != upstream:
            raise SettingsError(
                f"STOCKPOT_UPSTREAM_URL comes from {upstream} and {PREFIX + field.upper()} from {place}: a file of the"
                f" working directory must not direct your key to an upstream of its choice. Set both in the same place."
            )
        if field == "api_key":
            return  # it wins over a key's file
        if field == "api_key_file" and not Path(str(project[place][field])).resolve().is_relative_to(Path.cwd()):
            raise SettingsError(
                f"STOCKPOT_UPSTREAM_URL and STOCKPOT_API_KEY_FILE come from {upstream}, and the key's file lies outside"
                " its directory: set STOCKPOT_UPSTREAM_URL in the environment."
            )


def _environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if value and not _is_of_kubernetes(name.upper(), value):
            yield name.upper(), value


def _is_of_kubernetes(name: str, value: str) -> bool:
    if _SERVICE_NAME.fullmatch(name):
        return True
    return _SERVICE_PORT.fullmatch(name) is not None and _SERVICE_ADDRESS.fullmatch(value) is not None


def _dotenv(path: Path) -> Iterator[tuple[str, str]]:
    """The file's variables; the application around us may share it, so only our own lines must be right."""
    text = _text(path)
    if text is None:
        return
    bindings = list(parse_stream(io.StringIO(text)))
    for binding in bindings:
        line = binding.original.string
        if binding.error and (PREFIX in line.upper() or "AIMLAPI_" in line.upper()):
            raise SettingsError(f"{path}, line {binding.original.line}: expected NAME=value; is a quote not closed?")
    for name, value in _expanded(path, bindings).items():
        if value:
            yield name, value


def _expanded(path: Path, bindings: Iterable[Binding]) -> dict[str, str]:
    """The file's own values by their names in capitals, `${NAME}` and `${NAME:-other}` put in from the lines before.

    A setting of ours takes nothing from the environment that way, but where things lie: the file may be a stranger's,
    and a secret of the user's would go to whatever host the same file names.

    Raises:
        SettingsError: such a setting.
    """
    values: dict[str, str] = {}
    foreign: dict[str, str] = {}  # by name, the variable of the environment that its value would hold
    for binding in bindings:
        if binding.error or binding.key is None:
            continue
        name, value, taken = binding.key, "", None
        for atom in parse_variables(binding.value or ""):
            if isinstance(atom, Variable) and atom.name not in values:
                value += atom.resolve(os.environ)
                if os.environ.get(atom.name) and atom.name not in _PLACES:
                    taken = atom.name
            else:
                value += atom.resolve(values)
                taken = foreign.get(getattr(atom, "name", ""), taken)
        values[name] = value
        foreign.pop(name, None)
        if taken is not None:
            foreign[name] = taken
    for name, of in foreign.items():
        if name.upper().startswith((PREFIX, "AIMLAPI_")) and name.upper() not in NOT_SETTINGS:
            raise SettingsError(
                f"{path}: {name.upper()} takes ${{{of}}} from the environment; a file of the working directory must not"
                f" direct it to a place of its choice. Set {name.upper()} itself in the environment."
            )
    return {name.upper(): value for name, value in values.items()}


def _toml(path: Path, names: set[str]) -> dict[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    unknown = sorted(set(values) - names)
    if unknown:
        raise SettingsError(f"{path}: unknown setting {', '.join(unknown)}; `docs/settings.md` lists the names")
    return {name: value for name, value in values.items() if value != ""}


def _text(path: Path) -> str | None:
    """A file's text, by its byte order mark or as UTF-8; None when there is none (a directory is none)."""
    if not path.exists() or path.is_dir():
        return None
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    encoding = next((name for mark, name in _ENCODINGS if raw.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in raw:
        # Each line of it would be read as another program's.
        raise SettingsError(f"{path}: it holds NUL bytes, as UTF-16 without a byte order mark does; save it as UTF-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: it is not {encoding.removesuffix('-sig').upper()}") from None
