"""
The SQL we send, and how its answers are read.

Owns every statement of the ordinary connections and the quoting in them. Pure: text and values in, text and values out.

Rendering rows
--------------

A snapshot's rows leave Postgres as the JSON elements that clients are served, so a row costs us one copy of its bytes.
Each element is the value of one `concat(...)`, made of constant pieces and one expression per column, in
`COPY ... TO STDOUT (FORMAT csv)`. CSV would quote a value that holds its quote, its delimiter or a line break; quote and
delimiter are control characters, JSON text holds no control characters, hence lines are the values, byte for byte.

What a value's text is (`docs/protocol`): the output of its type, as the replication stream has it, so that a row from
the snapshot and the same row from the log agree; for `bool` and `inet` the cast to text, as the protocol wants it. In
*keys* it is the type's output for these two as well: a key must be the same in snapshot and log, and the log has the
stream's text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock.postgres.lsn import InsertLsn
from penstock.postgres.quoting import quote_identifier, quote_literal, quote_table
from penstock.postgres.relation import Column, Table, TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import ShapeColumn, ShapeDefinition
from penstock.shapes.subset import Subset
from penstock.where.facts import DATABASE

Row = tuple[str | None, ...]

# Settings that decide how values are written, the same on every connection that rows come from.
DISPLAY_SETTINGS: Final = {
    "bytea_output": "hex",
    "DateStyle": "ISO, DMY",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "IntervalStyle": "iso_8601",
    # Operators carry no schema, and names in values (regclass and its like) are written by it.
    "search_path": "pg_catalog",
}

_ARGUMENTS_MAX: Final = 90  # a function takes 100 at most (FUNC_MAX_ARGS)
_INTEGERS: Final = frozenset({20, 21, 23, 26})
# Types whose text never holds a character that JSON escapes: numbers, uuid, dates and times.
_PLAIN: Final = _INTEGERS | {700, 701, 1700, 2950, 1082, 1083, 1266, 1114, 1184}
# Types whose cast to text is their output: bytea, name, text, json, varchar, jsonb.
_TEXTUAL: Final = frozenset({17, 19, 25, 114, 1043, 3802})
_BOOL: Final = 16
_INET: Final = 869


# --- the catalog -----------------------------------------------------------------------------------------------------

# Virtual generated columns (Postgres 18) are left out: the stream never carries them, so for us they are not there.
# Places in a primary key are counted from 0, without its INCLUDE columns.
_COLUMNS: Final = """
  SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      a.attname, a.atttypid::int8, a.atttypmod,
      CASE WHEN e.oid IS NULL THEN t.typname ELSE e.typname END,
      CASE WHEN e.oid IS NULL THEN 0 ELSE GREATEST(a.attndims, 1) END,
      a.attnotnull, a.attgenerated <> '', k.place - 1, COALESCE(e.typtype, t.typtype) = 'e', o.collname
    ) ORDER BY a.attnum) AS columns
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typlen = -1 AND t.typcategory = 'A'
  LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation AND o.collname <> 'default'
  LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
  LEFT JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
    ON k.attnum = a.attnum AND k.place <= i.indnkeyatts
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
"""

_DESCRIPTION: Final = f"""
SELECT c.oid::int8 AS oid, n.nspname, c.relname, c.relkind, c.relreplident,
  COALESCE(pg_catalog.pg_partition_root(c.oid)::oid, c.oid)::int8 AS root, d.columns
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL ({_COLUMNS}) d
WHERE c.relkind IN ('r', 'p') AND d.columns IS NOT NULL
"""  # noqa: S608 - nothing in it comes from outside

# One row or none, the columns as `parse_table` reads them.
TABLE_BY_NAME: Final = f"{_DESCRIPTION} AND n.nspname = $1 AND c.relname = $2"
TABLE_BY_OID: Final = f"{_DESCRIPTION} AND c.oid = $1::oid"

# One row if the relation is in the catalog: the partitioned tables above it, the nearest first, as an array; NULL for none.
ANCESTORS_OF: Final = """
  SELECT (SELECT pg_catalog.json_agg(a.relid::oid::int8 ORDER BY a.place)
    FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY a(relid, place) WHERE a.relid::oid <> c.oid)
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid
"""

# Rows while a transaction that made or drops the relation has not ended for everybody else.
MAKERS_OF: Final = """
  SELECT pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
  WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'relation' AND l.relation = $1::oid
    AND l.mode = 'AccessExclusiveLock' AND l.granted
