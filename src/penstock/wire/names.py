"""
The words of the HTTP contract: routes, parameters, headers.

Header names are bytes in lower case, as they go on the wire. Pure values.
"""

from __future__ import annotations

from typing import Final

# --- routes ----------------------------------------------------------------------------------------------------------

SHAPE_PATH: Final = "/v1/shape"
HEALTH_PATH: Final = "/v1/health"
READY_PATH: Final = "/v1/ready"
STATUS_PATH: Final = "/v1/status"
SHAPES_PATH: Final = "/v1/status/shapes"
OPENAPI_PATH: Final = "/v1/openapi.json"

# --- query parameters ------------------------------------------------------------------------------------------------

TABLE: Final = "table"
OFFSET: Final = "offset"
HANDLE: Final = "handle"
LIVE: Final = "live"
LIVE_SSE: Final = "live_sse"
EXPERIMENTAL_LIVE_SSE: Final = "experimental_live_sse"
CURSOR: Final = "cursor"
WHERE: Final = "where"
PARAMS: Final = "params"
COLUMNS: Final = "columns"
QUERYABLE_COLUMNS: Final = "queryable_columns"
REPLICA: Final = "replica"
LOG: Final = "log"
EXPERIMENTAL_COMPACTION: Final = "experimental_compaction"
SECRET: Final = "secret"  # noqa: S105 - the parameter's name, not a secret
API_SECRET: Final = "api_secret"  # noqa: S105 - likewise
SUBSET: Final = "subset"
SUBSET_PREFIX: Final = "subset__"

OFFSET_NOW: Final = "now"
"""The offset that asks for the end of the log."""


# --- response headers ------------------------------------------------------------------------------------------------

CURSOR_HEADER: Final = b"electric-cursor"
HANDLE_HEADER: Final = b"electric-handle"
HAS_DATA_HEADER: Final = b"electric-has-data"
OFFSET_HEADER: Final = b"electric-offset"
SCHEMA_HEADER: Final = b"electric-schema"
UP_TO_DATE_HEADER: Final = b"electric-up-to-date"
SNAPSHOT_HEADER: Final = b"electric-snapshot"
KNOWN_ERROR_HEADER: Final = b"electric-internal-known-error"
SERVER_HEADER: Final = b"electric-server"
RETRY_AFTER_HEADER: Final = b"retry-after"
REQUEST_ID_HEADER: Final = b"x-request-id"

EXPOSED_HEADERS: Final = (
    b"electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,electric-up-to-date,"
    b"electric-internal-known-error,retry-after"
)
"""Value of `access-control-expose-headers`."""
