"""
What the service can be told.

Owns the names, units and defaults of all settings; each part of the service takes from `Settings` what concerns it. What
each means and may be is said in `declarations`, where they come from in `settings_sources`. Form: pure values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from psycopg.conninfo import conninfo_to_dict

Acknowledge = Literal["relay", "shapes"]
LogLevel = Literal["debug", "info", "warning", "error"]
Storage = Literal["file", "memory"]

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
SLOT_PREFIX: Final = "penstock_slot_"
PUBLICATION_PREFIX: Final = "penstock_publication_"
SECRET_FIELDS: Final = frozenset({"database_url", "pooled_database_url", "secret"})


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
    authorize: str | None = None
    authorize_timeout_s: float = 5.0
    authorize_threads_max: int = 256

    acknowledge: Acknowledge = "relay"
    replication_stream_id: str = "default"
    slot_name: str = SLOT_PREFIX + "default"
    publication_name: str = PUBLICATION_PREFIX + "default"
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
    disk_free_bytes_min: int | None = None
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
    def relay_segment_bytes(self) -> int:
        """
        The size at which a segment of the relay log is followed by another.
        """
        return max(MIB, min(64 * MIB, self.relay_bytes_max // 8))

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
        return [(name, "***" if name in SECRET_FIELDS and value else value) for name, value in values]


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


def describe_database(url: str) -> str:
    """
    Name a database for people: host, port and name, without user, password and parameters.
    """
    parts = urlsplit(url)
    return unquote(f"{parts.netloc.rpartition('@')[2]}{parts.path}") or "the local database"