"""


def database_facts(server_version: int) -> str:
    """
    Write the query for `parse_database`: before Postgres 15 every database has its collation from libc.
    """
    return DATABASE if server_version >= 150000 else DATABASE.replace("d.datlocprovider::text", "'c'")


# Two statements in this order: whatever the first sees committed is below what the second answers.
BOUNDS: Final = "SELECT pg_catalog.pg_current_snapshot(); SELECT pg_catalog.pg_current_wal_insert_lsn()"


def parse_table(row: Row) -> Table:
    """
    Read a row of the description queries.
    """
    oid, schema, name, kind, identity, root, columns = row
    assert oid is not None
    assert schema is not None
    assert name is not None
    assert identity is not None
    assert root is not None
    assert columns is not None
    return Table(
        id=TableId(int(oid), schema, name),
        columns=tuple(Column(*fields) for fields in json.loads(columns)),
        root_oid=int(root),
        replica_identity=identity,
        is_partitioned=kind == "p",
    )


def parse_bounds(snapshot: list[Row], lsn: list[Row]) -> SnapshotBounds:
    """
    Read the answers to `BOUNDS`.
    """
    seen, horizon = snapshot[0][0], lsn[0][0]
    assert seen is not None
    assert horizon is not None
    return SnapshotBounds(Snapshot.parse(seen), InsertLsn.parse(horizon))


def write_oids(oids: Sequence[int]) -> str:
    """
    Write oids as the text of an array, for `$n::oid[]`.
    """
    return "{" + ",".join(str(oid) for oid in oids) + "}"


# --- publication -----------------------------------------------------------------------------------------------------

# What makes a table a member, as the oid of the catalog row that says so: it differs for every membership, so that one
# that ended and began anew is another one. A member with a row filter or a column list counts as none.
_LISTED: Final = """
  SELECT r.oid, (pg_catalog.to_jsonb(r) ->> 'prqual') IS NOT NULL OR (pg_catalog.to_jsonb(r) ->> 'prattrs') IS NOT NULL
    AS is_narrowed
  FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid
"""
_SCHEMA_LISTED: Final = """
  SELECT s.oid FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace
"""

# A partitioned table with all partitions below it. Not pg_partition_tree(): that one locks what it lists. The link names
# the transactions that attached a partition and what is above it: another one, when it was away in between.
_TREE: Final = """
  WITH RECURSIVE tree(oid, link) AS (
    SELECT c.oid, ''
    UNION ALL
    SELECT h.inhrelid, tree.link || ' ' || h.xmin FROM tree JOIN pg_catalog.pg_inherits h ON h.inhparent = tree.oid
      JOIN pg_catalog.pg_class child ON child.oid = h.inhrelid AND child.relispartition
    WHERE NOT h.inhdetachpending
  )
