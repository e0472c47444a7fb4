"""
What the service can be told, and how it is told: flags, environment, a file.

Owns the names, units, defaults and bounds of all settings; each part of the service takes from `Settings` what concerns
it. Form: pure values and pure reading; only `load` looks at files.

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
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from penstock.errors import ConfigError
from penstock.liveness.board import WEB_WORKERS_MAX
from penstock.service.quantities import parse_duration_s, parse_size, parse_truth, parse_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME: Final = "penstock.toml"

Acknowledge = Literal["relay", "shapes"]
LogLevel = Literal["debug", "info", "warning", "error"]
Storage = Literal["file", "memory"]

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
_IDENTIFIER_BYTES_MAX: Final = 63
_SLOT_PREFIX: Final = "penstock_slot_"
_PUBLICATION_PREFIX: Final = "penstock_publication_"
_STREAM_ID: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_SLOT_NAME: Final = re.compile(r"[a-z0-9_]+", re.ASCII)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
IDLE_TIMEOUT_S_MIN: Final = 30.0
"""A connection that is closed sooner than this would be opened and closed all the time."""
_SECRET_FIELDS: Final = frozenset({"database_url", "pooled_database_url", "secret"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything the service can be told. `DECLARATIONS` says what each means.
    """

    database_url: str
    pooled_database_url: str | None = None
    database_ca_certificate_file: Path | None = None
    db_pool_size: int = 20
    database_tcp_keepalive_idle_s: float | None = None
    database_tcp_keepalive_interval_s: float | None = None
    database_tcp_keepalive_count: int | None = None
    database_tcp_user_timeout_s: float | None = None

    secret: str | None = None
    insecure: bool = False

    acknowledge: Acknowledge = "relay"
    replication_stream_id: str = "default"
    slot_name: str = _SLOT_PREFIX + "default"
    publication_name: str = _PUBLICATION_PREFIX + "default"
    temporary_slot: bool = False
    manual_table_publishing: bool = False
    publication_refresh_s: float = 60.0

    data_dir: Path = Path("persistent")
    relay_dir: Path | None = None
    storage: Storage = "file"
    relay_bytes_max: int = 10 * GIB
    transaction_bytes_max: int | None = None
    tail_bytes_max: int = 256 * MIB
    chunk_bytes_max: int = 10 * MIB
    consumer_idle_s: float = 30.0
    flush_stall_grace_s: float = 20.0
    wal_bytes_max: int | None = None
    shapes_max: int | None = None
    shapes_bytes_max: int | None = None
    eviction_interval_s: float = 60.0
    compaction_interval_s: float = 600.0
    replication_idle_timeout_s: float = 0.0
    nap_s_max: float = 3600.0
    subset_bytes_max: int = GIB
    subset_timeout_s: float = 30.0
    enable_integration_testing: bool = False
    enable_fault_injection: bool = False

    port: int = 3000
    host: str = "0.0.0.0"  # noqa: S104 - like any server in a container; the secret guards it
    web_workers: int = 1
    long_poll_timeout_s: float = 20.0
    cache_max_age_s: int = 60
    cache_stale_age_s: int = 300
    send_timeout_s: float = 30.0
    read_timeout_s: float = 60.0
    requests_initial_max: int = 300
    requests_existing_max: int = 10_000
    demo_page: bool = False

    single_process: bool = False
    compiled_core: bool = True
    engine_hang_s: float = 20.0
    receiver_hang_s: float = 60.0
    web_hang_s: float = 30.0
    start_hang_s: float = 120.0
    restarts_per_hour_max: int = 60
    drain_timeout_s: float = 10.0
    log_level: LogLevel = "info"
    log_colors: bool = True

    @property
    def relay_folder(self) -> Path:
        """
        Where the relay log lies.
        """
        return self.relay_dir if self.relay_dir is not None else self.data_dir / "relay"

    @property
    def state_folder(self) -> Path:
        """
        Where the control store lies.
        """
        return self.data_dir / "state"

    @property
    def transaction_limit_bytes(self) -> int:
        """
        The largest transaction that the relay log keeps: as set, else a quarter of the relay budget.
        """
        return self.transaction_bytes_max if self.transaction_bytes_max is not None else self.relay_bytes_max // 4

    @property
    def admin_pool_size(self) -> int:
        """
        How many of `db_pool_size` connections are for the catalog and the publication.
        """
        return min(max(self.db_pool_size // 4, 1), 4)

    @property
    def snapshot_pool_size(self) -> int:
        """
        How many connections are for snapshots.
        """
        return max(self.db_pool_size - self.admin_pool_size, 1)

    def connection_options(self, *, pooled: bool = False) -> dict[str, str]:
        """
        Give libpq's connection parameters; `pooled` for the connections that may go through a pooler.

        Holds the password: never to be logged.
        """
        url = self.pooled_database_url if pooled and self.pooled_database_url is not None else self.database_url
        options = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        if self.database_ca_certificate_file is not None:
            options["sslrootcert"] = str(self.database_ca_certificate_file)
            # `require` alone verifies nothing, which is not what somebody means who names a CA.
            options["sslmode"] = "verify-ca" if options.get("sslmode") == "verify-ca" else "verify-full"
        for name, value in self.tcp_options().items():
            options.setdefault(name, value)
        options.setdefault("application_name", "penstock")
        return options

    def tcp_options(self) -> dict[str, str]:
        """
        Give libpq's parameters for what was said about keeping connections alive.
        """
        options: dict[str, str] = {}
        if self.database_tcp_keepalive_idle_s is not None:
            options["keepalives_idle"] = str(max(1, round(self.database_tcp_keepalive_idle_s)))
        if self.database_tcp_keepalive_interval_s is not None:
            options["keepalives_interval"] = str(max(1, round(self.database_tcp_keepalive_interval_s)))
        if self.database_tcp_keepalive_count is not None:
            options["keepalives_count"] = str(self.database_tcp_keepalive_count)
        if self.database_tcp_user_timeout_s is not None:
            options["tcp_user_timeout"] = str(round(self.database_tcp_user_timeout_s * 1000))
        return options

    def __repr__(self) -> str:
        """
        Show what may be shown.
        """
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """
        Likewise, for pretty printers.
        """
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, "***" if name in _SECRET_FIELDS and value else value) for name, value in values]


