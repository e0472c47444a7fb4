from __future__ import annotations

import dataclasses

import pytest

from penstock.postgres.relation import Column
from penstock.where.clause import compile_where, index_plan
from penstock.where.facts import CaseMapping, DatabaseFacts, is_byte_ordered, maps_letter_by_letter, parse_database
from penstock.where.index_plan import Contains, Equals, canonicaliser, element_canonicaliser
from where_table import COLUMNS, FACTS, ORDER, clause, evaluate, refusal, row

TRUE_OF_THE_ROW: list[str] = [
    "id = 5",
    "id IN (1, 5)",
    "id NOT IN (1, 2)",
    "id BETWEEN 1 AND 5 AND id NOT BETWEEN 6 AND 9",
    "id BETWEEN SYMMETRIC 9 AND 1",
    "id = 5.0 AND id < 9999999999 AND id = '5'::int8",
    "v LIKE 'h%o' AND v ILIKE 'H_LLO' AND v NOT LIKE 'x%'",
    "v || id = 'hello5'",
    "n = 1.5 AND n::text = '1.50' AND n < 'NaN' AND n < 'Infinity'",
    "0.1 + 0.2 = 0.3::numeric",
    "f = 1.5 AND f < 'infinity'",
    "status = 'open' AND status IN ('open', 'closed') AND status = ANY ('{open}') AND status <> 'closed'::app.mood",
    "d + 1 = '2024-02-01' AND d > '0044-03-15 BC' AND d < 'infinity'",
    "ts + interval '1 month' = '2024-02-29 10:00:00'",
    "date_trunc('month', ts) = '2024-01-01 00:00:00' AND extract(year from ts) = 2024",
    "tz = '2024-01-31 12:00:00+02' AND extract(epoch from tz) > 0",
    "tz AT TIME ZONE 'UTC' = ts",
    "u = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
    "j -> 'a' -> 'b' ->> 0 = '1' AND j #>> '{a,b,1}' = '2' AND j @> '{\"a\": {}}' AND j ? 'c' AND j ->> 'c' IS NULL",
    "tags @> '{2}' AND 1 = ANY (tags) AND tags[1] = 1 AND tags[1:2] = '{1,2}' AND cardinality(tags) = 3",
    "array_length(words, 1) = 2 AND array_position(words, 'b c') = 2 AND words || '{x}' = ARRAY['a', 'b c', 'x'] AND words || 'x'::text = '{a,b c,x}'",
    "coalesce(NULL, v) = 'hello' AND nullif(id, 5) IS NULL AND greatest(1, id, NULL) = 5 AND least(9, id) = 5",
    "CASE WHEN b THEN 'x' ELSE 'y' END = 'x' AND CASE id WHEN 5 THEN true END",
    "lower('ABC') = 'abc' AND upper(v) = 'HELLO' AND substring(v from 2 for 3) = 'ell' AND trim('  a ') = 'a'",
    "replace(v, 'l', 'L') = 'heLLo' AND split_part('a,b', ',', 2) = 'b' AND position('l' in v) = 3 AND starts_with(v, 'he')",
    "id % 2 = 1 AND mod(id, 3) = 2 AND abs(-id) = 5 AND round(2.5) = 3 AND floor(-1.5) = -2 AND ceil(1.2) = 2",
    "round(2.5::float8) = 2 AND 7 / 2 = 3 AND -7 / 2 = -3 AND -7 % 3 = -1",
    "c5 = 'ab' AND length(c5) = 2 AND c5 || '|' = 'ab|'",
    "positive = 7 AND ARRAY[positive] = '{7}'",
    "interval '1 month' = interval '30 days' AND justify_hours(interval '30 hours') = interval '1 day 6 hours'",
    "addr IS NOT NULL",
    '"Odd ""name" = \'x\'',
    "concat(v, NULL, b) = 'hellot' AND b::text = 'true'",
    "v COLLATE \"C\" < 'i'",
    "0x10 = 16 AND 1_000 = 1000 AND 1e3 = 1000 AND 9999999999 > id",
    "(NULL::bool) IS UNKNOWN AND b IS TRUE AND (id = 1) IS FALSE AND b IS NOT UNKNOWN",
    "id IS DISTINCT FROM NULL AND NULL IS NOT DISTINCT FROM NULL::int4",
    "v = $$hello$$ OR false",
    "b",
]


