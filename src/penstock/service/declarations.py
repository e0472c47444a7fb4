"""
What each setting means, how its text is read, between which bounds, and its names in the protocol's world.

The command line, the environment, the settings file and the printed reference all follow this one table. Form: pure
values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.liveness.board import WEB_WORKERS_MAX
from penstock.service.settings import GIB, KIB, MIB, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        "authorize",
        Kind.TEXT,
        "`module:callable` that decides who may read which rows; without a secret it is the only guard",
    ),
    Declaration(
        "authorize_timeout_s",
        _D,
        "how long it may take for one request, which is then answered with a 503",
        at_least=0.001,
    ),
    Declaration(
        "authorize_threads_max",
        _W,
        "threads of a worker, at most, in which it is called if it is a plain function",
        at_least=1,
    ),
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
        "disk_free_bytes_min",
        _S,
        "with less space on a disk of ours no new shapes are made; below 3/4 of it shapes that nobody reads are given up,"
        " below 1/2 shapes that pin the relay log, below 1/4 nothing more is read from Postgres; 5 % of the disk, at most"
        " 1 GiB",
    ),
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
