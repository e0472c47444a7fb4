"""
Random conditions and nasty rows: a wide table, values of every type that have been trouble somewhere, and a generator of typed
expressions over both. A seed decides everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from penstock.postgres.quoting import quote_identifier, quote_literal

NASTY: Final[dict[str, list[str]]] = {
    "bool": ["t", "f"],
    "int2": ["0", "1", "-1", "2", "7", "32767", "-32768"],
    "int4": ["0", "1", "-1", "2", "3", "10", "100", "2147483647", "-2147483648"],
    "int8": ["0", "1", "-1", "5", "9007199254740993", "9223372036854775807", "-9223372036854775808"],
    "float4": ["0", "-0", "1.5", "0.1", "-3", "NaN", "Infinity", "-Infinity", "3.4028235e+38", "1e-45", "16777217"],
    "float8": ["0", "-0", "1.5", "0.1", "2.5", "-3.5", "NaN", "Infinity", "-Infinity", "1.7e308", "5e-324", "1e15", "1e-5"],
    "numeric": [
        "0", "0.00", "1", "1.0", "1.50", "-2.5", "2.5", "NaN", "Infinity", "-Infinity", "12345678901234567890.123456789",
        "0.0000000000000001", "99999999999999999999999999", "3", "10000", "0.003",
    ],
    "text": [
        "", "a", "A", "abc", "ABC", "a b", " a ", "a%b", "a_b", "a\\b", "\\", "é", "É", "ß", "ñandú", "日本", "😀", "a\nb", "\n",
        "'", "''", '"', "null", "NULL", "{", "1", "42", "-7", "1.5", "true", "yes", "aXa", "%", "__", "İ", "ǅ", "z", "Z", "_",
    ],
    "date": [
        "2024-01-31", "2024-02-29", "2000-01-01", "1999-12-31", "0044-03-15 BC", "0001-01-01", "infinity", "-infinity",
        "5874897-12-31", "4713-01-01 BC", "1970-01-01", "2023-12-31", "2021-01-03",
    ],
    "time": ["00:00:00", "24:00:00", "12:34:56.789", "23:59:59.999999", "01:00:00"],
    "timestamp": [
        "2024-01-31 10:00:00", "2024-02-29 23:59:59.999999", "1969-12-31 23:59:59.5", "infinity", "-infinity",
        "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59.999999", "2000-01-01 00:00:00", "0001-01-01 00:00:00",
    ],
    "timestamptz": [
        "2024-01-31 10:00:00+00", "2024-03-31 01:30:00+00", "infinity", "-infinity", "1970-01-01 00:00:00+00",
        "0044-03-15 12:00:00+00 BC", "2024-01-31 12:00:00+02", "1999-12-31 23:59:59.123456-05:30",
    ],
    "interval": [
        "PT0S", "P1D", "PT24H", "P1M", "P30D", "P1Y", "P12M", "P-1D", "PT-0.5S", "P1M-30DT1H", "P1Y2M3DT4H5M6.7S",
        "PT1H30M", "P-1Y-2M3DT-4H", "P100D", "PT86400.000001S",
    ],
    "uuid": [
        "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
    ],
    "bytea": ["\\x", "\\x00", "\\x00ff", "\\xdeadbeef"],
    "jsonb": [
        "null", "true", "1", "1.0", "1.50", '"a"', '""', "[]", "{}", '["a", "b", 1]', '{"a": 1}', '{"a": {"b": [1, 2, {"c": null}]}}',
        '{"a": "x\\ny", "é": "ü", "": 0}', "[1, [2, 3], null, true]", '{"b": 2, "a": 1.0, "long": [{}]}', '["é\\"\\\\"]',
        '{"a": null}', "12345678901234567890.5", '{"1": "one", "a": "1"}',
    ],
    "mood": ["open", "closed", "it's", "Ünder way"],
    "int4[]": ["{}", "{1}", "{1,2,3}", "{NULL}", "{1,NULL,2}", "[0:2]={1,2,3}", "{{1,2},{3,4}}", "{3,2,1}", "[2:3][-1:0]={{1,2},{3,4}}"],
    "text[]": ["{}", "{a}", '{a,"b c",NULL}', '{"NULL",null,""}', '{"\\"q\\"","\\\\","{x}"}', "{{a,b},{c,d}}", "{é,ß,日本}", '{" x "}'],
    "numeric[]": ["{}", "{1.0,2.50}", "{NaN,NULL}", "{1,2.5}"],
    "float8[]": ["{}", "{0,-0}", "{NaN,Infinity}", "{1.5,NULL}"],
    "timestamp[]": ["{}", '{"2024-01-31 10:00:00",infinity}', '{"2000-01-01 00:00:00",NULL}'],
    "mood[]": ["{}", "{open,closed}", '{"it\'s",NULL}'],
    "jsonb[]": ["{}", '{"{\\"a\\": 1}",NULL}', "{1,1.0}"],
}  # fmt: skip
for _alias in ("varchar", "name", "bpchar", "label"):
    NASTY[_alias] = NASTY["text"]
NASTY["bpchar"] = [value[:5] for value in NASTY["text"]]
NASTY["positive"] = ["1", "2", "100"]

COLUMNS: Final[list[tuple[str, str, str]]] = [
    *((f"c_{type_}", type_, type_) for type_ in (
        "bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "name", "date", "time", "timestamp",
        "timestamptz", "interval", "uuid", "bytea", "jsonb", "mood",
    )),
    ("c_bpchar", "bpchar", "char(5)"),
    ("d_int4", "int4", "int4"),
    ("d_text", "text", "text"),
    ("d_numeric", "numeric", "numeric(40,9)"),
    ("d_float8", "float8", "float8"),
    ("d_timestamp", "timestamp", "timestamp"),
    ("d_interval", "interval", "interval"),
    ("d_jsonb", "jsonb", "jsonb"),
    ('Quoted "col', "text", "text"),
    ("positive", "int4", "positive"),
    ("a_int4", "int4[]", "int4[]"),
    ("a_text", "text[]", "text[]"),
    ("a_numeric", "numeric[]", "numeric[]"),
    ("a_float8", "float8[]", "float8[]"),
    ("a_timestamp", "timestamp[]", "timestamp[]"),
    ("a_mood", "mood[]", "mood[]"),
    ("a_jsonb", "jsonb[]", "jsonb[]"),
]  # fmt: skip
"""Name, type as the generator knows it, type as the table declares it."""

ROWS: Final = 48


def rows(seed: int, count: int = ROWS) -> list[list[str | None]]:
    """
    Make rows of nasty values; a numeric with a limit has values that fit.
    """
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        row: list[str | None] = []
        for name, type_, _declared in COLUMNS:
            if chance.random() < 0.12:
                row.append(None)
                continue
            pool = NASTY["positive"] if name == "positive" else NASTY[type_]
            if name == "d_numeric":
                pool = [value for value in pool if "Inf" not in value]
            row.append(chance.choice(pool))
        made.append(row)
    return made


NUMBERS: Final = ("int2", "int4", "int8", "float4", "float8", "numeric")
TEXTS: Final = ("text", "varchar", "bpchar", "name")
TIMES: Final = ("date", "time", "timestamp", "timestamptz", "interval")
SCALARS: Final = ("bool", *NUMBERS, *TEXTS, *TIMES, "uuid", "bytea", "jsonb", "mood")
ORDERED: Final = (
    "bool",
    *NUMBERS,
    "text",
    "varchar",
    "bpchar",
    *TIMES,
    "uuid",
    "bytea",
    "int4[]",
    "numeric[]",
    "float8[]",
)
ARRAYS: Final = ("int4[]", "text[]", "numeric[]", "float8[]", "timestamp[]", "mood[]", "jsonb[]")
COMPARISONS: Final = ("=", "<>", "<", ">", "<=", ">=")


class Generator:
    """
    Makes conditions; those that our checker refuses are fine, it is the others that are compared.
    """

    def __init__(self, chance: random.Random) -> None:
        """
        Draw from `chance`.
        """
        self.chance = chance
        self.params: list[str] = []

    def clause(self) -> tuple[str, list[str]]:
        """
        Make a condition and its parameters.
        """
        self.params = []
        return self.expr("bool", self.chance.choice((1, 2, 2, 3))), self.params

    def literal(self, type_: str) -> str:
        """
        Make a literal, quoted, with a cast, or as a parameter.
        """
        chance = self.chance
        text = chance.choice(NASTY[type_])
        roll = chance.random()
        if roll < 0.06:
            return f"NULL::{type_}"
        if type_ in NUMBERS and roll < 0.5:
            if text.lstrip("-").isdigit():
                return f"({text})" if text.startswith("-") else text
            if type_ == "numeric" and text[0].isdigit():
                return text
        if type_ == "bool":
            return chance.choice(("true", "false"))
        if roll < 0.65:
            return quote_literal(text)
        if roll < 0.8:
            self.params.append(text)
            return f"${len(self.params)}" if chance.random() < 0.5 else f"${len(self.params)}::{type_}"
        return f"{quote_literal(text)}::{type_}"

    def column(self, type_: str) -> str | None:
        """
        Take a column of a type.
        """
        names = [name for name, known, _ in COLUMNS if known == type_]
        return quote_identifier(self.chance.choice(names)) if names else None

    def leaf(self, type_: str) -> str:
        """
        Make a column or a literal.
        """
        if self.chance.random() < 0.65 and (name := self.column(type_)):
            return name
        return self.literal(type_)

    def expr(self, type_: str, depth: int) -> str:
        """
        Make an expression of a type.
        """
        if depth <= 0 or (type_ != "bool" and self.chance.random() < 0.35):
            return self.leaf(type_)
        if type_ != "bool" and self.chance.random() < 0.15:
            return self.generic(type_, depth)
        makers: dict[str, Callable[[int], str]] = {
            "bool": self.boolean, "text": self.text, "varchar": self.text, "date": self.date, "time": self.time,
            "timestamp": self.timestamp, "timestamptz": self.timestamptz, "interval": self.interval, "jsonb": self.jsonb,
        }  # fmt: skip
        if type_ in NUMBERS:
            return self.number(type_, depth)
        if type_.endswith("[]"):
            return self.array(type_, depth)
        maker = makers.get(type_)
        return maker(depth) if maker else self.leaf(type_)

    def generic(self, type_: str, depth: int) -> str:
        """
        Make what every type has.
        """

        def expr() -> str:
            return self.expr(type_, depth - 1)

        def condition() -> str:
            return self.expr("bool", depth - 1)

        options = [
            f"coalesce({expr()}, {expr()})",
            f"CASE WHEN {condition()} THEN {expr()} ELSE {expr()} END",
            f"CASE WHEN {condition()} THEN {expr()} END",
            f"CASE {self.leaf('int4')} WHEN {self.leaf('int4')} THEN {expr()} ELSE {expr()} END",
            f"nullif({expr()}, {expr()})",
            f"({expr()})::{type_}",
        ]
        if type_ in ORDERED:
            options += [f"greatest({expr()}, {expr()})", f"least({expr()}, {expr()}, {expr()})"]
        return self.chance.choice(options)

    def boolean(self, depth: int) -> str:
        """
        Make a condition.
        """
        chance, expr = self.chance, self.expr
        below = depth - 1
        any_type = chance.choice((*SCALARS, *ARRAYS))
        ordered = chance.choice(ORDERED)
        scalar = chance.choice((*SCALARS,))
        number, other = chance.choice(NUMBERS), chance.choice(NUMBERS)
        sign = chance.choice(COMPARISONS)
        negation = chance.choice(("", "NOT "))
        array = chance.choice(ARRAYS)
        item = array[:-2]

        def values(count: int) -> str:
            return ", ".join(expr(scalar, below if chance.random() < 0.2 else 0) for _ in range(count))

        options: list[Callable[[], str]] = [
            lambda: f"{expr(any_type, below)} {chance.choice(('=', '<>'))} {expr(any_type, below)}",
            lambda: f"{expr(ordered, below)} {sign} {expr(ordered, below)}",
            lambda: f"{expr(number, below)} {sign} {expr(other, below)}",
            lambda: f"{expr(chance.choice(TEXTS), below)} {sign} {expr(chance.choice(TEXTS), below)}",
            lambda: f"{expr('date', below)} {sign} {expr('timestamp', below)}",
            lambda: f"{expr(any_type, below)} IS {negation}NULL",
            lambda: f"{expr(any_type, below)} IS {negation}DISTINCT FROM {expr(any_type, below)}",
            lambda: f"({expr('bool', below)}) IS {negation}{chance.choice(('TRUE', 'FALSE', 'UNKNOWN'))}",
            lambda: f"NOT ({expr('bool', below)})",
            lambda: f"({expr('bool', below)}) AND ({expr('bool', below)})",
            lambda: f"({expr('bool', below)}) OR ({expr('bool', below)}) OR ({expr('bool', below)})",
            lambda: f"{expr(scalar, below)} {negation}IN ({values(chance.randint(1, 4))})",
            lambda: f"{expr(ordered, below)} {negation}BETWEEN {expr(ordered, below)} AND {expr(ordered, below)}",
            lambda: f"{expr(ordered, 0)} {negation}BETWEEN SYMMETRIC {expr(ordered, 0)} AND {expr(ordered, 0)}",
            lambda: f"{expr(item, below)} {chance.choice(('=', '<>'))} {chance.choice(('ANY', 'ALL'))} ({expr(array, below)})",
            lambda: f"{expr('int4', 0)} {sign} {chance.choice(('ANY', 'ALL'))} ({expr('int4[]', below)})",
            lambda: f"{expr('text', below)} LIKE ANY ({self.literal('text[]')})",
            lambda: f"{expr(array, below)} {chance.choice(('@>', '<@', '&&'))} {expr(array, below)}",
            lambda: f"{expr('jsonb', below)} {chance.choice(('@>', '<@'))} {expr('jsonb', below)}",
            lambda: f"{expr('jsonb', below)} ? {self.literal('text')}",
            lambda: f"{expr('jsonb', below)} {chance.choice(('?|', '?&'))} {self.leaf('text[]')}",
            self.like,
            lambda: f"starts_with({expr('text', below)}, {expr('text', 0)})",
            lambda: f"isfinite({expr(chance.choice(('date', 'timestamp', 'interval')), below)})",
            lambda: f"({expr(chance.choice(('text', 'int4', 'jsonb')), below)})::bool",
        ]  # fmt: skip
        return chance.choice(options)()

    def like(self) -> str:
        """
        Make a LIKE with a pattern that may match.
        """
        chance = self.chance
        pattern = "".join(
            chance.choice(["%", "_", "a", "b", "A", "\\_", "\\%", "é", "\n", "\\\\", " ", "ß"])
            for _ in range(chance.randint(0, 5))
        )
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            pattern += "a"
        operator = chance.choice(("LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "~~", "!~~*"))
        left = self.expr(chance.choice(("text", "text", "varchar", "bpchar", "name")), 1)
        return f"{left} {operator} {quote_literal(pattern)}"

    def number(self, type_: str, depth: int) -> str:
        """
        Make a number.
        """
        chance, expr = self.chance, self.expr
        below = depth - 1
        options: list[Callable[[], str]] = [
            lambda: f"({expr(type_, below)} {chance.choice('+-*/')} {expr(type_, below)})",
            lambda: f"({expr(type_, below)} {chance.choice('+-*/')} {expr(chance.choice(NUMBERS), below)})",
            lambda: f"(- {expr(type_, below)})",
            lambda: f"abs({expr(type_, below)})",
            lambda: f"(@ {expr(type_, below)})",
            lambda: f"({expr(chance.choice(NUMBERS), below)})::{type_}",
            lambda: f"({expr('text', 0)})::{type_}",
            lambda: f"({expr('jsonb', 0)})::{type_}",
        ]  # fmt: skip
        if type_.startswith("int"):
            options += [
                lambda: f"({expr(type_, below)} {chance.choice(('%', '&', '|', '#'))} {expr(type_, below)})",
                lambda: f"(~ {expr(type_, below)})",
                lambda: f"mod({expr(type_, below)}, {expr(type_, below)})",
            ]
        if type_ == "int4":
            options += [
                lambda: f"length({expr(chance.choice(TEXTS), below)})",
                lambda: f"octet_length({expr(chance.choice(('text', 'bpchar', 'bytea')), below)})",
                lambda: f"position({expr('text', 0)} in {expr('text', below)})",
                lambda: f"strpos({expr('text', below)}, {expr('text', 0)})",
                lambda: f"array_length({expr(chance.choice(ARRAYS), below)}, {chance.choice('012')})",
                lambda: f"array_lower({expr(chance.choice(ARRAYS), below)}, 1)",
                lambda: f"array_upper({expr(chance.choice(ARRAYS), below)}, 2)",
                lambda: f"array_ndims({expr(chance.choice(ARRAYS), below)})",
                lambda: f"cardinality({expr(chance.choice(ARRAYS), below)})",
                lambda: f"array_position({expr('int4[]', below)}, {expr('int4', 0)})",
                lambda: f"array_position({expr('text[]', below)}, {expr('text', 0)})",
                lambda: f"({expr('int4[]', below)})[{self.leaf('int2')}]",
                lambda: f"({expr('int4[]', below)})[{self.leaf('int2')}][1]",
                lambda: f"({expr('date', below)} - {expr('date', 0)})",
                lambda: f"({expr('bool', below)})::int4",
                lambda: f"jsonb_array_length({expr('jsonb', below)})",
            ]
        if type_ in {"numeric", "float8"}:
            fields = "century day decade dow doy epoch hour isodow isoyear microseconds millennium milliseconds minute month quarter second week year"
            function = "extract({} from {})" if type_ == "numeric" else "date_part('{}', {})"
            options += [
                lambda: f"{chance.choice(('round', 'floor', 'ceil', 'ceiling', 'trunc', 'sign'))}({expr(type_, below)})",
                lambda: function.format(chance.choice(fields.split()), expr(chance.choice(("date", "timestamp", "time", "interval")), below)),
                lambda: function.format("epoch", expr("timestamptz", below)),
            ]  # fmt: skip
        if type_ == "numeric":
            options += [
                lambda: f"({expr('numeric', below)} % {expr('numeric', below)})",
                lambda: (
                    f"{chance.choice(('round', 'trunc'))}({expr('numeric', below)}, {chance.choice(('0', '1', '2', '-1', '20'))})"
                ),
                lambda: f"div({expr('numeric', below)}, {expr('numeric', below)})",
                lambda: f"({expr(chance.choice(NUMBERS), below)})::numeric({chance.choice(('10,2', '5', '30,10'))})",
            ]
        if type_ == "float8":
            options += [lambda: f"(|/ {expr('float8', below)})", lambda: f"sqrt({expr('float8', below)})"]
        return chance.choice(options)()

    def text(self, depth: int) -> str:
        """
        Make a text.
        """
        chance, expr = self.chance, self.expr
        below = depth - 1
        small = ("0", "1", "2", "3", "-1", "-2", "5")
        options: list[Callable[[], str]] = [
            lambda: f"({expr('text', below)} || {expr('text', below)})",
            lambda: f"({expr('text', below)} || {expr(chance.choice(SCALARS), below)})",
            lambda: f"({expr(chance.choice(('int4', 'bool', 'date', 'numeric', 'mood')), below)} || {expr('text', below)})",
            lambda: f"lower({expr(chance.choice(TEXTS), below)})",
            lambda: f"upper({expr(chance.choice(TEXTS), below)})",
            lambda: f"substring({expr('text', below)} from {chance.choice(small)} for {chance.choice(small)})",
            lambda: f"substr({expr('text', below)}, {chance.choice(small)})",
            lambda: f"{chance.choice(('btrim', 'ltrim', 'rtrim'))}({expr('text', below)})",
            lambda: f"{chance.choice(('btrim', 'ltrim', 'rtrim'))}({expr('text', below)}, {expr('text', 0)})",
            lambda: f"trim({chance.choice(('both', 'leading', 'trailing'))} 'a' from {expr('text', below)})",
            lambda: f"replace({expr('text', below)}, {expr('text', 0)}, {expr('text', 0)})",
            lambda: f"split_part({expr('text', below)}, {expr('text', 0)}, {chance.choice(small)})",
            lambda: f"{chance.choice(('left', 'right'))}({expr('text', below)}, {chance.choice(small)})",
            lambda: f"reverse({expr('text', below)})",
            lambda: f"({expr(chance.choice((*SCALARS, *ARRAYS)), below)})::{chance.choice(('text', 'varchar', 'varchar(3)'))}",
            lambda: f"concat({expr(chance.choice(SCALARS), below)}, {expr(chance.choice((*SCALARS, *ARRAYS)), below)})",
            lambda: f"({expr('jsonb', below)} ->> {chance.choice(small)})",
            lambda: f"({expr('jsonb', below)} ->> {self.literal('text')})",
            lambda: f"({expr('jsonb', below)} #>> {self.literal('text[]')})",
            lambda: f"jsonb_typeof({expr('jsonb', below)})",
            lambda: f"({expr('text[]', below)})[{chance.choice(small)}]",
        ]  # fmt: skip
        return chance.choice(options)()

    def date(self, depth: int) -> str:
        """
        Make a date.
        """
        chance, expr = self.chance, self.expr
        options: list[Callable[[], str]] = [
            lambda: f"({expr('date', depth - 1)} {chance.choice('+-')} {expr('int4', 0)})",
            lambda: f"({expr('int4', 0)} + {expr('date', depth - 1)})",
            lambda: f"({expr('timestamp', depth - 1)})::date",
        ]
        return chance.choice(options)()

    def time(self, depth: int) -> str:
        """
        Make a time.
        """
        chance, expr = self.chance, self.expr
        options: list[Callable[[], str]] = [
            lambda: f"({expr('time', depth - 1)} {chance.choice('+-')} {expr('interval', 0)})",
            lambda: f"({expr('timestamp', depth - 1)})::time",
            lambda: f"({expr('interval', depth - 1)})::time",
        ]
        return chance.choice(options)()

    def timestamp(self, depth: int) -> str:
        """
        Make a timestamp.
        """
        chance, expr = self.chance, self.expr
        fields = "millennium century decade year quarter month week day hour minute second milliseconds microseconds"
        options: list[Callable[[], str]] = [
            lambda: f"({expr('timestamp', depth - 1)} {chance.choice('+-')} {expr('interval', depth - 1)})",
            lambda: f"({expr('date', depth - 1)} {chance.choice('+-')} {expr('interval', depth - 1)})",
            lambda: f"({expr('date', depth - 1)} + {expr('time', depth - 1)})",
            lambda: f"date_trunc('{chance.choice(fields.split())}', {expr('timestamp', depth - 1)})",
            lambda: f"({expr('date', depth - 1)})::timestamp",
            lambda: f"({expr('timestamptz', depth - 1)} AT TIME ZONE 'UTC')",
        ]
        return chance.choice(options)()

    def timestamptz(self, depth: int) -> str:
        """
        Make a timestamptz.
        """
        chance, expr = self.chance, self.expr
        options: list[Callable[[], str]] = [
            lambda: f"({expr('timestamptz', depth - 1)} {chance.choice('+-')} {expr('interval', depth - 1)})",
            lambda: f"({expr('timestamp', depth - 1)} AT TIME ZONE 'utc')",
        ]
        return chance.choice(options)()

    def interval(self, depth: int) -> str:
        """
        Make an interval.
        """
        chance, expr = self.chance, self.expr
        fields = "millennium century decade year quarter month day hour minute second milliseconds microseconds"
        options: list[Callable[[], str]] = [
            lambda: f"({expr('interval', depth - 1)} {chance.choice('+-')} {expr('interval', depth - 1)})",
            lambda: f"(- {expr('interval', depth - 1)})",
            lambda: f"({expr('interval', depth - 1)} * {expr('float8', 0)})",
            lambda: f"({expr('float8', 0)} * {expr('interval', depth - 1)})",
            lambda: f"({expr('timestamp', depth - 1)} - {expr('timestamp', 0)})",
            lambda: f"({expr('timestamptz', depth - 1)} - {expr('timestamptz', 0)})",
            lambda: f"({expr('time', depth - 1)} - {expr('time', 0)})",
            lambda: f"{chance.choice(('justify_days', 'justify_hours', 'justify_interval'))}({expr('interval', depth - 1)})",
            lambda: f"date_trunc('{chance.choice(fields.split())}', {expr('interval', depth - 1)})",
            lambda: f"({expr('time', depth - 1)})::interval",
        ]  # fmt: skip
        return chance.choice(options)()

    def jsonb(self, depth: int) -> str:
        """
        Make a jsonb.
        """
        chance, expr = self.chance, self.expr
        options: list[Callable[[], str]] = [
            lambda: f"({expr('jsonb', depth - 1)} -> {chance.choice(('0', '1', '-1', '7'))})",
            lambda: f"({expr('jsonb', depth - 1)} -> {chance.choice((quote_literal('a'), quote_literal('b'), quote_literal('')))})",
            lambda: f"({expr('jsonb', depth - 1)} #> {chance.choice((quote_literal('{a,b}'), quote_literal('{a,b,0}'), quote_literal('{1,-1}'), quote_literal('{}')))})",
            lambda: f"({expr('text', 0)})::jsonb",
        ]  # fmt: skip
        return chance.choice(options)()

    def array(self, type_: str, depth: int) -> str:
        """
        Make an array.
        """
        chance, expr = self.chance, self.expr
        item = type_[:-2]
        below = depth - 1
        options: list[Callable[[], str]] = [
            lambda: f"({expr(type_, below)} || {expr(type_, below)})",
            lambda: f"array_cat({expr(type_, below)}, {expr(type_, below)})",
            lambda: f"array_append({expr(type_, below)}, {expr(item, below)})",
            lambda: f"array_prepend({expr(item, below)}, {expr(type_, below)})",
            lambda: f"ARRAY[{expr(item, below)}, {expr(item, below)}]",
            lambda: f"ARRAY[{expr(item, 0)}, {self.literal(item)}]::{type_}",
            lambda: f"({expr(type_, below)})[{chance.choice(('1:2', '0:1', ':2', '2:', '5:1', ':'))}]",
            lambda: f"({expr(type_, below)})[1:1][{chance.choice(('1:2', '2', '-1:'))}]",
        ]
        if type_ == "numeric[]":
            options.append(lambda: f"({expr('int4[]', below)})::numeric[]")
        return chance.choice(options)()
