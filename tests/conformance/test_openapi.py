"""
The OpenAPI document holds for whatever a machine that reads it sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from conformance.scripted_source import ScriptedSource, row
from penstock.api.app import ShapeApp
from penstock.api.openapi import openapi_document
from penstock.api.settings import ApiSettings
from penstock.shapes.reading import InlinePiece
from penstock.wire import names

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES_MAX: Final = 25


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    """
    The document as the application serves it.
    """
    source = ScriptedSource()
    source.add("items", row(1) + b"," + row(2))
    source.subset_pieces = (InlinePiece(row(1)),)
    with TemporaryDirectory() as folder:
        app = ShapeApp(source, ApiSettings(long_poll_timeout_s=0.05, allows_removal=True), Path(folder))
        yield schemathesis.openapi.from_asgi(names.OPENAPI_PATH, _for_many_lives(app))
        app.close()


def _for_many_lives(app: ShapeApp) -> ASGIApp:
    """
    The machine begins and ends a life for each request; the application has but one.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for moment in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{moment}.complete"})

    return call


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, methods in openapi_document("0")["paths"].items() for method in methods],
)
def test_the_document_holds(api: Any, path: str, method: str) -> None:
    """
    No fault, no status, type, header or body that the document does not name.
    """

    @settings(max_examples=EXAMPLES_MAX, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy())
    def hold(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    hold()


def test_the_document_names_every_route_of_the_contract() -> None:
    """
    Health, readiness and status besides shapes, with every method that has a body of its own.
    """
    paths = openapi_document("0")["paths"]
    assert {path: sorted(methods) for path, methods in paths.items()} == {
        "/v1/shape": ["delete", "get", "post"],
        "/v1/health": ["get"],
        "/v1/ready": ["get"],
        "/v1/status": ["get"],
        "/v1/status/shapes": ["get"],
    }
