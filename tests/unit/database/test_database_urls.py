from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from penstock.database.urls import parse_database_url
from penstock.errors import ConfigError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost",
        "postgres://user:pass@localhost:6543/db",
        "postgresql://us%40er:p%3Ass%2F%25@localhost/my%20db",
        "postgresql://one:5433,two/db?target_session_attrs=read-write",
        "postgresql://[::1]:5444/db?sslmode=require&application_name=a+b%20c",
        "postgresql:///db?host=/var/run/postgresql&port=5433",
        "postgresql://u@%2Fvar%2Frun/db",
        "postgresql://localhost?user=other&password=p",
    ],
)
def test_reads_a_url_as_libpq_does(url: str) -> None:
    """
    Every part of a URL means what libpq takes it for; a missing port is the usual one.
    """
    expected = {name: str(value) for name, value in conninfo_to_dict(url.replace("a+b", "a%2Bb")).items()}
    parsed = dict(parse_database_url(url).parameters)
    if "port" not in expected:
        assert parsed.pop("port", "5432") == "5432"
    elif "," in expected.get("host", ""):
        expected["port"] = ",".join(port or "5432" for port in expected["port"].split(","))
    assert parsed == expected


@pytest.mark.parametrize("url", ["mysql://h/db", "localhost", "postgresql:/h", ""])
def test_refuses_other_schemes(url: str) -> None:
    """
    Only the two schemes of Postgres are taken.
    """
    with pytest.raises(ConfigError, match="must begin with"):
        parse_database_url(url)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "1_0", "\u0663"])
def test_refuses_what_is_not_a_port(port: str) -> None:
    """
    A port is a decimal number below 65536.
    """
    with pytest.raises(ConfigError, match="is not a port"):
        parse_database_url(f"postgresql://h:{port}/db")


def test_refuses_an_open_bracket_and_null_characters() -> None:
    """
    What libpq would misread is refused with a sentence.
    """
    with pytest.raises(ConfigError, match="bracket"):
        parse_database_url("postgresql://[::1/db")
    with pytest.raises(ConfigError, match="null character"):
        parse_database_url("postgresql://h/a%00b")


def test_refuses_the_replication_parameter() -> None:
    """
    Which connection streams is not for the URL to say.
    """
    with pytest.raises(ConfigError, match="replication"):
        parse_database_url("postgresql://h/db?replication=database")


def test_drops_unknown_parameters_with_a_warning() -> None:
    """
    Parameters of other drivers have no effect, and the user is told without their values.
    """
    url = parse_database_url("postgresql://h/db?pgbouncer=true&schema=secret&connect_timeout=3")
    assert url.parameters["connect_timeout"] == "3"
    assert "pgbouncer" not in url.parameters
    assert len(url.warnings) == 2
    assert "secret" not in "".join(url.warnings)


def test_ssl_true_means_require() -> None:
    """
    The spelling of JDBC is understood, as libpq understands it.
    """
    assert parse_database_url("postgresql://h/db?ssl=true").parameters["sslmode"] == "require"


def test_refuses_an_unknown_sslmode() -> None:
    """
    A misspelt mode must not end up as no encryption.
    """
    with pytest.raises(ConfigError, match='invalid "sslmode" value: "on"'):
        parse_database_url("postgresql://h/db?sslmode=on")


@pytest.mark.parametrize(
    ("query", "mode"), [("", "verify-full"), ("?sslmode=require", "verify-full"), ("?sslmode=verify-ca", "verify-ca")]
)
def test_a_ca_file_means_verification(query: str, mode: str) -> None:
    """
    A CA file alone verifies fully; only an explicit `verify-ca` stays what it is.
    """
    url = parse_database_url(f"postgresql://h/db{query}", ca_file="/etc/ca.pem")
    assert url.parameters["sslmode"] == mode
    assert url.parameters["sslrootcert"] == "/etc/ca.pem"


def test_a_ca_file_contradicts_no_encryption() -> None:
    """
    Verification without TLS is a mistake to be told about.
    """
    with pytest.raises(ConfigError, match="contradicts"):
        parse_database_url("postgresql://h/db?sslmode=disable", ca_file="/etc/ca.pem")


def test_defaults_give_way_to_the_url() -> None:
    """
    What the URL says wins over settings, and empty settings say nothing.
    """
    url = parse_database_url(
        "postgresql://h/db?keepalives_idle=7", defaults={"keepalives_idle": "9", "tcp_user_timeout": "5", "options": ""}
    )
    assert url.parameters["keepalives_idle"] == "7"
    assert url.parameters["tcp_user_timeout"] == "5"
    assert "options" not in url.parameters


def test_no_secret_shows() -> None:
    """
    Neither the redacted text nor the value's representation holds a password.
    """
    url = parse_database_url("postgresql://us%2Fer:hunter2@h,[::1]:1/d%20b?sslpassword=hunter3")
    assert url.redacted == "postgresql://us%2Fer:***@h:5432,[::1]:1/d%20b"
    assert "hunter" not in repr(url)
    assert parse_database_url("postgresql:///db?host=/run&port=1").redacted == "postgresql://%2Frun:1/db"
