from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

import penstock
from penstock.api.authorisation import AccessRequest, Allow, Authorize, Decision, Deny, RequestedShape
from penstock.errors import ConfigError

SECRET: Final = "a shared secret that is long enough for every hash" * 2
SHAPE: Final = RequestedShape("public", "items")
RSA_KEY: Final = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
EC_KEY: Final = ec.generate_private_key(ec.SECP256R1())
PUBLIC: Final = (
    RSA_KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def own_rows(claims: Mapping[str, Any], shape: RequestedShape) -> Decision:
    return Allow("owner = $1", [claims["sub"]]) if shape.table == "items" else Deny()


def token(key: Any = SECRET, algorithm: str = "HS256", *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + 60, **claims}, key, algorithm, headers=headers)


def ask(authorize: Authorize, bearer: str | None) -> Decision:
    headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    decision = authorize(AccessRequest("GET", "/v1/shape", headers, {}), SHAPE)
    assert isinstance(decision, Allow | Deny)
    return decision


def make(**arguments: Any) -> Authorize:
    return penstock.jwt_authorizer(**{"shape_claims": own_rows, **arguments})


def test_a_valid_token_lets_its_bearer_in() -> None:
    """
    What may be read is said by the claims, for shared secrets and for public keys.
    """
    mine = Allow("owner = $1", ["alice"])
    assert ask(make(key=SECRET, algorithms=["HS256"]), token()) == mine
    assert ask(make(key=PUBLIC, algorithms=["RS256"]), token(RSA_KEY, "RS256")) == mine


OTHER_TOKENS: Final[dict[str, Callable[[], str | None]]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "one word": lambda: "nonsense",
    "three words": lambda: "a.b.c",
    "another secret": lambda: token("another secret, of a sensible length all the same"),
    "expired": lambda: token(exp=time.time() - 10),
    "another algorithm": lambda: token(algorithm="HS512"),
    "unsigned": lambda: jwt.encode({"sub": "alice", "exp": time.time() + 60}, "", "none"),
    "without an end": lambda: jwt.encode({"sub": "alice"}, SECRET, "HS256"),
    "of the future": lambda: token(nbf=time.time() + 1000),
    "for somebody else": lambda: token(aud="somebody-else"),
    "with something behind it": lambda: token() + "x",
    "two": lambda: f"{token()}, Bearer {token()}",
}


@pytest.mark.parametrize("name", OTHER_TOKENS)
def test_other_tokens_do_not(name: str) -> None:
    """
    Without a token, with one of another key, algorithm or audience, expired or without an end: 401, and no word of why.
    """
    denied = ask(make(key=SECRET, algorithms=["HS256"]), OTHER_TOKENS[name]())
    assert isinstance(denied, Deny)
    assert denied.status == 401
    assert denied.message in {"A bearer token is needed", "The token is not valid"}


def test_a_public_key_is_no_shared_secret() -> None:
    """
    A token signed with the text of the public key, by an algorithm for secrets, is refused; and so are such settings.
    """
    header = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}')
    payload = jwt.utils.base64url_encode(json.dumps({"sub": "alice", "exp": time.time() + 60}).encode())
    signer = jwt.get_algorithm_by_name("HS256")
    signature = jwt.utils.base64url_encode(signer.sign(header + b"." + payload, PUBLIC.encode()))
    forged = b".".join([header, payload, signature]).decode()
    assert isinstance(ask(make(key=PUBLIC, algorithms=["RS256"]), forged), Deny)
    for arguments in (
        {"key": PUBLIC, "algorithms": ["RS256", "HS256"]},
        {"key": PUBLIC, "algorithms": ["HS256"]},
        {"key": SECRET, "algorithms": ["RS256"]},
        {"jwks": {"keys": []}, "algorithms": ["HS256"]},
    ):
        with pytest.raises(ConfigError):
            make(**arguments)


def test_audience_and_issuer_are_checked() -> None:
    """
    Both must be what was said.
    """
    ours = "https://login.example"
    authorize = make(key=SECRET, algorithms=["HS256"], audience="shop", issuer=ours)
    assert isinstance(ask(authorize, token(aud=["shop", "x"], iss=ours)), Allow)
    for audience, issuer in ((None, None), ("shop", None), ("shop", "https://evil.example"), (None, ours), ("x", ours)):
        claims = {name: value for name, value in (("aud", audience), ("iss", issuer)) if value is not None}
        assert isinstance(ask(authorize, token(SECRET, "HS256", headers=None, **claims)), Deny)