"""


def _membership(server_version: int) -> str:
    """
    Write the expression for a table's membership: an oid, or NULL.
    """
    by_schema = f"({_SCHEMA_LISTED})" if server_version >= 150000 else "NULL"
    return f"""
      COALESCE(
        (SELECT l.oid FROM ({_LISTED}) l WHERE NOT l.is_narrowed), {by_schema}, CASE WHEN p.puballtables THEN p.oid END
      )::int8
    """  # noqa: S608 - as above


# What `forms.parse_form` reads: partitions below a table, labels and attributes of the types its columns are written with,
# the columns, and the files of the table and its partitions.
# Types of users only, or the catalog's own would be looked through for every table.
_FORM: Final = f"""
  pg_catalog.json_build_array(
    CASE WHEN c.relkind = 'p' THEN
      ({_TREE} SELECT pg_catalog.json_agg(pg_catalog.json_build_array(tree.oid::int8, tree.link) ORDER BY tree.oid)
        FROM tree WHERE tree.oid <> c.oid) END,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(l.oid::int8, l.enumlabel) ORDER BY l.oid)
      FROM pg_catalog.pg_enum l WHERE l.enumtypid = ANY (u.types)),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(f.attrelid::int8, f.attnum, f.atttypid::int8)
        ORDER BY f.attrelid, f.attnum)
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute f ON f.attrelid = t.typrelid
      WHERE t.oid = ANY (u.types) AND t.typtype = 'c' AND f.attnum > 0 AND NOT f.attisdropped),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.attnum, a.xmin::text) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    ({_TREE} SELECT pg_catalog.json_agg(pg_catalog.json_build_array(k.oid::int8, k.relfilenode::int8) ORDER BY k.oid)
      FROM tree JOIN pg_catalog.pg_class k ON k.oid = tree.oid)
  )::text
"""  # noqa: S608 - as above
_FORM_TYPES: Final = """
  LEFT JOIN LATERAL (
    WITH RECURSIVE used(oid) AS (
      SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
      UNION
      SELECT x.oid FROM used
      JOIN pg_catalog.pg_type t ON t.oid = used.oid
      CROSS JOIN LATERAL (
        SELECT t.typelem UNION ALL SELECT t.typbasetype
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
        UNION ALL SELECT f.atttypid FROM pg_catalog.pg_attribute f
          WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
      ) x(oid) WHERE x.oid >= 16384
    )
    SELECT pg_catalog.array_agg(used.oid) AS types FROM used
  ) u ON true
"""

# Of the partitions $1 those whose rows, if they have any, were not all told by the stream: made as a table of its own
# (a column that was inherited from the start is still as old as the table's system columns, attaching writes it anew),
# and with something in its file.
ARRIVED_WITH_ROWS: Final = """
  SELECT c.oid::int8 FROM pg_catalog.pg_class c
  WHERE c.oid = ANY ($1::oid[])
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attribute s ON s.attrelid = a.attrelid
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attinhcount > 0 AND s.attnum = -6
        AND a.xmin = s.xmin AND a.cmin = s.cmin)
    AND pg_catalog.pg_relation_size(c.oid) > 0
