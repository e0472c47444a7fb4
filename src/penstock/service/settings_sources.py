"""
Where settings come from: flags, environment, a file.

Owns the order of precedence and what is refused or warned of. Form: pure reading; only `load` looks at files, and `read`
whether the certificate is there.

A setting `long_poll_timeout_s` is, in order of precedence:

1. a flag of the command, where there is one;
2. `PENSTOCK_LONG_POLL_TIMEOUT_S`, a bare number being in the unit that the name ends with;
3. its name in the protocol's world, `PENSTOCK_LONG_POLL_TIMEOUT` or else `ELECTRIC_LONG_POLL_TIMEOUT`, a bare number
   being in milliseconds there;
4. `long_poll_timeout_s = 20` in `penstock.toml`, numbers as in 2;
5. the default.

An empty variable counts as absent.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

import msgspec
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from penstock.errors import ConfigError
from penstock.service.declarations import DECLARATIONS, WITHOUT_EFFECT, Declaration, Kind
from penstock.service.quantities import parse_duration_s, parse_size, parse_truth, parse_whole
from penstock.service.settings import PUBLICATION_PREFIX, SECRET_FIELDS, SLOT_PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME: Final = "penstock.toml"
OPEN_TO_ALL: Final = "Running without a secret: whoever reaches the port can read all that the database user can read."
_IDENTIFIER_BYTES_MAX: Final = 63
_STREAM_ID: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_SLOT_NAME: Final = re.compile(r"[a-z0-9_]+", re.ASCII)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
IDLE_TIMEOUT_S_MIN: Final = 30.0
"""A connection that is closed sooner than this would be opened and closed all the time."""
_LISTEN_ON_IPV6: Final = "LISTEN_ON_IPV6"
_CONCURRENT_REQUESTS: Final = "MAX_CONCURRENT_REQUESTS"
_PERSISTENT_STATE: Final = "PERSISTENT_STATE"
_RANDOM_SLOT_NAME: Final = "TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME"
_FEATURE_FLAGS: Final = "FEATURE_FLAGS"
_SPECIAL: Final = (_LISTEN_ON_IPV6, _CONCURRENT_REQUESTS, _PERSISTENT_STATE, _RANDOM_SLOT_NAME, _FEATURE_FLAGS)
_BY_NAME: Final = {declaration.name: declaration for declaration in DECLARATIONS}


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    Settings as read, and what is to be said about how they were given.
    """

    settings: Settings
    warnings: tuple[str, ...]


def load(
    flags: Mapping[str, str], environ: Mapping[str, str], folder: Path, *, file: Path | None = None, token: str
) -> Loaded:
    """
    Read the settings of a run.

    Args:
        flags: what the command line says, by field name.
        environ: the environment.
        folder: relative paths are relative to it; `penstock.toml` is looked for in it.
        file: a settings file other than that; it must exist.
        token: 32 random hexadecimal digits, for a slot with a random name.

    Raises:
        ConfigError: something is missing, malformed or contradicts another.
    """
    path = file if file is not None else folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if file is not None:
            raise ConfigError(f"there is no file {file}") from None
        text = ""
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path} cannot be read: {cause}") from cause
    return read(flags, environ, text, folder=folder, file_name=path.name, token=token)


def read(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    text: str,
    *,
    folder: Path,
    file_name: str = FILE_NAME,
    token: str,
) -> Loaded:
    """
    Like `load`, with the text of the settings file.
    """
    reading = _Reading(flags, {name: value for name, value in environ.items() if value != ""}, text, file_name)
    values = {d.name: value for d in DECLARATIONS if (value := reading.value_of(d)) is not None}
    _apply_special(reading, values)
    _check_names(values, is_random=reading.truth_of(_RANDOM_SLOT_NAME), token=token)
    _check_access(values, reading)
    _check_database(values, reading)
    _check_sleep(values, reading)
    for name in ("data_dir", "relay_dir", "database_ca_certificate_file"):
        if name in values or name == "data_dir":
            values[name] = folder / values.get(name, Path("persistent"))
    certificate = values.get("database_ca_certificate_file")
    if certificate is not None and not certificate.is_file():
        raise ConfigError(f"database_ca_certificate_file: there is no file {certificate}")
    settings = Settings(**values)
    if settings.transaction_limit_bytes > settings.relay_bytes_max // 2:
        raise ConfigError("transaction_bytes_max must not be over half of relay_bytes_max: raise the latter")
    reading.report_strangers()
    return Loaded(settings, tuple(reading.warnings))


