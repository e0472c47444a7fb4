"""
Names of tables for the completion of shells.

Shell. A person waits with a finger on the key, and has asked for nothing: no answer in time is no names, and never an error.
"""

from __future__ import annotations

from typing import Final

import psycopg

ANSWER_S_MAX: Final = 2
"""How long the person waits at most."""
NAMES_MAX: Final = 200

_NAMES: Final = """
SELECT name FROM (
  SELECT CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident(c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%%'
) AS tables WHERE starts_with(name, %s) ORDER BY name LIMIT %s
"""


def complete_tables(database_url: str, incomplete: str) -> list[str]:
    """
    Give the names of tables that begin with what was typed.
    """
    if not database_url:
        return []
    try:
        with psycopg.connect(
            database_url,
            autocommit=True,
            connect_timeout=ANSWER_S_MAX,
            options=f"-c statement_timeout={ANSWER_S_MAX}s",
            application_name="penstock completion",
        ) as connection:
            return [name for (name,) in connection.execute(_NAMES.encode(), (incomplete, NAMES_MAX)).fetchall()]
    except psycopg.Error:
        return []