"""


@dataclass(frozen=True, slots=True)
class PublicationState:
    """
    What the catalog says about a table and the publication.

    Attributes:
        is_there: whether the publication exists.
        is_ours: whether we have the rights of its owner.
        publishes_all: whether inserts, updates, deletes and truncates are published.
        publishes_generated: whether stored generated columns are.
        table: the table's present name; None when it is gone.
        membership: what makes the table a member, see above; None when it is not one.
        is_narrowed: whether it is listed with a row filter or a column list.
        weak: it and its partitions that have not replica identity full.
        tree: oids of it and its partitions.
        form: as `forms.parse_form` reads it.
        is_via_root: whether changes of partitions are published as those of their root, and the table is one of them.
        unpublished: generated columns with which Postgres would refuse updates under replica identity full.
    """

    is_there: bool
    is_ours: bool = False
    publishes_all: bool = False
    publishes_generated: bool = False
    table: TableId | None = None
    membership: int | None = None
    is_narrowed: bool = False
    weak: tuple[TableId, ...] = ()
    tree: tuple[int, ...] = ()
    form: str = ""
    is_via_root: bool = False
    unpublished: tuple[str, ...] = ()


def publication_state(server_version: int) -> str:
    """
    Write the query for `parse_publication_state`; its parameters are the publication's name and the table's oid.
    """
    # From 18 on Postgres refuses updates of tables whose replica identity holds such columns.
    unpublished = """
      (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (a.attgenerated = 'v'
          OR a.attgenerated = 's' AND COALESCE(pg_catalog.to_jsonb(p) ->> 'pubgencols', 'n') <> 's'))
    """
    if server_version < 180000:
        unpublished = "NULL"
    return f"""
      SELECT pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
        p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
        COALESCE(pg_catalog.to_jsonb(p) ->> 'pubgencols', 'n') = 's',
        c.oid::int8, n.nspname, c.relname, {_membership(server_version)},
        EXISTS (SELECT FROM ({_LISTED}) l WHERE l.is_narrowed),
        ({_TREE} SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
            k.oid::int8, kn.nspname, k.relname, k.relkind IN ('r', 'p') AND k.relreplident <> 'f') ORDER BY k.oid)
          FROM tree JOIN pg_catalog.pg_class k ON k.oid = tree.oid
          JOIN pg_catalog.pg_namespace kn ON kn.oid = k.relnamespace),
        {_FORM}, p.pubviaroot AND (c.relkind = 'p' OR c.relispartition), {unpublished}
      FROM pg_catalog.pg_publication p
      LEFT JOIN pg_catalog.pg_class c ON c.oid = $2::oid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      {_FORM_TYPES}
      WHERE p.pubname = $1
    """  # noqa: S608 - as above


def parse_publication_state(rows: list[Row]) -> PublicationState:
    """
    Read the answer to `publication_state`.
    """
    if not rows:
        return PublicationState(is_there=False)
    ours, publishes_all, generated, oid, schema, name, membership, narrowed, tree, form, via_root, unpublished = rows[0]
    relations = json.loads(tree) if tree and oid else []
    return PublicationState(
        is_there=True,
        is_ours=ours == "t",
        publishes_all=publishes_all == "t",
        publishes_generated=generated == "t",
        table=TableId(int(oid), schema, name) if oid and schema is not None and name is not None else None,
        membership=int(membership) if membership else None,
        is_narrowed=narrowed == "t",
        weak=tuple(TableId(*relation[:3]) for relation in relations if relation[3]),
        tree=tuple(relation[0] for relation in relations),
        form=form or "",
        is_via_root=via_root == "t",
        unpublished=tuple(json.loads(unpublished or "[]")),
    )


# All that a description depends on, names of types excepted: cheaper to gather than the description itself.
_DIGEST: Final = """
  pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', n.nspname, c.relname, c.relkind, c.relreplident,
    CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid END,
    (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attndims,
        a.attnotnull, a.attgenerated, a.attcollation), ',' ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT pg_catalog.concat_ws(' ', i.indkey, i.indnkeyatts)
      FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
  ), 0)
"""


def catalog_poll(server_version: int) -> str:
    """
    Write the query that watches tables; its parameters are the publication's name and an array of oids.

    A row for each table that is there: oid, a digest of its description, membership (NULL for none), whether it and all
    its partitions have replica identity full, its form.
    """
    is_full = f"""
      NOT EXISTS ({_TREE} SELECT FROM tree JOIN pg_catalog.pg_class k ON k.oid = tree.oid
        WHERE k.relkind IN ('r', 'p') AND k.relreplident <> 'f')
    """
    return f"""
      SELECT c.oid::int8, {_DIGEST}, {_membership(server_version)},
        CASE c.relkind WHEN 'p' THEN {is_full} ELSE c.relreplident = 'f' END, {_FORM}
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_publication p ON p.pubname = $1
      {_FORM_TYPES}
      WHERE c.oid = ANY ($2::oid[]) AND c.relkind IN ('r', 'p')
    """  # noqa: S608 - as above


# Tables listed by name in the publication $1: oid.
LISTED_TABLES: Final = """
  SELECT r.prrelid::int8 FROM pg_catalog.pg_publication_rel r
  JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1