@pytest.mark.parametrize("text", TRUE_OF_THE_ROW)
def test_conditions_hold(text: str) -> None:
    """
    Each holds of the example row, and its normalised text is the same condition, written the same.

    Scenario F2.
    """
    assert evaluate(text) is True
    normalised = clause(text).normalised
    assert evaluate(normalised) is True
    assert clause(normalised).normalised == normalised
    assert clause(normalised) == clause(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v = 'x' OR b", None),
        ("v = 'x' AND b", None),
        ("v = 'x' AND id = 6", False),
        ("v = 'x' OR id = 5", True),
        ("NOT (v = 'x')", None),
        ("id IN (5, NULL)", True),
        ("id IN (6, NULL)", None),
        ("id NOT IN (6, NULL)", None),
        ("id NOT IN (5, NULL)", False),
        ("v IN ('x')", None),
        ("v IS NULL", True),
        ("9 = ANY (tags)", None),
        ("1 = ANY (tags)", True),
        ("9 <> ALL (tags)", None),
        ("1 = ANY ('{}'::int4[])", False),
        ("v LIKE ALL ('{}')", True),
        ("v IS DISTINCT FROM 'x'", True),
        ("coalesce(v, 'x') = 'x'", True),
        ("(v = 'x') IS NOT TRUE", True),
        ("tags @> '{NULL}'", False),
        ("tags && '{9,NULL}'", False),
    ],
)
def test_null_is_neither(text: str, expected: bool | None) -> None:  # noqa: FBT001 - a table of results
    """
    With `v` and `b` NULL, logic has three values.

    Scenarios F2, F4.
    """
    assert evaluate(text, v=None, b=None) is expected


@pytest.mark.parametrize(
    "text", ["10 / id > 1", "v::int4 = 1", "id * 2147483647 > 0", "(j ->> 'a')::numeric = 1", "NOT (1 / id = 1)"]
)
def test_a_row_that_cannot_be_evaluated_is_not_included(text: str) -> None:
    """
    What would be an error in Postgres gives neither true nor false, and raises nothing.

    Scenario F4.
    """
    assert evaluate(text, id="0" if "/" in text else "5") is None