class Kind(Enum):
    """
    How the text of a setting is read.
    """

    DURATION = "duration"
    SECONDS = "whole seconds"
    SIZE = "size"
    WHOLE = "whole number"
    TRUTH = "true or false"
    TEXT = "text"
    PATH = "path"
    CHOICE = "one of"


@dataclass(frozen=True, slots=True)
class Declaration:
    """
    A setting.

    Attributes:
        name: its field in `Settings`.
        kind: how its text is read.
        meaning: for people.
        aliases: names in the protocol's world, without `ELECTRIC_`; a bare duration there is in milliseconds.
        bare_aliases: names that have no prefix.
        choices: what may be said, where that is a list; what it means here.
        at_least, at_most: bounds of a number, inclusive.
    """

    name: str
    kind: Kind
    meaning: str
    aliases: tuple[str, ...] = ()
    bare_aliases: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    at_least: float = 0
    at_most: float = float("inf")


_D, _S, _W, _T = Kind.DURATION, Kind.SIZE, Kind.WHOLE, Kind.TRUTH
_PORT_MAX: Final = 65_535
_LEVELS: Final = {level: level for level in ("debug", "info", "warning", "error")}
_STORAGES: Final = {"fast_file": "file", "memory": "memory"}

DECLARATIONS: Final = (
    Declaration("database_url", Kind.TEXT, "the database to follow", bare_aliases=("DATABASE_URL",)),
    Declaration(
        "pooled_database_url",
        Kind.TEXT,
        "another way to the same database for snapshots, through a pooler if you like",
        ("POOLED_DATABASE_URL", "QUERY_DATABASE_URL"),
    ),
    Declaration(
        "database_ca_certificate_file",
        Kind.PATH,
        "verify the database's certificate with it",
        ("DATABASE_CA_CERTIFICATE_FILE",),
    ),
    Declaration("db_pool_size", _W, "connections besides the replication one", ("DB_POOL_SIZE",), at_least=2),
    Declaration(
        "database_tcp_keepalive_idle_s", _D, "TCP keepalive: idle time", ("DATABASE_TCP_KEEPALIVE_IDLE",), at_least=1
    ),
    Declaration(
        "database_tcp_keepalive_interval_s",
        _D,
        "TCP keepalive: interval",
        ("DATABASE_TCP_KEEPALIVE_INTERVAL",),
        at_least=1,
    ),
    Declaration(
        "database_tcp_keepalive_count", _W, "TCP keepalive: probes", ("DATABASE_TCP_KEEPALIVE_COUNT",), at_least=1
    ),
    Declaration("database_tcp_user_timeout_s", _D, "TCP user timeout", ("DATABASE_TCP_USER_TIMEOUT",)),
    Declaration("secret", Kind.TEXT, "what clients must send as the parameter `secret`", ("SECRET",)),
    Declaration("insecure", _T, "serve without a secret", ("INSECURE",)),
    Declaration(
        "acknowledge",
        Kind.CHOICE,
        "what is confirmed to Postgres: what is durable in the relay log, or in the logs of all shapes",
        choices={"relay": "relay", "shapes": "shapes"},
    ),
    Declaration(
        "replication_stream_id",
        Kind.TEXT,
        "the end of the names of slot and publication",
        ("REPLICATION_STREAM_ID",),
    ),
    Declaration("slot_name", Kind.TEXT, "the replication slot, if not `penstock_slot_<stream>`"),
    Declaration("publication_name", Kind.TEXT, "the publication, if not `penstock_publication_<stream>`"),
    Declaration(
        "temporary_slot",
        _T,
        "a slot that goes with the connection: nothing survives a restart",
        bare_aliases=("CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN",),
    ),
    Declaration("manual_table_publishing", _T, "leave the publication's tables to you", ("MANUAL_TABLE_PUBLISHING",)),
    Declaration(
        "publication_refresh_s",
        _D,
        "how often the publication is compared with what is needed",
        ("TWEAKS_PUBLICATION_REFRESH_PERIOD",),
        at_least=0.1,
    ),
    Declaration("data_dir", Kind.PATH, "where everything is kept", ("STORAGE_DIR",)),
    Declaration("relay_dir", Kind.PATH, "where the relay log is kept, best on another disk; `relay` in `data_dir`"),
    Declaration(
        "storage",
        Kind.CHOICE,
        "`memory`: a temporary folder, removed at the end",
        ("STORAGE",),
        choices=_STORAGES | {"file": "file"},
    ),
    Declaration("relay_bytes_max", _S, "budget of the relay log", at_least=MIB),
    Declaration(
        "transaction_bytes_max",
        _S,
        "a larger transaction is not kept, shapes on its tables start over; a quarter of `relay_bytes_max`",
        ("EXPERIMENTAL_MAX_TXN_SIZE",),
        at_least=64 * KIB,
    ),
    Declaration("tail_bytes_max", _S, "memory for entries that are not settled yet", at_least=MIB),
    Declaration("chunk_bytes_max", _S, "a response ends after so much", ("SHAPE_CHUNK_BYTES_THRESHOLD",), at_least=1),
    Declaration("consumer_idle_s", _D, "a consumer leaves memory after so long idle", ("SHAPE_HIBERNATE_AFTER",)),
    Declaration(
        "flush_stall_grace_s",
        _D,
        "how long a shape may owe without progress before it is looked into",
        ("FLUSH_STALL_GRACE_PERIOD",),
        at_least=0.1,
    ),
    Declaration(
        "wal_bytes_max",
        _S,
        "budget for what the primary keeps on our account: at a quarter the holders are named, at half a shape that holds "
        "it in `shapes` mode starts over; as the server's `max_slot_wal_keep_size`, if that is set",
        at_least=MIB,
    ),
    Declaration(
        "shapes_max",
        _W,
        "with more shapes the least recently read are given up; as many as there are",
        ("MAX_SHAPES", "EXPERIMENTAL_MAX_SHAPES"),
        at_least=1,
    ),
    Declaration(
        "shapes_bytes_max", _S, "with more bytes in the files of shapes, likewise; as many as fit", at_least=MIB
    ),
    Declaration("eviction_interval_s", _D, "how often these two are looked at", at_least=0.1),
    Declaration(
        "compaction_interval_s",
        _D,
        "how often, half as much more or less, logs that allow it are compacted",
        at_least=0.1,
    ),
    Declaration(
        "replication_idle_timeout_s",
        _D,
        "after so long without a request or a change all connections to the database are closed; 0 for never",
        ("REPLICATION_IDLE_TIMEOUT",),
    ),
    Declaration(
        "nap_s_max", _D, "they are opened at least this often, so that the database can drop its log", at_least=1
    ),
    Declaration(
        "subset_bytes_max",
        _S,
        "bytes of files that hold the rows of subsets until they are served; a subset with more is refused",
        at_least=MIB,
    ),
    Declaration("subset_timeout_s", _D, "how long the query for a subset may take", at_least=0.1),
    Declaration("enable_integration_testing", _T, "let clients delete shapes", ("ENABLE_INTEGRATION_TESTING",)),
    Declaration("enable_fault_injection", _T, "heed PENSTOCK_FAULTS, which makes the service fail on purpose"),
    Declaration("port", _W, "where clients are served; 0 for any free one", ("PORT",), at_most=_PORT_MAX),
    Declaration("host", Kind.TEXT, "address to listen on"),
    Declaration("web_workers", _W, "processes that answer clients", at_least=1, at_most=WEB_WORKERS_MAX),
    Declaration("long_poll_timeout_s", _D, "how long a live request waits", ("LONG_POLL_TIMEOUT",), at_least=0.001),
    Declaration("cache_max_age_s", Kind.SECONDS, "how long a response may be kept by caches", ("CACHE_MAX_AGE",)),
    Declaration(
        "cache_stale_age_s", Kind.SECONDS, "and how long it may be served while it is renewed", ("CACHE_STALE_AGE",)
    ),
    Declaration(
        "send_timeout_s", _D, "a client that takes nothing for so long is cut", ("TCP_SEND_TIMEOUT",), at_least=0.1
    ),
    Declaration(
        "read_timeout_s", _D, "an idle connection is closed after so long", ("TCP_READ_TIMEOUT",), at_least=0.1
    ),
    Declaration("requests_initial_max", _W, "requests at a time for new shapes, of a worker", at_least=1),
    Declaration("requests_existing_max", _W, "all other requests at a time, of a worker", at_least=1),
    Declaration("demo_page", _T, "serve the page at /demo that shows a table changing"),
    Declaration("single_process", _T, "all in one process: for development"),
    Declaration("compiled_core", _T, "decode and encode rows in compiled code where it was built, else in Python"),
    Declaration("engine_hang_s", _D, "an engine silent for so long is killed and restarted", at_least=1),
    Declaration("receiver_hang_s", _D, "likewise a receiver", at_least=1),
    Declaration("web_hang_s", _D, "likewise a web worker", at_least=1),
    Declaration("start_hang_s", _D, "how long a process may take until its first sign of life", at_least=1),
    Declaration(
        "restarts_per_hour_max", _W, "a part that ends more often than this ends the service", at_most=1_000_000
    ),
    Declaration("drain_timeout_s", _D, "how long a stop may take", at_least=1),
    Declaration("log_level", Kind.CHOICE, "what is logged", ("LOG_LEVEL",), choices=_LEVELS),
    Declaration("log_colors", _T, "colours on a terminal", ("LOG_COLORS",)),
)