"""

# Transactions that hold a lock on one of the relations $1 under which rows may be written, and have an id: without one
# they have not written anything yet. Writers hold RowExclusiveLock whatever else they hold; TRUNCATE holds
# AccessExclusiveLock. The modes in between that never write (ShareUpdateExclusiveLock of VACUUM, ShareLock of CREATE
# INDEX) are left out, for they may take hours. One look at pg_locks, or a transaction could slip between two.
# Prepared transactions are in it like others.
WRITERS: Final = """
  WITH held AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks WHERE granted)
  SELECT DISTINCT x.transactionid::text FROM held l
  JOIN held x ON x.virtualtransaction = l.virtualtransaction AND x.pid IS NOT DISTINCT FROM l.pid
    AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
  WHERE l.locktype = 'relation' AND l.relation = ANY ($1::oid[])
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
# Which of the transactions $1 have not ended.
STILL_RUNNING: Final = """
  SELECT DISTINCT transactionid::text FROM pg_catalog.pg_locks
  WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted AND transactionid::text = ANY ($1::text[])
"""


def alter_publication(publication: str, state: PublicationState, *, lock_timeout_ms: int) -> str | None:
    """
    Write the transaction that makes a table a member with replica identity full; None when there is nothing to alter.

    An ordinary table is added with ONLY: tables that inherit from it are tables of their own. Identity belongs to each
    partition, so all of them are altered, and the parent.
    """
    assert state.table is not None
    statements = []
    if state.membership is None:
        statements.append(add_to_publication(publication, state.table, is_listed=state.is_narrowed))
    statements += [identity_full(table) for table in state.weak]
    if not statements:
        return None
    return _ddl(statements, lock_timeout_ms)


def add_to_publication(publication: str, table: TableId, *, is_listed: bool) -> str:
    """
    Write the statements that make a table a member, whole; one that is listed in part leaves first.
    """
    target = f"ALTER PUBLICATION {quote_identifier(publication)}"
    leave = f"{target} DROP TABLE ONLY {quote_table(table)}; " if is_listed else ""
    return f"{leave}{target} ADD TABLE ONLY {quote_table(table)}"


def identity_full(table: TableId) -> str:
    """
    Write the statement that makes Postgres send whole old rows.
    """
    return f"ALTER TABLE ONLY {quote_table(table)} REPLICA IDENTITY FULL"


def drop_from_publication(publication: str, table: TableId, *, lock_timeout_ms: int) -> str:
    """
    Write the transaction that ends a table's membership.
    """
    statement = f"ALTER PUBLICATION {quote_identifier(publication)} DROP TABLE ONLY {quote_table(table)}"
    return _ddl([statement], lock_timeout_ms)


def _ddl(statements: Sequence[str], lock_timeout_ms: int) -> str:
    """
    Wrap statements into a transaction that does not queue for locks for long: everyone else queues behind it.
    """
    return "; ".join(["BEGIN", f"SET LOCAL lock_timeout = {lock_timeout_ms}", *statements, "COMMIT"])


# --- snapshots -------------------------------------------------------------------------------------------------------


def begin_snapshot(definition: ShapeDefinition, server_version: int, *, statement_timeout_ms: int = 0) -> str:
    """
    Write the statements that open a snapshot's transaction, all sent at once.

    The last three give rows: the snapshot, the insert LSN (in this order), the table as that snapshot sees it.
    """
    # The user's timeouts are meant for queries of a page; ours have deadlines of their own.
    settings = {
        **DISPLAY_SETTINGS,
        "statement_timeout": f"{statement_timeout_ms:d}",
        "idle_in_transaction_session_timeout": "0",
    }
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    return "; ".join(
        [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            *(f"SET LOCAL {name} = {quote_literal(value)}" for name, value in settings.items()),
            BOUNDS,
            f"{_DESCRIPTION} AND c.oid = {definition.table.oid:d}",
        ]
    )


