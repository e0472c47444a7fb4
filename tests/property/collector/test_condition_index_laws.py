"""The filter index compared with the evaluation of every condition on every row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.collector.abc import INCLUDES_NEW, INCLUDES_OLD, UNKNOWN
from penstock.collector.filter.index import FilterIndex
from penstock.postgres.relation import Column, RelationDescription, StreamColumn, TableId
from penstock.replication.messages import Change, Operation, Row
from penstock.shapes.condition import basis_of, condition_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.where.clause import compile_where
from stream_builder import lookups_count

COLUMNS = (
    Column("id", 20, -1, "int8", is_not_null=True, pk_index=0),
    Column("t", 25, -1, "text"),
    Column("n", 1700, -1, "numeric"),
    Column("f", 701, -1, "float8"),
    Column("ai", 1007, -1, "int4", dims=1),
    Column("ts", 1114, -1, "timestamp"),
)
TABLE = TableId(10, "public", "t")
RELATION = RelationDescription(
    TABLE, "f", tuple(StreamColumn(column.name, column.type_oid, column.typmod, is_key=True) for column in COLUMNS)
)
TURNED = RELATION._replace(columns=tuple(reversed(RELATION.columns)))

VALUES: tuple[tuple[bytes | None, ...], ...] = (
    (b"1", b"2", b"3", b"-1"),
    (b"a", b"b", b"", b"1", None),
    (b"1", b"1.0", b"1.00", b"-0", b"0", b"NaN", b"2", None),
    (b"1", b"0", b"-0", b"1e+300", b"Infinity", b"NaN", None),
    (b"{}", b"{1}", b"{1,2}", b"{2,NULL}", b"{{1,2},{3,1}}", b"{NULL}", None),
    (b"2024-01-01 00:00:00", b"infinity", b"0044-03-15 00:00:00 BC", b"not a time", None),
)
ROWS = st.tuples(*(st.sampled_from(values) for values in VALUES))

ATOMS = st.sampled_from(
    [
        "id = 1", "2 = id", "id IN (1, 3)", "id = ANY ('{2,3,NULL}')", "id = NULL", "id <> 1", "id > 1",
        "t = 'a'", "t IN ('', 'b', NULL)", "t = 'nobody'", "t LIKE 'a%'", "t IS NULL", "t = t",
        "n = 1", "n = 0.00", "n = 'NaN'", "n IN (1.0, 2)", "n < 1",
        "f = 1", "f = 0", "f = 'Infinity'", "f = 'NaN'", "id = 1.0",
        "ai @> '{1}'", "ai @> '{1,2}'", "ai @> '{}'", "ai @> '{NULL}'", "'{2}' <@ ai", "1 = ANY (ai)", "ai = '{1}'",
        "ai[1] = 1", "ts = '2024-01-01 00:00:00'", "ts = 'infinity'", "ts > '2000-01-01 00:00:00'", "true", "false",
        "10 / id = 5", "id::text = '1'", "NOT (id = 1)", "id BETWEEN 1 AND 2", "t = 'a' IS TRUE",
        # The same but for their constants, so that they are asked together: sorted, or one after the other.
        "id > 2", "id > -1", "id >= 2", "2 >= id", "id < 2::int8", "1 < id", "n > 1.0", "n > 1.00", "n > 'NaN'",
        "n <= 'NaN'", "f > 1", "f > 'NaN'", "f <= '-Infinity'", "t >= 'a'", "t >= ''", "t < 'b'", "t > NULL",
        "ts <= 'infinity'", "ts <= '2024-01-01 00:00:00'", "ts::date > '2024-01-01'", "ts < '2024-01-02'::date",
        "10 / id > 5", "10 / id > 4", "10 / (id - 2) > 4", "n::int8 > 1", "n::int8 > 0", "NOT (id > 1)", "NOT (id > 2)",
        "NOT (n > 1 AND t = 'a')", "NOT (n > 2 AND t = 'b')", "t LIKE '%b'", "id + 1 = 2", "id + 1 = 3", "id % 2 > 0",
        "t || id::text = 'a1'", "coalesce(t, 'b') = 'b'", "coalesce(t, 'b') = 'a'", "t IS DISTINCT FROM 'a'",
        "ai[1] > 1", "ai[2] > 1", "ai > '{1}'", "cardinality(ai) > 1", "1 / n > 0", "(n > 1) IS UNKNOWN",
        "CASE WHEN id = 2 THEN n > 1 ELSE t = 'a' END", "CASE WHEN id = 3 THEN n > 0 ELSE t = 'b' END", "id = n::int8",
    ]
)  # fmt: skip
CLAUSES = st.recursive(
    ATOMS,
    lambda inner: st.builds(
        lambda word, parts: "(" + f" {word} ".join(parts) + ")",
        st.sampled_from(["AND", "OR"]),
        st.lists(inner, min_size=2, max_size=3),
    ),
    max_leaves=5,
)


@cache
def shape(where: str | None) -> ShapeDefinition:
    clause = None if where is None else compile_where(where, (), COLUMNS)
    return ShapeDefinition(
        TABLE,
        shape_columns(COLUMNS),
        ("id",),
        has_primary_key=True,
        selected=("id",),
        where=None if clause is None else clause.normalised,
        basis=None if clause is None else basis_of(clause, COLUMNS),
    )


def included(where: str | None, rows: Sequence[Row | None]) -> bool:
    condition = condition_of(shape(where))
    if condition is None:
        return True
    return any(verdict_of(where, row) for row in rows)


def verdict_of(where: str | None, old: Row | None, new: Row | None = None) -> int:
    """What evaluating the whole condition says of both rows."""
    condition = condition_of(shape(where))
    assert condition is not None
    includes = condition.includes(RELATION)
    assert includes is not None
    verdict = INCLUDES_OLD if old is not None and includes(old) else 0
    return verdict | (INCLUDES_NEW if new is not None and includes(new) else 0)


def changes_of(pairs: Sequence[tuple[Row | None, Row | None]], *, is_turned: Sequence[bool]) -> list[Change]:
    changes = []
    for place, (old, new) in enumerate(pairs):
        operation = Operation.INSERT if old is None else Operation.DELETE if new is None else Operation.UPDATE
        if is_turned[place]:
            old, new = (None if row is None else tuple(reversed(row)) for row in (old, new))
        changes.append(Change(operation, TURNED if is_turned[place] else RELATION, 2 * place, old, new))
    return changes


def routed(index: FilterIndex, changes: list[Change]) -> dict[int, list[int]]:
    """Positions by incarnation, as the collector delivers them."""
    every = [change.op_position for change in changes]
    found = dict.fromkeys(index.whole(10), every)
    for incarnations, chosen, _ in index.match({10: changes}):
        for incarnation in incarnations:
            assert incarnation not in found, "nobody is named twice"
            found[incarnation] = [change.op_position for change in chosen]
            assert found[incarnation] == sorted(set(found[incarnation]))
    return found


PAIRS = st.tuples(st.none() | ROWS, ROWS) | st.tuples(ROWS, st.none())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.none() | CLAUSES, min_size=1, max_size=8),
    st.lists(st.tuples(PAIRS, st.booleans()), min_size=1, max_size=6),
)
def test_the_index_never_misses_what_evaluation_accepts(
    clauses: list[str | None], drawn: list[tuple[tuple[Row | None, Row | None], bool]]
) -> None:
    """
    Whatever a condition includes, of the old or of the new row, in whichever order of columns, is found.

    Scenarios F5, F6.
    """
    index = FilterIndex()
    for incarnation, where in enumerate(clauses):
        index.add(incarnation, shape(where))
    pairs = [pair for pair, _ in drawn]
    found = routed(index, changes_of(pairs, is_turned=[turned for _, turned in drawn]))
    for incarnation, where in enumerate(clauses):
        wanted = {2 * place for place, pair in enumerate(pairs) if included(where, pair)}
        assert wanted <= set(found.get(incarnation, ())), where


@settings(max_examples=70, deadline=None)
@given(
    st.lists(CLAUSES, min_size=1, max_size=16),
    st.lists(st.tuples(PAIRS, st.booleans()), min_size=1, max_size=6),
)
def test_a_verdict_is_what_evaluation_says(
    clauses: list[str], drawn: list[tuple[tuple[Row | None, Row | None], bool]]
) -> None:
    """
    Whatever conditions are asked together, each gets the answer it has alone; who is not found includes neither row.
    """
    index = FilterIndex()
    for incarnation, where in enumerate(clauses):
        index.add(incarnation, shape(where))
    pairs = [pair for pair, _ in drawn]
    changes = changes_of(pairs, is_turned=[turned for _, turned in drawn])
    found: set[tuple[int, int]] = set()
    for incarnations, chosen, verdicts in index.match({10: changes}):
        found.update((incarnation, change.op_position) for incarnation in incarnations for change in chosen)
        for change, verdict in zip(chosen, verdicts, strict=True):
            wanted = verdict_of(clauses[incarnations[0]], *pairs[change.op_position // 2])
            assert verdict in {wanted, UNKNOWN}, (clauses[incarnations[0]], pairs[change.op_position // 2])
            assert verdict != 0, "a change of no concern is not routed when that is known"
    for incarnation, where in enumerate(clauses):
        for place, pair in enumerate(pairs):
            assert (incarnation, 2 * place) in found or verdict_of(where, *pair) == 0, where


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CLAUSES | st.none(), st.booleans()), min_size=1, max_size=10), st.randoms(), PAIRS)
def test_what_was_removed_leaves_nothing_behind(
    steps: list[tuple[str | None, bool]], order: object, pair: tuple[Row | None, Row | None]
) -> None:
    """
    After shapes come and go the index answers like one in which the others never were; empty, it holds nothing.

    Scenario F5.
    """
    index, fresh = FilterIndex(), FilterIndex()
    for incarnation, (where, _) in enumerate(steps):
        index.add(incarnation, shape(where))
        # Rows are asked about in between, so that something is remembered.
        routed(index, changes_of([pair], is_turned=[False]))
    leaving = [incarnation for incarnation, (_, stays) in enumerate(steps) if not stays]
    order.shuffle(leaving)  # type: ignore[attr-defined]  # a Random
    for incarnation in leaving:
        assert index.remove(incarnation)
    for incarnation, (where, stays) in enumerate(steps):
        if stays:
            fresh.add(incarnation, shape(where))
    changes = changes_of([pair], is_turned=[False])
    assert routed(index, changes) == routed(fresh, changes)
    assert index.affected(10) == fresh.affected(10)
    if index.conditional and not any("ai" in (where or "") for where, _ in steps):
        # With arrays it may differ: which element a condition waits for depends on who else was there.
        assert lookups_count(index.conditional[10]) == lookups_count(fresh.conditional[10])
    conditional = index.conditional.get(10)
    for incarnation in index.affected(10):
        index.remove(incarnation)
    assert (len(index), index.tables(), index.conditional) == (0, (), {})
    assert conditional is None or conditional.is_empty


@given(st.lists(CLAUSES, min_size=1, max_size=6), ROWS)
@settings(max_examples=50, deadline=None)
def test_what_nobody_can_tell_concerns_everybody(clauses: list[str], row: Row) -> None:
    """
    An update without its old row concerns every shape; a row of a table whose columns changed every shape that reads any.

    Scenario F7.
    """
    index = FilterIndex()
    for incarnation, where in enumerate(clauses):
        index.add(incarnation, shape(where))
    lost = Change(Operation.UPDATE, RELATION, 0, None, row, is_old_missing=True)
    assert set(routed(index, [lost])) == set(range(len(clauses)))
    retyped = RELATION._replace(columns=tuple(column._replace(type_oid=17) for column in RELATION.columns))
    found = routed(index, [Change(Operation.INSERT, retyped, 0, None, row)])
    for incarnation, where in enumerate(clauses):
        condition = condition_of(shape(where))
        assert condition is not None
        if condition.clause.columns and included_by_any_row(where):
            assert incarnation in found, where


@cache
def included_by_any_row(where: str) -> bool:
    """Whether a simple row is included; conditions that no row can satisfy are not routed at all."""
    simple = [
        (b"%d" % number, text, n, f, array, ts)
        for number in (1, 2, 3)
        for text in (b"a", b"b", b"", None)
        for n in (b"1", b"0")
        for f in (b"1", b"0")
        for array in (b"{1,2}", b"{1}")
        for ts in (b"2024-01-01 00:00:00",)
    ]
    return included(where, simple)
