"""
Authorisation by signed tokens: who asks is read from a JSON Web Token, what they may read is said by a function of its
claims.

Shell: keys may come from a URL. Needs the extra `jwt`. Verifying is PyJWT's; what is seen to here: which algorithms and
which kinds of keys go together, that a token expires, and that a client learns nothing of why its token was refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog

from penstock.api.authorisation import AccessRequest, Authorize, Decision, Deny, RequestedShape
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from jwt import PyJWKClient, PyJWKSet

JWKS_TIMEOUT_S: Final = 3.0
"""How long keys may take to come from their URL."""

JWKS_LIFE_S: Final = 300.0
"""For how long keys from a URL are taken to be the current ones."""

JWKS_REFRESH_S_MIN: Final = 10.0
"""How often they are asked for before that, because a token names a key that is not among them."""

_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SHARED: Final = frozenset({"HS256", "HS384", "HS512"})
_MISSING: Final = Deny(401, "A bearer token is needed")
_REFUSED: Final = Deny(401, "The token is not valid")
_NO_KEYS: Final = Deny(503, "The keys that tokens are verified with are not to be had")

_log = structlog.get_logger("penstock.api")


def jwt_authorizer(
    key: str | bytes | None = None,
    *,
    jwks: str | Mapping[str, Any] | None = None,
    algorithms: Collection[str],
    shape_claims: Callable[[Mapping[str, Any], RequestedShape], Decision],
    audience: str | Sequence[str] | None = None,
    issuer: str | Sequence[str] | None = None,
    leeway_s: float = 0.0,
    required_claims: Collection[str] = ("exp",),
) -> Authorize:
    """
    Make an `authorize` that lets in whoever brings a valid token as `authorization: Bearer …`.

    A request without a token or with one that is not valid is denied with a 401, and so is one whose token has no `exp`.

    Args:
        key: what tokens are verified with: a shared secret, or a public key as PEM.
        jwks: instead of it, a set of keys, from which a token's `kid` chooses: the set itself, or the https URL that it is
            read from when it is needed, and again every five minutes.
        algorithms: the only ones accepted; never taken from the token. Either shared secrets (`HS…`) or public keys.
        shape_claims: says, from the verified claims of the token and the shape that is asked for, what may be read. Runs in
            a thread.
        audience: who the token must be for; without one, tokens that name an audience are refused.
        issuer: who must have issued it; anybody with the key if None.
        leeway_s: how far clocks may be apart.
        required_claims: claims that a token must have; an empty list accepts tokens that never expire.

    Raises:
        ConfigError: the extra `jwt` is not installed, or the arguments do not go together.
    """
    try:
        import jwt  # noqa: PLC0415 - an extra
    except ImportError as cause:
        raise ConfigError('jwt_authorizer needs PyJWT, which is not installed: pip install "penstock[jwt]"') from cause
    if (key is None) == (jwks is None):
        raise ConfigError("jwt_authorizer takes either a key or jwks")
    _check_algorithms(algorithms, is_shared=jwks is None and not _is_public(key))
    find_key: Callable[[str], Any] = (lambda _token: key) if jwks is None else _find_keys(jwks)

    def authorize(request: AccessRequest, shape: RequestedShape) -> Decision:
        token = request.bearer_token
        if token is None:
            return _MISSING
        try:
            claims = jwt.decode(
                token,
                find_key(token),
                algorithms=list(algorithms),
                audience=audience,
                issuer=issuer,
                leeway=leeway_s,
                options={"require": list(required_claims)},
            )
        except jwt.PyJWKClientConnectionError as error:
            _log.error("the keys of tokens are not to be had", error=str(error))
            return _NO_KEYS
        except jwt.PyJWTError as error:
            _log.info("a token was refused", reason=type(error).__name__)
            return _REFUSED
        return shape_claims(claims, shape)

    return authorize


def _check_algorithms(algorithms: Collection[str], *, is_shared: bool) -> None:
    """
    Refuse what would let tokens through that nobody signed, or that anybody could sign with a public key.
    """
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigError('jwt_authorizer needs a list of algorithms, such as ["RS256"]')
    if any(name.lower() == "none" for name in algorithms):
        raise ConfigError("jwt_authorizer does not accept tokens without a signature")
    if {name in _SHARED for name in algorithms} != {is_shared}:
        kind = "a shared secret: HS256, HS384 or HS512" if is_shared else "public keys, such as RS256, ES256 or EdDSA"
        raise ConfigError(f"the algorithms of jwt_authorizer must be those for {kind}")


def _is_public(key: str | bytes | None) -> bool:
    text = key.encode() if isinstance(key, str) else key or b""
    return text.lstrip().startswith((b"-----BEGIN", b"ssh-"))


def _find_keys(jwks: str | Mapping[str, Any]) -> Callable[[str], Any]:
    """
    Give what finds the key of a token; it raises what PyJWT raises.
    """
    import jwt  # noqa: PLC0415 - an extra

    if isinstance(jwks, str):
        parts = urlsplit(jwks)
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _THIS_MACHINE):
            raise ConfigError("jwks: keys come from an https URL, or from this machine")
        return _RemoteKeys(jwt.PyJWKClient(jwks, timeout=JWKS_TIMEOUT_S, lifespan=JWKS_LIFE_S)).find
    try:
        known = jwt.PyJWKSet.from_dict(dict(jwks))
    except jwt.PyJWKSetError as cause:
        raise ConfigError(f"jwks: {cause}") from cause
    return lambda token: _pick(known, token)


class _RemoteKeys:
    """
    Keys from a URL. Tokens that name unknown keys do not make us ask for new ones again and again.
    """

    def __init__(self, client: PyJWKClient) -> None:
        self._client: Final = client
        self._lock: Final = threading.Lock()
        self._refreshed_at_s = -JWKS_LIFE_S

    def find(self, token: str) -> Any:
        import jwt  # noqa: PLC0415 - an extra

        try:
            return _pick(self._client.get_jwk_set(), token)
        except jwt.PyJWKSetError:
            with self._lock:
                now = time.monotonic()
                is_early = now - self._refreshed_at_s < JWKS_REFRESH_S_MIN
                if not is_early:
                    self._refreshed_at_s = now
            if is_early:
                raise
            return _pick(self._client.get_jwk_set(refresh=True), token)


def _pick(known: PyJWKSet, token: str) -> Any:
    import jwt  # noqa: PLC0415 - an extra

    kid = jwt.get_unverified_header(token).get("kid")
    found = [key for key in known.keys if key.key_id == kid and key.public_key_use in {"sig", None}]
    if kid is None or len(found) != 1:
        raise jwt.PyJWKSetError("no key of this name")
    return found[0].key