class _Reading:
    """
    The sources of one run, and what there is to say about them.
    """

    def __init__(self, flags: Mapping[str, str], environ: Mapping[str, str], text: str, file_name: str) -> None:
        self.flags: Final = flags
        self.environ: Final = environ
        self.file_name: Final = file_name
        self.warnings: Final[list[str]] = []
        try:
            self.table: Final = tomllib.loads(text)
        except tomllib.TOMLDecodeError as cause:
            raise ConfigError(f"{file_name} is not TOML: {cause}") from cause

    def value_of(self, declaration: Declaration) -> Any:
        """
        Find and read a setting; None when nothing says anything.
        """
        found = self.find(declaration.name, declaration.aliases, declaration.bare_aliases)
        if found is None:
            return None
        source, text, bare_unit = found
        return _read_text(declaration, source, text, bare_unit)

    def find(self, own: str, aliases: tuple[str, ...], bare: tuple[str, ...] = ()) -> tuple[str, str, str] | None:
        """
        Find a setting: where it was said, what, and the unit of a bare duration.
        """
        variable = f"PENSTOCK_{own.upper()}"
        names = [(variable, "s")]
        names += [(f"{prefix}_{alias}", "ms") for alias in aliases for prefix in ("PENSTOCK", "ELECTRIC")]
        names += [(name, "ms") for name in bare]
        said = [(name, self.environ[name], unit) for name, unit in names if name in self.environ]
        for name, text, _ in said[1:]:
            if text != said[0][1]:
                self.warnings.append(f"{name} is not looked at, because {said[0][0]} is set.")
        if own in self.flags:
            return f"--{own.replace('_', '-')}", self.flags[own], "s"
        if said:
            return said[0]
        if own in self.table:
            value = self.table[own]
            if isinstance(value, dict | list):
                raise ConfigError(f"{own} in {self.file_name}: a single value is expected")
            return f"{own} in {self.file_name}", str(value), "s"
        return None

    def special(self, alias: str) -> tuple[str, str] | None:
        """
        Find a variable that has no field of its own.
        """
        for prefix in ("PENSTOCK", "ELECTRIC"):
            name = f"{prefix}_{alias}"
            if name in self.environ:
                return name, self.environ[name]
        return None

    def truth_of(self, alias: str) -> bool:
        """
        Read a special variable that is true or false; absent is false.
        """
        found = self.special(alias)
        if found is None:
            return False
        try:
            return parse_truth(found[1])
        except ValueError as cause:
            raise ConfigError(f'{found[0]}: "{found[1]}" is not {cause}') from None

    def report_strangers(self) -> None:
        """
        Name what was said and not understood.
        """
        idle = sorted(name for name in self.environ if _strip(name) in WITHOUT_EFFECT or name == "SENTRY_DSN")
        if idle:
            self.warnings.append(f"These settings are accepted and have no effect here: {', '.join(idle)}.")
        # The last is for tests: see `penstock.testing.faults`.
        ours = {f"PENSTOCK_{d.name.upper()}" for d in DECLARATIONS} | {"PENSTOCK_FAULTS"}
        aliases = {alias for d in DECLARATIONS for alias in d.aliases} | set(_SPECIAL)
        known = ours | {f"{prefix}_{alias}" for alias in aliases for prefix in ("PENSTOCK", "ELECTRIC")}
        for name in sorted(self.environ):
            if name.startswith(("PENSTOCK_", "ELECTRIC_")) and name not in known and name not in idle:
                self.warnings.append(f"{name} is not a setting known here and is ignored{_hint(name, known)}.")
        for name in sorted(self.table):
            if name not in _BY_NAME:
                raise ConfigError(f"{self.file_name}: {name} is not a setting{_hint(name, _BY_NAME)}")


def _strip(name: str) -> str:
    """
    Take the prefix off a variable's name; empty when it has none.
    """
    prefix, _, rest = name.partition("_")
    return rest if prefix in {"PENSTOCK", "ELECTRIC"} else ""