WITHOUT_EFFECT: Final = (
    "TWEAKS_SCHEMA_RECONCILER_PERIOD",
    "CLEANUP_INTERVAL_MS",
    "SUBQUERY_BUFFER_MAX_TRANSACTIONS",
    "DATABASE_ID",
    "TWEAKS_CONN_MAX_REQUESTS",
    "DATABASE_USE_IPV6",
    "PUBLICATION_ALTER_DEBOUNCE_TIME",
    "SHAPE_SUSPEND_CONSUMER",
    "SHAPE_SUSPEND_AFTER",
    "SHAPE_DB_EXCLUSIVE_MODE",
    "SHAPE_DB_STORAGE_DIR",
    "SHAPE_DB_SYNCHRONOUS",
    "SHAPE_DB_CACHE_SIZE",
    "CONSUMER_PARTITIONS",
    "PROFILE_WHERE_CLAUSES",
    "EXPERIMENTAL_MAX_BATCH_SIZE",
    "TWEAKS_HTTP_API_NUM_ACCEPTORS",
    "TWEAKS_HANDLER_FULLSWEEP_AFTER",
    "TWEAKS_PROCESS_REGISTRY_PARTITIONS",
    "PROCESS_SPAWN_OPTS",
    "CONSUMER_GC_HEAP_THRESHOLD",
    "INSTANCE_ID",
    "SERVICE_NAME",
    "LOG_OTP_REPORTS",
    "OTLP_ENDPOINT",
    "OTEL_DEBUG",
    "HNY_API_KEY",
    "HNY_DATASET",
    "OTEL_SAMPLING_RATIO",
    "METRICS_SAMPLING_RATIO",
    "OTEL_EXPORT_PERIOD",
    "SYSTEM_METRICS_POLL_INTERVAL",
    "STACK_TELEMETRY_INIT_DELAY",
    "DROP_EMPTY_RESPONSE_SPANS",
    "EXCLUDE_SPANS",
    "TELEMETRY_TOP_PROCESS_LIMIT",
    "TELEMETRY_TOP_PROCESS_COUNT",
    "TELEMETRY_LONG_GC_THRESHOLD",
    "TELEMETRY_LONG_SCHEDULE_THRESHOLD",
    "TELEMETRY_LONG_MESSAGE_QUEUE_ENABLE_THRESHOLD",
    "TELEMETRY_LONG_MESSAGE_QUEUE_DISABLE_THRESHOLD",
    "STATSD_HOST",
    "PROMETHEUS_PORT",
    "LIVE_DASHBOARD_PORT",
)
"""Names of the protocol's world that are accepted, said once, and change nothing here."""

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