def test_tokens_without_an_end_can_be_accepted() -> None:
    """
    Only when it is asked for.
    """
    eternal = jwt.encode({"sub": "alice"}, SECRET, "HS256")
    assert isinstance(ask(make(key=SECRET, algorithms=["HS256"], required_claims=()), eternal), Allow)


def key_set(**keys: Any) -> dict[str, Any]:
    algorithms = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    found = []
    for kid, key in keys.items():
        made = next(algorithm for kind, algorithm in algorithms.items() if isinstance(key, kind))
        found.append({**json.loads(made.to_jwk(key.public_key())), "kid": kid})  # type: ignore[attr-defined]
    return {"keys": found}


def test_a_token_chooses_its_key_from_a_set() -> None:
    """
    By its name, and only with an algorithm that belongs to it.
    """
    authorize = make(jwks=key_set(one=RSA_KEY, two=EC_KEY), algorithms=["RS256", "ES256"])
    assert isinstance(ask(authorize, token(RSA_KEY, "RS256", headers={"kid": "one"})), Allow)
    assert isinstance(ask(authorize, token(EC_KEY, "ES256", headers={"kid": "two"})), Allow)
    for headers in ({"kid": "three"}, {}):
        assert isinstance(ask(authorize, token(RSA_KEY, "RS256", headers=headers)), Deny)
    with pytest.raises(ConfigError, match="jwks"):
        make(jwks={"keys": []}, algorithms=["RS256"])


@contextmanager
def serving_keys(answers: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """
    Serve sets of keys, one after the other and the last for ever; gives the URL and what was asked for.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(answers[min(len(asked), len(answers)) - 1]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys", asked
        finally:
            server.shutdown()
            thread.join(30)


def test_keys_from_a_url_are_kept_and_renewed() -> None:
    """
    They are read once for many tokens; a new name makes them be read again, and unknown names no more often than that.
    """
    with serving_keys([key_set(old=RSA_KEY), key_set(old=RSA_KEY, new=EC_KEY)]) as (url, asked):
        authorize = make(jwks=url, algorithms=["RS256", "ES256"])
        for _ in range(3):
            assert isinstance(ask(authorize, token(RSA_KEY, "RS256", headers={"kid": "old"})), Allow)
        assert len(asked) == 1
        assert isinstance(ask(authorize, token(EC_KEY, "ES256", headers={"kid": "new"})), Allow)
        assert len(asked) == 2
        for number in range(20):
            assert isinstance(ask(authorize, token(RSA_KEY, "RS256", headers={"kid": f"x{number}"})), Deny)
        assert len(asked) == 2


def test_keys_that_are_not_to_be_had_are_no_fault_of_the_client() -> None:
    """
    It is told to come again, not that its token is wrong.
    """
    with serving_keys([{}]) as (url, _):
        pass
    authorize = make(jwks=url, algorithms=["RS256"])
    denied = ask(authorize, token(RSA_KEY, "RS256", headers={"kid": "one"}))
    assert isinstance(denied, Deny)
    assert denied.status == 503


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"algorithms": ["HS256"]}, "either a key or jwks"),
        ({"key": SECRET, "jwks": {}, "algorithms": ["HS256"]}, "either a key or jwks"),
        ({"key": SECRET, "algorithms": "HS256"}, "a list of algorithms"),
        ({"key": SECRET, "algorithms": []}, "a list of algorithms"),
        ({"key": SECRET, "algorithms": ["HS256", "None"]}, "without a signature"),
        ({"jwks": "http://keys.example/", "algorithms": ["RS256"]}, "https"),
        ({"jwks": "http://127.0.0.1.evil.example/", "algorithms": ["RS256"]}, "https"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, Any], words: str) -> None:
    """
    At once, with a sentence.
    """
    with pytest.raises(ConfigError, match=words):
        make(**arguments)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without PyJWT the error says what to install.
    """
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigError, match=r'pip install "penstock\[jwt\]"'):
        make(key=SECRET, algorithms=["HS256"])