def _hint(name: str, known: Any) -> str:
    """
    Suggest what was meant.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _read_text(declaration: Declaration, source: str, text: str, bare_unit: str) -> Any:
    """
    Read the text of a setting and check its bounds.
    """
    readers: dict[Kind, Callable[[str], Any]] = {
        Kind.DURATION: lambda text: parse_duration_s(text, bare_unit=bare_unit),
        Kind.SECONDS: lambda text: int(parse_duration_s(text, bare_unit="s")),
        Kind.SIZE: parse_size,
        Kind.WHOLE: parse_whole,
        Kind.TRUTH: parse_truth,
        Kind.TEXT: str,
        Kind.PATH: lambda text: Path(text).expanduser(),
        Kind.CHOICE: lambda text: _choose(declaration, text),
    }
    shown = "its value" if declaration.name in SECRET_FIELDS else f'"{text}"'
    try:
        value = readers[declaration.kind](text)
    except ValueError as cause:
        raise ConfigError(f"{source}: {shown} is not {cause}") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        unit = " s" if declaration.kind in {Kind.DURATION, Kind.SECONDS} else ""
        if value < declaration.at_least:
            raise ConfigError(f"{source}: {shown} is too small, at least {declaration.at_least:g}{unit} is needed")
        if value > declaration.at_most:
            raise ConfigError(f"{source}: {shown} is too large, at most {declaration.at_most:g}{unit} is possible")
    return value


def _choose(declaration: Declaration, text: str) -> str:
    """
    Read one of a list of words.
    """
    word = text.strip().lower()
    if declaration.name == "storage" and word in {"file", "legacy_file"} and text != "file":
        raise ValueError("supported: use FAST_FILE, the default, or MEMORY")
    if word not in declaration.choices:
        raise ValueError(f"one of {', '.join(sorted(declaration.choices))}")
    return declaration.choices[word]


def _apply_special(reading: _Reading, values: dict[str, Any]) -> None:
    """
    Read the variables that have no field of their own.
    """
    if reading.truth_of(_LISTEN_ON_IPV6):
        values.setdefault("host", "::")
    state = reading.special(_PERSISTENT_STATE)
    if state is not None:
        if state[1].lower() not in {"file", "memory"}:
            raise ConfigError(f'{state[0]}: "{state[1]}" is not FILE or MEMORY')
        if state[1].lower() == "memory":
            # What shapes there are is state: without it their files are of no use.
            values["storage"] = "memory"
    requests = reading.special(_CONCURRENT_REQUESTS)
    if requests is not None:
        try:
            limits = msgspec.json.decode(requests[1], type=dict[Literal["initial", "existing"], int])
            if any(limit < 1 for limit in limits.values()):
                raise ValueError(requests[1])
        except (msgspec.MsgspecError, ValueError):
            example = json.dumps({"initial": 300, "existing": 10000})
            raise ConfigError(f"{requests[0]}: \"{requests[1]}\" is not a JSON object such as '{example}'") from None
        for kind, limit in limits.items():
            values.setdefault(f"requests_{kind}_max", limit)
    flags = reading.special(_FEATURE_FLAGS)
    for flag in (flags[1] if flags is not None else "").split(","):
        if flag.strip():
            reading.warnings.append(f"Unknown feature flag {flag.strip()}: there are none.")


def _check_names(values: dict[str, Any], *, is_random: bool, token: str) -> None:
    """
    Settle the names of slot and publication.
    """
    stream = values.get("replication_stream_id", "default")
    length_max = _IDENTIFIER_BYTES_MAX - len(PUBLICATION_PREFIX)
    if _STREAM_ID.fullmatch(stream) is None or len(stream) > length_max:
        raise ConfigError(
            f'replication_stream_id: "{stream}" cannot end a name in Postgres: use at most {length_max} lower-case '
            "letters, digits and underscores, not beginning with a digit"
        )
    is_temporary = values.get("temporary_slot", False)
    ending = token if is_temporary and is_random else stream
    slot = values.setdefault("slot_name", SLOT_PREFIX + ending)
    if _SLOT_NAME.fullmatch(slot) is None or len(slot) > _IDENTIFIER_BYTES_MAX:
        raise ConfigError(
            f'slot_name: "{slot}" is not a name for a slot: Postgres takes at most 63 lower-case letters, digits and '
            "underscores"
        )
    publication = values.setdefault("publication_name", PUBLICATION_PREFIX + stream)
    if not publication or len(publication.encode()) > _IDENTIFIER_BYTES_MAX or "\0" in publication:
        raise ConfigError(f'publication_name: "{publication}" is longer than the 63 bytes that Postgres takes')


def _check_access(values: dict[str, Any], reading: _Reading) -> None:
    """
    Either a secret or the word that there is none.
    """
    if values.get("secret") == "":
        raise ConfigError("the secret is empty: choose one, or say --insecure to serve without")
    if "secret" in values and values.get("insecure"):
        raise ConfigError("You cannot set both PENSTOCK_SECRET and PENSTOCK_INSECURE=true: choose one of them")
    is_judged = values.get("authorize") is not None
    if "secret" not in values and not values.get("insecure") and not is_judged:
        raise ConfigError(
            "You must set either PENSTOCK_SECRET (clients then send it as the parameter `secret`) or "
            "PENSTOCK_INSECURE=true, the flag --insecure (anybody who reaches the port can read every table)"
        )
    if values.get("insecure") and not is_judged:
        reading.warnings.append(OPEN_TO_ALL)


def _check_database(values: dict[str, Any], reading: _Reading) -> None:
    """
    Check the URLs, and leave out of them what libpq would refuse.
    """
    if "database_url" not in values:
        raise ConfigError(
            "no database is named: give its URL as the first argument or as DATABASE_URL, such as "
            "postgresql://user:password@localhost:5432/database"
        )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name in ("database_url", "pooled_database_url"):
        if name not in values:
            continue
        url, dropped = _clean_url(name.upper(), values[name], known)
        if dropped:
            reading.warnings.append(f"Parameters of {name.upper()} that libpq does not know: {', '.join(dropped)}.")
        values[name] = url
        options = conninfo_to_dict(url)
        if values.get("database_ca_certificate_file") is not None and options.get("sslmode") == "disable":
            raise ConfigError(
                "database_ca_certificate_file is set but sslmode=disable is in the URL: take one of them away"
            )


def _check_sleep(values: dict[str, Any], reading: _Reading) -> None:
    """
    Check after how long the service may sleep, and whether it may at all.
    """
    timeout_s = values.get("replication_idle_timeout_s", 0.0)
    if 0 < timeout_s < IDLE_TIMEOUT_S_MIN:
        raise ConfigError(
            f"Invalid value for PENSTOCK_REPLICATION_IDLE_TIMEOUT: {timeout_s * 1000:g}. "
            f"The minimum supported timeout is {IDLE_TIMEOUT_S_MIN:g}sec."
        )
    if timeout_s and values.get("temporary_slot"):
        reading.warnings.append(
            "replication_idle_timeout_s has no effect: a temporary slot would go with the connection, and every shape "
            "would start over."
        )
        values["replication_idle_timeout_s"] = 0.0


def _clean_url(name: str, url: str, known: set[str]) -> tuple[str, list[str]]:
    """
    Give a URL that libpq accepts, and the names of the parameters that had to be left out.

    Messages never show the URL: it may hold a password.
    """
    wanted = f"{name} is not a URL such as postgresql://user:password@localhost:5432/database"
    # By hand: the standard library's parsers drop an empty host and read a plus as a blank, libpq does neither.
    head, _, query = url.strip().partition("?")
    if not head.startswith(("postgres://", "postgresql://")):
        raise ConfigError(wanted)
    kept: list[str] = []
    dropped: list[str] = []
    for parameter in filter(None, query.split("&")):
        key, _, value = (unquote(part) for part in parameter.partition("="))
        if key == "replication":
            raise ConfigError(f"{name}: the parameter replication is ours to set: take it away")
        if key == "sslmode" and value not in _SSL_MODES:
            raise ConfigError(f'{name}: invalid "sslmode" value: "{value}". Use one of {", ".join(_SSL_MODES)}')
        # libpq reads the spelling ssl=true of JDBC, although ssl is not among its keywords.
        if key in known or parameter == "ssl=true":
            kept.append(parameter)
        else:
            dropped.append(key)
    cleaned = f"{head}?{'&'.join(kept)}" if kept else head
    try:
        conninfo_to_dict(cleaned)
    except psycopg.ProgrammingError:
        raise ConfigError(
            f"{wanted}; special characters in user and password are written as %40 and the like"
        ) from None
    return cleaned, dropped