def copy_snapshot(definition: ShapeDefinition, *, is_partitioned: bool) -> str:
    """
    Write the `COPY` of a shape's rows as JSON elements, a line each.

    Of an ordinary table only its own rows, not those of tables that inherit from it: the stream names these by their
    own names, so they belong to shapes of their own.
    """
    only = "" if is_partitioned else "ONLY "
    where = f" WHERE (\n{definition.where}\n)" if definition.where is not None else ""
    select = f"SELECT {render_row(definition)} FROM {only}{quote_table(definition.table)}{where}"  # noqa: S608 - quoted
    return _copy_out(select)


def copy_subset(definition: ShapeDefinition, subset: Subset, *, mark: int, is_partitioned: bool) -> str:
    """
    Write the `COPY` of some of a shape's rows, each with `mark` in its headers.

    A condition that can fail is asked only of rows that the shape's own condition has let through: `OFFSET 0` keeps
    Postgres from asking it first. Any other may use an index.
    """
    only = "" if is_partitioned else "ONLY "
    source = f"{only}{quote_table(definition.table)}"
    wheres = [definition.where, subset.where]
    if subset.can_fail and definition.where is not None:
        source = f"(SELECT * FROM {source} WHERE (\n{definition.where}\n) OFFSET 0) AS shape"  # noqa: S608 - quoted
        wheres = [subset.where]
    row = render_row(definition, f',"snapshot_mark":{mark:d}')
    text = f"SELECT {row} FROM {source}"  # noqa: S608 - quoted
    conditions = " AND ".join(f"(\n{where}\n)" for where in wheres if where is not None)
    if conditions:
        text += f" WHERE {conditions}"
    if subset.order_by is not None:
        text += f" ORDER BY {subset.order_by}"
    if subset.limit is not None:
        text += f" LIMIT {subset.limit:d}"
    if subset.offset is not None:
        text += f" OFFSET {subset.offset:d}"
    return _copy_out(text)


def _copy_out(select: str) -> str:
    return f"COPY ({select}) TO STDOUT WITH (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01', ENCODING 'UTF8')"


def verify_snapshot(table: TableId) -> str:
    """
    Write the query for after the `COPY`, in the same transaction: whether it read the table that its snapshot saw.

    Between the taking of the snapshot and of the lock on the table, somebody may have replaced or rewritten it. What
    such a command wrote anew is younger than the snapshot, so that the rows would be missing in silence. The catalog
    read by query is as old as the snapshot, the functions see the present: compare the two. From the `COPY` on nobody
    can rewrite it.
    """
    return f"""
      SELECT pg_catalog.to_regclass({quote_literal(quote_table(table))}) = c.oid::regclass AND NOT EXISTS (
        {_TREE} SELECT FROM tree JOIN pg_catalog.pg_class k ON k.oid = tree.oid
        WHERE NULLIF(k.relfilenode, 0) IS DISTINCT FROM pg_catalog.pg_relation_filenode(k.oid))
      FROM pg_catalog.pg_class c WHERE c.oid = {table.oid:d}
    """  # noqa: S608 - quoted


def render_row(definition: ShapeDefinition, more_headers: str = "") -> str:
    """
    Write the expression for a row's JSON element; `more_headers` are JSON members that all rows have, a comma before each.
    """
    columns = {column.name: column for column in definition.columns}
    pieces = _Pieces()
    pieces.add_constant('{"key":')
    _render_key(pieces, definition, columns)
    pieces.add_constant(',"value":{')
    for place, name in enumerate(definition.selected):
        pieces.add_constant(f"{',' if place else ''}{_to_json(name)}:")
        column = columns[name]
        if definition.has_primary_key and name in definition.key_columns and column.type_oid in _PLAIN:
            # Never NULL and never escaped.
            pieces.add_constant('"')
            pieces.add_expression(quote_identifier(name))
            pieces.add_constant('"')
        else:
            pieces.add_expression(_render_value(column))
    relation = f"{_to_json(definition.table.schema)},{_to_json(definition.table.name)}"
    pieces.add_constant(f'}},"headers":{{"operation":"insert","relation":[{relation}]{more_headers}}}}}')
    return pieces.join()