def encode(settings: Settings) -> bytes:
    """
    Write settings for another process; holds secrets.
    """
    return msgspec.json.encode(settings, enc_hook=str)


def decode(data: bytes) -> Settings:
    """
    Read what `encode` wrote.
    """
    return msgspec.json.decode(data, type=Settings, dec_hook=_decode_path)


def _decode_path(wanted: type, value: Any) -> Any:
    assert wanted is Path, wanted
    return Path(value)


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
    shown = "its value" if declaration.name in _SECRET_FIELDS else f'"{text}"'
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
    length_max = _IDENTIFIER_BYTES_MAX - len(_PUBLICATION_PREFIX)
    if _STREAM_ID.fullmatch(stream) is None or len(stream) > length_max:
        raise ConfigError(
            f'replication_stream_id: "{stream}" cannot end a name in Postgres: use at most {length_max} lower-case '
            "letters, digits and underscores, not beginning with a digit"
        )
    is_temporary = values.get("temporary_slot", False)
    ending = token if is_temporary and is_random else stream
    slot = values.setdefault("slot_name", _SLOT_PREFIX + ending)
    if _SLOT_NAME.fullmatch(slot) is None or len(slot) > _IDENTIFIER_BYTES_MAX:
        raise ConfigError(
            f'slot_name: "{slot}" is not a name for a slot: Postgres takes at most 63 lower-case letters, digits and '
            "underscores"
        )
    publication = values.setdefault("publication_name", _PUBLICATION_PREFIX + stream)
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
    if "secret" not in values and not values.get("insecure"):
        raise ConfigError(
            "You must set either PENSTOCK_SECRET (clients then send it as the parameter `secret`) or "
            "PENSTOCK_INSECURE=true, the flag --insecure (anybody who reaches the port can read every table)"
        )
    if values.get("insecure"):
        reading.warnings.append(
            "Running without a secret: whoever reaches the port can read all that the database user can read."
        )


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