@pytest.mark.parametrize(
    "text",
    ["id = 5", "n > 1", "d > '2024-01-01'", "tags @> '{1}'", "j ? 'a'", "u > 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
)
def test_rubbish_in_a_row_raises_nothing(text: str) -> None:
    """
    Text that no server sends is not included.

    Scenario F4.
    """
    rubbish = tuple(b"\xff{nonsense" for _ in ORDER)
    made = clause(text)
    assert made.compile(ORDER)(rubbish) is not True
    assert made.compile_filter(ORDER)(rubbish) is False


def test_parameters_in_a_list_have_the_type_of_the_column() -> None:
    """
    A list of parameters beside a `varchar` means what a list of literals does.
    """
    columns = (Column("code", 1043, 14, "varchar"),)
    as_literals = compile_where("code IN ('a', 'b')", (), columns)
    assert compile_where("code IN ($1, $2)", ("a", "b"), columns).normalised == as_literals.normalised


def test_a_parameter_is_only_ever_a_value() -> None:
    """
    Quotes and operators inside a parameter are part of the text.
    """
    assert evaluate("v = 'nonexistent' OR TRUE") is True
    assert evaluate("v = $1", ["'nonexistent' OR TRUE"]) is False
    hostile = "x' OR 'a'='a' -- \\' $1"
    normalised = clause("v = $1", [hostile]).normalised
    assert evaluate(normalised, v=hostile) is True
    assert evaluate(normalised) is False


@pytest.mark.parametrize(
    "text",
    [
        "id=5 and v='x'",
        "ID = 5 AND V = 'x'",
        "((id = 5)) AND (v = 'x'::text)",
        '"id" =\n 5 AND v = $1',
        "id = 5::int4 AND v = E'x'",
    ],
)
def test_the_same_condition_has_one_text(text: str) -> None:
    """
    Blanks, case, parentheses, casts to the type a literal has anyway, and parameters do not matter.

    Scenario F11.
    """
    assert clause(text, ["x"]).normalised == '(("id" = 5) AND ("v" = \'x\'::text))'


def test_order_of_text_is_pinned_unless_the_database_compares_bytes() -> None:
    """
    Both sides say COLLATE "C" where the database may have another order, and neither where it has this one.
    """
    assert clause("v < 'a'").normalised == '(("v" COLLATE "C") < \'a\'::text)'
    ordered = dataclasses.replace(FACTS, is_byte_ordered=True)
    assert clause("v < 'a'", facts=ordered).normalised == "(\"v\" < 'a'::text)"
    assert clause("german = 'a'", facts=ordered).normalised == '(("german" COLLATE "C") = \'a\'::text)'
    assert "COLLATE" not in clause("v = 'a' AND v LIKE 'a%'").normalised


def test_letters_map_as_the_database_maps_them_or_as_ascii() -> None:
    """
    With the database's mapping it is used; without, only ASCII is mapped, on both sides.
    """
    assert clause("lower(v) = 'é'").normalised == '(pg_catalog.lower(("v" COLLATE "C")) = \'é\'::text)'
    assert evaluate("lower(v) = 'É'", v="É") is True
    mapped = dataclasses.replace(FACTS, case=CaseMapping({0xC9: 0xE9}, {0xE9: 0xC9}))
    made = clause("lower(v) = 'é' AND v ILIKE 'é'", facts=mapped)
    assert "COLLATE" not in made.normalised
    assert made.compile(ORDER)(row(v="É")) is True


@pytest.mark.parametrize(
    ("encoding", "collate", "provider", "locale", "expected"),
    [
        ("UTF8", "C", "c", None, True),
        ("UTF8", "POSIX", "c", None, True),
        ("UTF8", "C.UTF-8", "c", None, True),
        ("UTF8", "en_US.UTF-8", "c", None, False),
        ("UTF8", "C", "i", "en-US", False),
        ("UTF8", "C", "b", "C.UTF-8", True),
        ("EUC_JP", "C", "c", None, False),
    ],
)
def test_when_a_database_provably_compares_bytes(
    encoding: str,
    collate: str,
    provider: str,
    locale: str | None,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """
    Only C and POSIX and C.UTF-8 do, in encodings whose bytes are in the order of code points.
    """
    assert is_byte_ordered(encoding, collate, provider, locale) is expected
    assert parse_database((encoding, collate, collate, provider, locale)).is_byte_ordered is expected


def test_only_libc_maps_letter_by_letter() -> None:
    """
    ICU may turn one letter into two.
    """
    assert maps_letter_by_letter("UTF8", "c")
    assert not maps_letter_by_letter("UTF8", "i")


def test_conditions_that_differ_in_constants_share_their_code() -> None:
    """
    One template, one compiled function, other constants.
    """
    five, six = clause("id = 5 AND v LIKE 'a%'").truth, clause("id = 6 AND v LIKE 'b%'").truth
    assert five.source == six.source
    assert five.constants != six.constants
    assert five.bind(ORDER).__code__ is six.bind(ORDER).__code__


def test_rows_may_order_their_columns_differently() -> None:
    """
    A partition has the columns of its parent in an order of its own.
    """
    made = clause("id = 5 AND b")
    assert made.columns == ("b", "id")
    assert made.compile(("b", "id"))((b"t", b"5")) is True
    with pytest.raises(KeyError):
        made.compile(("id",))


def test_no_facts_are_needed_for_plain_columns() -> None:
    """
    The default facts serve tables without enums and domains.
    """
    assert compile_where("id = 5", (), COLUMNS).facts == DatabaseFacts()


def test_plans_name_what_an_index_can_answer() -> None:
    """
    Equality, IN, containment and membership are found, through AND and OR, with keys as rows have them.

    Scenarios F5, F6.
    """
    plan = index_plan(clause("id = 5"))
    assert plan is not None
    assert plan.is_exact
    assert plan.branches == ((Equals("id", "int4", frozenset({b"5"})),),)
    plan = index_plan(clause("id IN (5, 6) OR id = 7"))
    assert plan is not None
    assert plan.branches == ((Equals("id", "int4", frozenset({b"5", b"6", b"7"})),),)
    plan = index_plan(clause("id = 5 AND v LIKE 'a%' AND status = 'open'"))
    assert plan is not None
    assert not plan.is_exact
    assert plan.branches == (
        (Equals("id", "int4", frozenset({b"5"})), Equals("status", "enum:50000", frozenset({b"open"}))),
    )
    plan = index_plan(clause("tags @> '{1,2}' OR 3 = ANY (tags)"))
    assert plan is not None
    assert plan.branches == (
        (Contains("tags", "int4[]", frozenset({1, 2})),),
        (Contains("tags", "int4[]", frozenset({3})),),
    )
    assert element_canonicaliser("int4[]")(b"{1,NULL,2,2}") == frozenset({1, 2})
    assert index_plan(clause("id = 5 OR v LIKE 'a%'")) is None
    assert index_plan(clause("id <> 5")) is None
    plan = index_plan(clause("id = NULL"))
    assert plan is not None
    assert plan.branches == ()


def test_values_with_several_texts_have_one_key() -> None:
    """
    1.0 and 1.00 are one numeric, and a padded char(n) is the text without its padding.
    """
    plan = index_plan(clause("n = 1.0 AND c5 = 'ab'"))
    assert plan is not None
    ((first, second),) = plan.branches
    number, padded = canonicaliser("numeric"), canonicaliser("bpchar")
    assert number is not None
    assert padded is not None
    assert isinstance(first, Equals)
    assert isinstance(second, Equals)
    assert number(b"1.000") in first.keys
    assert padded(b"ab   ") in second.keys
    assert canonicaliser("int8") is None


def test_plans_stay_small() -> None:
    """
    A product of many alternatives is cut, and stays necessary.
    """
    text = " AND ".join(f"(id = {n} OR v = '{n}' OR status = 'open')" for n in range(6))
    plan = index_plan(clause(text))
    assert plan is not None
    assert len(plan.branches) <= 64
    assert not plan.is_exact


@pytest.mark.parametrize(
    "text",
    [
        "(" * 30_000 + "b" + ")" * 30_000,
        "NOT " * 16_000 + "b",
        "v" + " || v" * 10_000 + " = 'x'",
        "b OR " * 12_000 + "b",
        "lower(" * 9_000 + "v" + ")" * 9_000 + " = 'x'",
        "id IN (" + "id, " * 15_000 + "1)",
        "n = " + " * ".join(["1e131000"] * 100),
        "tags = '" + "{" * 60_000 + "'",
        "j = '" + "[" * 60_000 + "'",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_are_refused(text: str) -> None:
    """
    What would cost too much is refused with a reason.
    """
    assert re_limit(refusal(text))


def re_limit(message: str) -> bool:
    """
    Whether a message speaks of a limit or of a value that is none.
    """
    words = ("too deeply", "too large", "memory exhausted", "invalid syntax", "bigger than", "Failed to apply")
    return any(word in message for word in words)


def test_operands_that_are_copied_do_not_multiply() -> None:
    """
    BETWEEN compares its operand twice and CASE once a branch; nested, that would double at each level.
    """
    text = "id"
    for _ in range(40):
        text = f"(CASE {text} WHEN 1 THEN 2 WHEN 2 THEN 3 ELSE 4 END)"
    assert "too large" in refusal(f"{text} = 1")
    text = "id"
    for _ in range(40):
        text = f"(CASE WHEN {text} BETWEEN SYMMETRIC 1 AND 2 THEN 1 ELSE 2 END)"
    assert "too large" in refusal(f"{text} = 1")


def test_long_lists_of_constants_are_fine() -> None:
    """
    Thousands of values are one set.
    """
    made = clause("id IN (" + ", ".join(map(str, range(9_000))) + ")")
    assert made.compile(ORDER)(row(id="8999")) is True
    assert made.compile(ORDER)(row(id="9000")) is False


def test_like_takes_time_in_proportion() -> None:
    """
    A pattern made to make others try every split is answered at once, because leftmost never loses.
    """
    pattern = "%a" * 200 + "%b"
    assert evaluate(f"v LIKE '{pattern}'", v="a" * 20_000) is False
    assert evaluate(f"v LIKE '{pattern}'", v="a" * 20_000 + "b") is True
    assert evaluate("v LIKE 'a%b'", v="a\nb") is True
    assert evaluate(r"v LIKE 'a\%_'", v="a%x") is True
    assert evaluate("v LIKE id::text || '\\'", v="5") is False
