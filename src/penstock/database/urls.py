"""
Connection strings: what the user typed, and what libpq is given.

Owns the reading of `postgresql://` URLs, the rules about TLS and the text that may appear in logs. A URL may name
several hosts, as libpq allows. Parameters that libpq knows pass through; others are dropped with a warning, so that
strings made for other drivers work; `replication` is refused, because it is for us to decide which connection streams.

Pure values. The password appears in `parameters` only, never in a `repr`, a warning or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from penstock.errors import ConfigError

SCHEMES: Final = ("postgresql", "postgres")
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Connection parameters of libpq 18; the manual's section "Parameter Key Words". Those that an older libpq does not
# know make it refuse the connection with a text that names them.
LIBPQ_PARAMETERS: Final = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "require_auth",
        "channel_binding",
        "connect_timeout",
        "client_encoding",
        "options",
        "application_name",
        "fallback_application_name",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "gssencmode",
        "sslmode",
        "requiressl",
        "sslnegotiation",
        "sslcompression",
        "sslcert",
        "sslkey",
        "sslkeylogfile",
        "sslpassword",
        "sslcertmode",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "requirepeer",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "min_protocol_version",
        "max_protocol_version",
        "krbsrvname",
        "gsslib",
        "gssdelegation",
        "scram_client_key",
        "scram_server_key",
        "service",
        "servicefile",
        "target_session_attrs",
        "load_balance_hosts",
        "oauth_issuer",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_scope",
    ]
)
_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key"})


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """
    A checked connection string.

    Attributes:
        parameters: libpq's parameters, ready to be given to it. Holds the password.
        redacted: the URL for logs: without password, options and other parameters.
        warnings: sentences about what was dropped.
    """

    parameters: Mapping[str, str] = field(repr=False)
    redacted: str
    warnings: tuple[str, ...] = ()


def parse_database_url(
    text: str, *, ca_file: str | None = None, defaults: Mapping[str, str] | None = None
) -> DatabaseUrl:
    """
    Read a connection URL.

    Args:
        text: what the user typed.
        ca_file: certificates that the server's must be signed by; alone it means full verification.
        defaults: libpq parameters for what the URL does not say (keep-alive settings and the like).

    Raises:
        ConfigError: the URL is malformed or contradicts itself.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigError('invalid database URL: it must begin with "postgresql://"')
    rest, _, _fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    parameters = {name: value for name, value in (defaults or {}).items() if value}
    if at and user:
        parameters["user"] = unquote(user)
    if colon:
        parameters["password"] = unquote(password)
    if hosts:
        parameters["host"], parameters["port"] = _split_hosts(hosts)
    if path:
        parameters["dbname"] = unquote(path)
    warnings = _read_query(query, parameters)
    _apply_tls(parameters, ca_file)
    if any("\0" in value for value in parameters.values()):
        raise ConfigError("invalid database URL: it holds a null character")
    return DatabaseUrl(parameters, _redact(parameters), tuple(warnings))


def _split_hosts(hosts: str) -> tuple[str, str]:
    """
    Read `host:port,host:port`, where a host may be a bracketed IPv6 address or a percent-encoded socket folder.
    """
    names: list[str] = []
    ports: list[str] = []
    for part in hosts.split(","):
        if part.startswith("["):
            name, bracket, tail = part[1:].partition("]")
            if not bracket or (tail and not tail.startswith(":")):
                raise ConfigError("invalid database URL: an IPv6 address is not closed by a bracket")
            port = tail[1:]
        else:
            name, _, port = part.partition(":")
        # int() also takes signs, underscores and digits of other scripts.
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f'invalid database URL: "{port}" is not a port')
        names.append(unquote(name))
        ports.append(port or "5432")
    return ",".join(names), ",".join(ports)


def _read_query(query: str, parameters: dict[str, str]) -> list[str]:
    """
    Take over the parameters that libpq knows; give warnings about the others.
    """
    warnings: list[str] = []
    # Unlike in forms, a plus sign is itself here.
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name == "replication":
            raise ConfigError('the database URL must not hold the parameter "replication"')
        if name == "ssl" and value == "true":
            parameters["sslmode"] = "require"
        elif name in LIBPQ_PARAMETERS:
            parameters[name] = value
        else:
            warnings.append(f'the database URL\'s parameter "{name}" is not known and has no effect')
    return warnings


def _apply_tls(parameters: dict[str, str], ca_file: str | None) -> None:
    """
    Check `sslmode` and let a CA file mean verification.
    """
    mode = parameters.get("sslmode")
    if mode is not None and mode not in SSL_MODES:
        raise ConfigError(f'invalid "sslmode" value: "{mode}". Use one of {", ".join(SSL_MODES)}')
    if ca_file is None:
        return
    if mode == "disable":
        raise ConfigError('"sslmode=disable" in the database URL contradicts the CA certificate file: drop one')
    parameters["sslrootcert"] = ca_file
    parameters["sslmode"] = "verify-ca" if mode == "verify-ca" else "verify-full"


def _redact(parameters: Mapping[str, str]) -> str:
    """
    Write the parts of the URL that help a person and are no secret.
    """
    hosts = parameters.get("host", parameters.get("hostaddr", "")).split(",")
    ports = parameters.get("port", "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    places = [
        f"{f'[{host}]' if ':' in host else quote(host, safe='')}:{port}"
        for host, port in zip(hosts, ports, strict=False)
    ]
    user = quote(parameters.get("user", ""), safe="")
    secret = ":***" if _SECRET_PARAMETERS & parameters.keys() else ""
    login = f"{user}{secret}@" if user or secret else ""
    return f"postgresql://{login}{','.join(places)}/{quote(parameters.get('dbname', ''), safe='')}"