def describe_database(url: str) -> str:
    """
    Name a database for people: host, port and name, without user, password and parameters.
    """
    parts = urlsplit(url)
    return unquote(f"{parts.netloc.rpartition('@')[2]}{parts.path}") or "the local database"


@dataclass(frozen=True, slots=True)
class Description:
    """
    A setting, for people.

    Attributes:
        name: its name in `penstock.toml`.
        variables: its names in the environment, the preferred one first.
        default: its default, empty when there is none.
        meaning: what it is for.
    """

    name: str
    variables: tuple[str, ...]
    default: str
    meaning: str


def describe_all() -> list[Description]:
    """
    Describe all settings, in the order in which they are declared.
    """
    defaults = dict(
        zip(Settings.__struct_fields__[-len(Settings.__struct_defaults__) :], Settings.__struct_defaults__, strict=True)
    )
    described = []
    for declaration in DECLARATIONS:
        variables = [f"PENSTOCK_{declaration.name.upper()}"]
        variables += [f"ELECTRIC_{alias}" for alias in declaration.aliases]
        variables += declaration.bare_aliases
        default = _show(declaration.kind, defaults.get(declaration.name))
        described.append(Description(declaration.name, tuple(variables), default, declaration.meaning))
    return described


def _show(kind: Kind, value: Any) -> str:
    """
    Write a default as one would type it.
    """
    if value is None or value is msgspec.NODEFAULT:
        return ""
    if kind is Kind.TRUTH:
        return str(value).lower()
    if kind in {Kind.DURATION, Kind.SECONDS}:
        return f"{value:g}s"
    if kind is Kind.SIZE:
        unit, name = next(
            ((unit, name) for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if value % unit == 0), (1, "")
        )
        return f"{value // unit}{name}"
    return str(value)
