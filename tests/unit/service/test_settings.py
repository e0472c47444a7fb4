from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.service import settings_sources as sources
from penstock.service.declarations import DECLARATIONS
from penstock.service.quantities import parse_duration_s, parse_size, parse_truth, parse_whole
from penstock.service.settings import Settings, decode, describe_database, encode
from penstock.service.settings_sources import Loaded

URL = "postgresql://user:s3cret@db.example:5433/shop"
BASE = {"DATABASE_URL": URL, "PENSTOCK_INSECURE": "true"}
TOKEN = "0123456789abcdef" * 2


def read(environ: dict[str, str], *, flags: dict[str, str] | None = None, text: str = "") -> Loaded:
    return sources.read(flags or {}, {**BASE, **environ}, text, folder=Path("/srv"), token=TOKEN)


def settings_of(environ: dict[str, str], *, flags: dict[str, str] | None = None, text: str = "") -> Settings:
    return read(environ, flags=flags, text=text).settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20000", 20.0), ("1.5s", 1.5), ("500ms", 0.5), ("500 msec", 0.5), ("2sec", 2.0), ("10m", 600.0), ("1 MIN", 60.0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """
    H26: A number with a unit is a duration; without one it has the unit of the place where it stands.
    """
    assert parse_duration_s(text, bare_unit="ms") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1 hour and", "1,5s", "1.s", "٣s", "nan", "1e3"])
def test_other_texts_are_no_durations(text: str) -> None:
    """
    Whatever is not a positive decimal number with a known unit is refused.
    """
    with pytest.raises(ValueError, match="a duration"):
        parse_duration_s(text, bare_unit="ms")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10485760", 10485760),
        ("64KiB", 65536),
        ("64 kb", 64000),
        ("1.5MiB", 1572864),
        ("2GB", 2 * 10**9),
        ("1GiB", 2**30),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """
    H26: Decimal and binary units differ, and plain numbers are bytes.
    """
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 KiBs", "1.5.5MB", "0x10"])
def test_other_texts_are_no_sizes(text: str) -> None:
    """
    Whatever is not a number with a known unit is refused.
    """
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)


def test_truth_and_numbers_are_read() -> None:
    """
    The usual words mean true and false; numbers are whole.
    """
    assert [parse_truth(text) for text in ("true", "1", "YES", "on")] == [True] * 4
    assert [parse_truth(text) for text in ("false", "0", "No", "off")] == [False] * 4
    assert parse_whole(" 42 ") == 42
    for parse, text in ((parse_truth, "maybe"), (parse_whole, "4.2")):
        with pytest.raises(ValueError, match=r"true or false|whole number"):
            parse(text)


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({}, "port", 3000),
        ({}, "data_dir", Path("/srv/persistent")),
        ({}, "relay_folder", Path("/srv/persistent/relay")),
        ({}, "slot_name", "penstock_slot_default"),
        ({}, "publication_name", "penstock_publication_default"),
        ({}, "transaction_limit_bytes", 10 * 2**30 // 4),
        ({}, "acknowledge", "relay"),
        ({"ELECTRIC_PORT": "8080"}, "port", 8080),
        ({"PENSTOCK_PORT": "8080"}, "port", 8080),
        ({"PENSTOCK_PORT": ""}, "port", 3000),
        ({"ELECTRIC_LONG_POLL_TIMEOUT": "1500"}, "long_poll_timeout_s", 1.5),
        ({"PENSTOCK_LONG_POLL_TIMEOUT": "1500"}, "long_poll_timeout_s", 1.5),
        ({"PENSTOCK_LONG_POLL_TIMEOUT_S": "15"}, "long_poll_timeout_s", 15.0),
        ({"PENSTOCK_ENGINE_HANG_S": "3s"}, "engine_hang_s", 3.0),
        ({"ELECTRIC_CACHE_MAX_AGE": "5"}, "cache_max_age_s", 5),
        ({"ELECTRIC_CACHE_STALE_AGE": "2min"}, "cache_stale_age_s", 120),
        ({"ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD": "1MiB"}, "chunk_bytes_max", 2**20),
        ({"ELECTRIC_STORAGE_DIR": "data"}, "data_dir", Path("/srv/data")),
        ({"PENSTOCK_DATA_DIR": "/var/lib/p"}, "relay_folder", Path("/var/lib/p/relay")),
        ({"PENSTOCK_RELAY_DIR": "/fast"}, "relay_folder", Path("/fast")),
        ({"ELECTRIC_REPLICATION_STREAM_ID": "blue_2"}, "slot_name", "penstock_slot_blue_2"),
        ({"ELECTRIC_REPLICATION_STREAM_ID": "blue_2"}, "publication_name", "penstock_publication_blue_2"),
        ({"PENSTOCK_SLOT_NAME": "mine"}, "slot_name", "mine"),
        ({"CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN": "true"}, "temporary_slot", True),
        ({"ELECTRIC_MAX_CONCURRENT_REQUESTS": '{"initial":5}'}, "requests_initial_max", 5),
        ({"ELECTRIC_MAX_CONCURRENT_REQUESTS": '{"initial":5}'}, "requests_existing_max", 10_000),
        ({"ELECTRIC_LISTEN_ON_IPV6": "true"}, "host", "::"),
        ({"ELECTRIC_STORAGE": "MEMORY"}, "storage", "memory"),
        ({"ELECTRIC_PERSISTENT_STATE": "MEMORY"}, "storage", "memory"),
        ({"ELECTRIC_STORAGE": "FAST_FILE"}, "storage", "file"),
        ({"ELECTRIC_FLUSH_STALL_GRACE_PERIOD": "1 min"}, "flush_stall_grace_s", 60.0),
        ({"ELECTRIC_QUERY_DATABASE_URL": "postgres://p/x"}, "pooled_database_url", "postgres://p/x"),
        ({"ELECTRIC_DB_POOL_SIZE": "8"}, "admin_pool_size", 2),
        ({"ELECTRIC_DB_POOL_SIZE": "8"}, "snapshot_pool_size", 6),
        ({"ELECTRIC_EXPERIMENTAL_MAX_TXN_SIZE": "262144000"}, "transaction_limit_bytes", 262144000),
        ({"PENSTOCK_RELAY_BYTES_MAX": "4MiB"}, "transaction_limit_bytes", 2**20),
        ({"ELECTRIC_LOG_LEVEL": "WARNING"}, "log_level", "warning"),
    ],
)
def test_the_environment_is_read(environ: dict[str, str], field: str, value: Any) -> None:
    """
    Each name is known under its own and its protocol's prefix, with the units that belong to it.
    """
    assert getattr(settings_of(environ), field) == value


def test_a_temporary_slot_may_have_a_random_name() -> None:
    """
    The random ending is used for the slot alone, and only when it is temporary.
    """
    wish = {"ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME": "true"}
    assert settings_of(wish).slot_name == "penstock_slot_default"
    temporary = settings_of({**wish, "CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN": "1"})
    assert temporary.slot_name == f"penstock_slot_{TOKEN}"
    assert temporary.publication_name == "penstock_publication_default"


def test_nearer_words_win() -> None:
    """
    Flag, own variable, protocol's variable, file, default: the first that says something counts.
    """
    text = "port = 1\nlong_poll_timeout_s = 7"
    environ = {"ELECTRIC_PORT": "2", "PENSTOCK_PORT": "3"}
    assert settings_of(environ, flags={"port": "4"}, text=text).port == 4
    assert settings_of(environ, text=text).port == 3
    assert settings_of({"ELECTRIC_PORT": "2"}, text=text).port == 2
    assert settings_of({}, text=text).port == 1
    assert settings_of({}, text=text).long_poll_timeout_s == 7.0
    assert any("ELECTRIC_PORT is not looked at" in warning for warning in read(environ).warnings)


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"PENSTOCK_PORT": "abc"}, 'PENSTOCK_PORT: "abc" is not a whole number'),
        ({"PENSTOCK_PORT": "65536"}, "at most 65535"),
        ({"ELECTRIC_DB_POOL_SIZE": "1"}, "at least 2"),
        ({"ELECTRIC_LONG_POLL_TIMEOUT": "soon"}, "is not a duration"),
        ({"PENSTOCK_WEB_WORKERS": "17"}, "at most 16"),
        ({"PENSTOCK_ACKNOWLEDGE": "both"}, "is not one of relay, shapes"),
        ({"ELECTRIC_STORAGE": "FILE"}, "use FAST_FILE"),
        ({"ELECTRIC_STORAGE": "LEGACY_FILE"}, "use FAST_FILE"),
        ({"ELECTRIC_PERSISTENT_STATE": "CLOUD"}, "FILE or MEMORY"),
        ({"ELECTRIC_REPLICATION_STREAM_ID": "Blue"}, "replication_stream_id"),
        ({"ELECTRIC_REPLICATION_STREAM_ID": "x" * 43}, "at most 42"),
        ({"PENSTOCK_SLOT_NAME": "My Slot"}, "slot_name"),
        ({"ELECTRIC_MAX_CONCURRENT_REQUESTS": '{"initial":0}'}, "is not a JSON object"),
        ({"ELECTRIC_MAX_CONCURRENT_REQUESTS": "300"}, "is not a JSON object"),
        ({"ELECTRIC_LISTEN_ON_IPV6": "perhaps"}, "true or false"),
        ({"ELECTRIC_DATABASE_CA_CERTIFICATE_FILE": "/no/such/file"}, "there is no file"),
        ({"PENSTOCK_TRANSACTION_BYTES_MAX": "6GiB"}, "half of relay_bytes_max"),
        ({"PENSTOCK_SECRET": "x"}, "cannot set both"),
        ({"PENSTOCK_INSECURE": "false"}, "--insecure"),
        ({"DATABASE_URL": ""}, "no database is named"),
        ({"DATABASE_URL": "mysql://u:s3cret@h/d"}, "DATABASE_URL is not a URL"),
        ({"DATABASE_URL": "host=db password=s3cret"}, "DATABASE_URL is not a URL"),
        ({"DATABASE_URL": "postgres://u:s3cret%zz@h/d"}, "special characters"),
        ({"DATABASE_URL": URL + "?replication=database"}, "replication"),
        ({"DATABASE_URL": URL + "?sslmode=strict"}, 'invalid "sslmode" value: "strict"'),
        ({"ELECTRIC_POOLED_DATABASE_URL": "s3cret"}, "POOLED_DATABASE_URL is not a URL"),
    ],
)
def test_mistakes_are_named_with_their_mending(environ: dict[str, str], complaint: str) -> None:
    """
    H26: What is wrong ends the start with a sentence that names it, and never shows a password.
    """
    with pytest.raises(ConfigError) as caught:
        read(environ)
    assert complaint in caught.value.message
    assert "s3cret" not in caught.value.message


def test_a_file_with_unknown_names_is_refused() -> None:
    """
    The file is ours alone, so a name it does not know is a slip of the pen.
    """
    with pytest.raises(ConfigError, match=r"long_pol_timeout_s is not a setting \(did you mean long_poll_timeout_s"):
        read({}, text="long_pol_timeout_s = 1")
    with pytest.raises(ConfigError, match="not TOML"):
        read({}, text="port =")


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """
    `penstock.toml` may be absent, a file named on the command line may not.
    """
    assert sources.load({}, BASE, tmp_path, token=TOKEN).settings.port == 3000
    (tmp_path / "penstock.toml").write_text("port = 5\ninsecure = true\n")
    assert sources.load({}, {"DATABASE_URL": URL}, tmp_path, token=TOKEN).settings.port == 5
    with pytest.raises(ConfigError, match="there is no file"):
        sources.load({}, BASE, tmp_path, file=tmp_path / "other.toml", token=TOKEN)


def test_strangers_and_idle_settings_are_said_once() -> None:
    """
    Unknown names of our prefixes are named with a guess; those without effect in one sentence.
    """
    warnings = read(
        {"PENSTOCK_PROT": "1", "ELECTRIC_SHAPE_SUSPEND_AFTER": "1s", "ELECTRIC_STATSD_HOST": "h", "OTHER": "1"}
    ).warnings
    assert any(warning.startswith("PENSTOCK_PROT") and "PENSTOCK_PORT" in warning for warning in warnings)
    [idle] = [warning for warning in warnings if "no effect" in warning]
    assert "ELECTRIC_SHAPE_SUSPEND_AFTER, ELECTRIC_STATSD_HOST" in idle
    assert not any("OTHER" in warning for warning in warnings)


def test_insecure_is_said_aloud() -> None:
    """
    Serving without a secret is warned of; with one it is not.
    """
    assert any("without a secret" in warning for warning in read({}).warnings)
    assert read({"PENSTOCK_INSECURE": "", "PENSTOCK_SECRET": "x"}).warnings == ()


def test_connection_options_follow_the_url(tmp_path: Path) -> None:
    """
    Parameters that libpq knows pass through, others are dropped with a warning, sockets and certificates are set.
    """
    certificate = tmp_path / "ca.pem"
    certificate.write_text("")
    loaded = read(
        {
            "DATABASE_URL": URL + "?connect_timeout=5&pgbouncer=true",
            "ELECTRIC_POOLED_DATABASE_URL": "postgresql://pool/shop",
            "ELECTRIC_DATABASE_CA_CERTIFICATE_FILE": str(certificate),
            "ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE": "30s",
            "ELECTRIC_DATABASE_TCP_USER_TIMEOUT": "1500",
        }
    )
    options = loaded.settings.connection_options()
    assert options == {
        "user": "user",
        "password": "s3cret",
        "host": "db.example",
        "port": "5433",
        "dbname": "shop",
        "connect_timeout": "5",
        "sslrootcert": str(certificate),
        "sslmode": "verify-full",
        "keepalives_idle": "30",
        "tcp_user_timeout": "1500",
        "application_name": "penstock",
    }
    assert loaded.settings.connection_options(pooled=True)["host"] == "pool"
    assert any("pgbouncer" in warning for warning in loaded.warnings)
    with pytest.raises(ConfigError, match="sslmode=disable"):
        read({"DATABASE_URL": URL + "?sslmode=disable", "PENSTOCK_DATABASE_CA_CERTIFICATE_FILE": str(certificate)})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///shop?host=/var/run/postgresql", {"dbname": "shop", "host": "/var/run/postgresql"}),
        ("postgres://a,b:5433/shop?target_session_attrs=primary", {"host": "a,b", "port": ",5433"}),
        ("postgresql://u%40x:p%2Fw@h/d", {"user": "u@x", "password": "p/w"}),
        ("postgresql://[::1]:5432/d", {"host": "::1"}),
        ("postgresql://h/d?application_name=my%20app", {"application_name": "my app"}),
    ],
)
def test_urls_of_every_form_pass(url: str, expected: dict[str, str]) -> None:
    """
    H26: Whatever libpq understands as a URL is understood.
    """
    options = settings_of({"DATABASE_URL": url}).connection_options()
    assert {name: options[name] for name in expected} == expected


def test_settings_travel_whole() -> None:
    """
    What one process writes another reads; nothing is lost on the way.
    """
    for environ in ({}, {"PENSTOCK_RELAY_DIR": "/fast", "ELECTRIC_MAX_SHAPES": "3", "PENSTOCK_ENGINE_HANG_S": "1.25s"}):
        settings = settings_of(environ)
        assert decode(encode(settings)) == settings


def test_secrets_are_not_shown() -> None:
    """
    Printed settings hide passwords; a database is named without its user.
    """
    settings = settings_of({"PENSTOCK_INSECURE": "", "PENSTOCK_SECRET": "hush"})
    assert "s3cret" not in repr(settings)
    assert "hush" not in repr(settings)
    assert "port=3000" in repr(settings)
    assert describe_database(settings.database_url) == "db.example:5433/shop"


def test_every_field_is_declared() -> None:
    """
    No setting can be told without a meaning, and none is declared that nobody holds.
    """
    assert [declaration.name for declaration in DECLARATIONS] == [
        name for name in Settings.__struct_fields__ if name in {d.name for d in DECLARATIONS}
    ]
    assert {declaration.name for declaration in DECLARATIONS} == set(Settings.__struct_fields__)
    assert all(declaration.meaning for declaration in DECLARATIONS)