def _render_key(pieces: _Pieces, definition: ShapeDefinition, columns: dict[str, ShapeColumn]) -> None:
    """
    Add the key as a JSON string: the quoted table, then a slash and the quoted value of each key column.

    Slashes in values are doubled, NULL is an underscore without quotes.
    """
    table = quote_table(definition.table)
    keys = [columns[name] for name in definition.key_columns]
    if definition.has_primary_key and all(column.type_oid in _INTEGERS | {2950} for column in keys):
        pieces.add_constant(_to_json(table)[:-1])
        for column in keys:
            pieces.add_constant('/\\"')
            pieces.add_expression(quote_identifier(column.name))
            pieces.add_constant('\\"')
        pieces.add_constant('"')
        return
    key = _Pieces()
    key.add_constant(table)
    for column in keys:
        name = quote_identifier(column.name)
        text = f"""pg_catalog.replace(pg_catalog.concat({name}), '/', '//')"""
        if definition.has_primary_key:
            key.add_constant('/"')
            key.add_expression(text)
            key.add_constant('"')
        else:
            key.add_constant("/")
            key.add_expression(f"""CASE WHEN {name} IS NOT DISTINCT FROM NULL THEN '_' ELSE '"' || {text} || '"' END""")
    pieces.add_expression(f"pg_catalog.to_json({key.join()})")


def _render_value(column: ShapeColumn) -> str:
    """
    Write the expression for a value: a JSON string, or null.
    """
    name = quote_identifier(column.name)
    if column.type_oid in _PLAIN:
        return f"""COALESCE('"' || {name}::text || '"', 'null')"""
    if column.type_oid == _BOOL:
        return f"""CASE {name} WHEN true THEN '"true"' WHEN false THEN '"false"' ELSE 'null' END"""
    if column.type_oid in _TEXTUAL or column.type_oid == _INET:
        return f"COALESCE(pg_catalog.to_json({name}::text), 'null')"
    # concat() gives the type's output, where the cast to text may give another text (char(n) loses its padding) and
    # domains hide their base type. A row of NULLs is not NULL, hence not IS NULL.
    return (
        f"CASE WHEN {name} IS NOT DISTINCT FROM NULL THEN 'null' ELSE pg_catalog.to_json(pg_catalog.concat({name})) END"
    )


class _Pieces:
    """
    Constant texts and expressions that are to be concatenated in order.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[bool, str]] = []

    def add_constant(self, text: str) -> None:
        """
        Add a text, joined to the one before it if that is constant too.
        """
        if self._parts and self._parts[-1][0]:
            text = self._parts.pop()[1] + text
        self._parts.append((True, text))

    def add_expression(self, sql: str) -> None:
        """
        Add an expression whose output is appended as it is.
        """
        self._parts.append((False, sql))

    def join(self) -> str:
        """
        Write the concatenation, nested where a function takes no more arguments.
        """
        terms = [quote_literal(text) if is_constant else text for is_constant, text in self._parts]
        while len(terms) > _ARGUMENTS_MAX:
            terms = [_concat(terms[at : at + _ARGUMENTS_MAX]) for at in range(0, len(terms), _ARGUMENTS_MAX)]
        return _concat(terms)


def _concat(terms: Sequence[str]) -> str:
    """
    Write a call of `concat`.
    """
    return f"pg_catalog.concat({', '.join(terms)})"


def _to_json(text: str) -> str:
    """
    Write a JSON string as Postgres's `to_json` does: other scripts as they are.
    """
    return json.dumps(text, ensure_ascii=False)
