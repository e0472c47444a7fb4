from __future__ import annotations

import re

import pytest

from penstock.where.clause import compile_where
from penstock.where.facts import NO_FACTS
from penstock.where.parse import TEXT_BYTES_MAX
from where_table import COLUMNS, FACTS, clause, refusal

# The text of the contract for each; a sentence about what is supported may follow.
REFUSED: list[tuple[str, str]] = [
    ("1 x 1", 'At location 17: syntax error at or near "x"'),
    ("", "At location 15: syntax error at end of input"),
    ("v = 'abc", 'At location 19: unterminated quoted string at or near "\'abc"'),
    ("id = 1; SELECT 2", 'unescaped ";" causing statement split'),
    ("id = 1;", 'unescaped ";" causing statement split'),
    ("id = 1 ORDER BY id", "malformed query ending with SQL clauses"),
    ("id = 1 GROUP BY id", "malformed query ending with SQL clauses"),
    ("id = 1 FOR UPDATE", "malformed query ending with SQL clauses"),
    ("id = 1 LIMIT 1", "malformed query ending with SQL clauses"),
    ("id = 1 OFFSET 1", "malformed query ending with SQL clauses"),
    ("id = 1 UNION SELECT 1", "malformed query ending with SQL clauses"),
    ("id", "WHERE clause must return a boolean"),
    ("NULL", "WHERE clause must return a boolean"),
    ("id + 1", "WHERE clause must return a boolean"),
    ("zz = 1", "At location 0: unknown reference zz"),
    ("id = 1 AND Zz = 1", "At location 11: unknown reference zz"),
    ('"Zz" = 1', 'At location 0: unknown reference "Zz"'),
    ("t.id = 1", "At location 0: unknown reference t.id"),
    ("'é' = zz", "At location 6: unknown reference zz"),
    ("id = $1", "At location 5: parameter $1 was not provided"),
    ("id = 'abc'", "At location 5: invalid syntax for type int4: abc"),
    ("id = '99999999999'", "At location 5: invalid syntax for type int4: 99999999999"),
    ("u = 'x'", "At location 4: invalid syntax for type uuid: x"),
    ("d = 'today'", "At location 4: invalid syntax for type date: today"),
    ("d = '2023-02-29'", "At location 4: invalid syntax for type date: 2023-02-29"),
    ("tz = '2024-01-01 00:00:00'", "At location 5: invalid syntax for type timestamptz: 2024-01-01 00:00:00"),
    ("ts = '2024-01-01'", "At location 5: invalid syntax for type timestamp: 2024-01-01"),
    ("status = 'lost'", "At location 9: invalid syntax for type enum mood: lost"),
    ("tags = '{1,'", "At location 7: invalid syntax for type int4[]: {1,"),
    ("j = '{'", "At location 4: invalid syntax for type jsonb: {"),
    ("id = X'1f'", "At location 5: BitString values are not supported"),
    ("now() > tz", "At location 0: unknown or unsupported function now/0"),
    ("random() < 0.5", "At location 0: unknown or unsupported function random/0"),
    ("public.f(id) = 1", "At location 0: unknown or unsupported function public.f/1"),
    ("lower(v, v) = 'x'", "At location 0: unknown or unsupported function lower/2"),
    ("lower(id) = 'x'", "At location 0: Could not select a function overload for lower(int4)"),
    ("concat() = ''", "At location 0: unknown or unsupported function concat/0"),
    ("concat(tz) = ''", "At location 0: Could not select a function overload for concat(timestamptz)"),
    ("concat(VARIADIC words) = ''", "At location 0: explicit VARIADIC function calls are not currently supported"),
    ("count(*) > 1", "At location 0: aggregation is not supported in this context"),
    ("sum(id) > 1", "At location 0: aggregation is not supported in this context"),
    ("max(id) OVER () > 1", "At location 0: aggregation is not supported in this context"),
    ("v SIMILAR TO 'a'", "At location 2: unknown or unsupported function similar_to_escape/1"),
    ("v LIKE 'a' ESCAPE 'b'", "At location 2: unknown or unsupported function like_escape/2"),
    ("substring(v from 'a.c') = 'abc'", "At location 0: unknown or unsupported function substring/2"),
    ("extract(hour from tz) = 1", "At location 0: unknown or unsupported function extract/2"),
    ("extract(quarter from interval '1 mon') = 1", "At location 0: unknown or unsupported function extract/2"),
    ("date_trunc('day', tz) = tz", "At location 0: unknown or unsupported function date_trunc/2"),
    ("ts AT TIME ZONE 'Europe/Berlin' = tz", "At location 3: unknown or unsupported function timezone/2"),
    ("v ~ 'a'", 'At location 2: unknown binary operator "~"'),
    ("f ^ 2 = 1", 'At location 2: unknown binary operator "^"'),
    ("id << 1 = 2", 'At location 3: unknown binary operator "<<"'),
    ("!! id = 1", 'At location 0: unknown unary operator "!!"'),
    ("id OPERATOR(public.=) 1", 'At location 3: unknown binary operator "public.="'),
    ("id = v", "At location 3: Could not select an operator overload"),
    ("d = tz", "At location 2: Could not select an operator overload"),
    ("d + '1 day' > d", "At location 2: Could not select an operator overload"),
    ("addr = '127.0.0.1'", "At location 5: Could not select an operator overload"),
    ("status < 'open'", "At location 7: Could not select an operator overload"),
    ("j < '{}'", "At location 2: Could not select an operator overload"),
    ("(id, v) = (1, 'a')", "At location 8: Could not select an operator overload"),
    ("(id, v) IN ((1, 'a'))", "At location 8: Could not select an operator overload"),
    ("id AND b", "At location 0: reference id of type int4 is not castable to bool"),
    ("NOT lower(v)", "At location 4: function lower returning text is not castable to bool"),
    ("id IS TRUE", "At location 3: argument of IS TRUE must be bool, not int4"),
    ("id IS NOT UNKNOWN", "At location 3: argument of IS NOT UNKNOWN must be bool, not int4"),
    ("ARRAY[1, v] = words", "At location 0: ARRAY types text and int4 cannot be matched"),
    ("ARRAY[] = words", "At location 0: cannot determine type of empty array"),
    ("id = ANY (id)", "At location 10: argument of ANY must be an array"),
    ("id + ANY (tags)", "At location 3: ANY/ALL requires operator that returns bool"),
    ("id::uuid = u", "At location 4: unknown cast from type int4 to type uuid"),
    ("v::date = d", "At location 3: unknown cast from type text to type date"),
    ("tz::text = 'x'", "At location 4: unknown cast from type timestamptz to type text"),
    ("'abc'::text::int4 = id", 'At location 13: could not cast value "abc" from text to int4'),
    ("v::money = v", "At location 3: unsupported type money"),
    ("v::app.other = v", "At location 3: unsupported type app.other"),
    ("ts::timestamp(3) = ts", "At location 4: unsupported type timestamp with a modifier"),
    ("1 / 0 = id", "At location 2: Failed to apply function to constant arguments"),
    ("id = 1 OR 1 / 0 = 1", "At location 12: Failed to apply function to constant arguments"),
    ("CURRENT_DATE = d", "At location 0: SQLValueFunction is not supported in this context"),
    ("v COLLATE \"de-x-icu\" < 'a'", "At location 2: CollateClause is not supported in this context"),
    ("j['a'] = '1'", "At location 0: cannot subscript type jsonb because it is not an array"),
    ("EXISTS (SELECT 1)", "At location 0: only `value IN (SELECT ...)` sublinks are supported right now"),
    ("id IN (SELECT 1)", "At location 3: only `value IN (SELECT ...)` sublinks are supported right now"),
    ("GROUPING(id) = 1", "At location 0: GroupingFunc is not supported in this context"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_refusal_says_where_and_why(text: str, expected: str) -> None:
    """
    The sentence of the contract comes first; what follows begins with a full stop and says what is supported.

    Scenarios B15, F1, F3.
    """
    message = refusal(text)
    assert message == expected or re.fullmatch(re.escape(expected) + r"\. [A-Z].*", message, re.DOTALL), message


def test_a_text_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    """
    The limit is in bytes of UTF-8, and a text as long as the limit passes.
    """
    assert "bigger than maximum size" in refusal("v = '" + "é" * (TEXT_BYTES_MAX // 2) + "'")
    padding = "a" * (TEXT_BYTES_MAX - len("v = ''"))
    assert clause(f"v = '{padding}'").columns == ("v",)


def test_a_parameter_has_one_type() -> None:
    """
    Used as two types it is refused, with casts it may have both.
    """
    assert "type conflict for $1: int4 and text" in refusal("id = $1 AND v = $1", ["5"])
    assert clause("id = $1::int4 AND v = $1::text", ["5"]).columns == ("id", "v")


def test_parameters_beyond_ten_and_unused_ones_are_fine() -> None:
    """
    `$12` is not `$1` followed by a 2, and what is not used does not matter.
    """
    params = [str(number) for number in range(1, 14)]
    assert clause("id = $12", params).normalised == clause("id = 12").normalised


def test_an_enum_without_its_labels_is_refused_as_the_reference_does() -> None:
    """
    Without facts about the enum a literal cannot be checked; its text still compares.

    Scenario F1.
    """
    message = refusal("status = 'open'", facts=NO_FACTS)
    assert message.startswith("At location 9: invalid syntax for type enum mood: open. ")
    assert compile_where("status::text = 'open'", (), COLUMNS, NO_FACTS).columns == ("status",)


def test_characters_that_no_database_holds_are_refused() -> None:
    """
    A zero character or half a surrogate pair anywhere is a refusal.
    """
    assert "character 0" in refusal("v = '\0'")
    assert "character 0" in refusal("v = $1", ["\0"])
    assert refusal("v = '\ud800'") == "the text is not valid Unicode"
    assert "surrogate" in refusal("v = $1", ["\ud800"])


def test_a_domain_is_its_base_type() -> None:
    """
    A column with a domain is used like one of the type under it.

    Scenario F1.
    """
    assert compile_where("positive + 1 = 8", (), COLUMNS, FACTS).columns == ("positive",)
