from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.client.events import KEEP_ALIVE, EventFeeder
from penstock.client.values import RowDecoder, decoder_of

TYPES = [
    "bool", "int8", "oid", "numeric", "float8", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid",
    "bytea", "json", "jsonb", "text", "mood", "box",
]  # fmt: skip


def decode(name: str, text: str, **more: Any) -> Any:
    """
    Decode one value of a type.
    """
    return RowDecoder({"c": {"type": name, **more}}).decode({"c": text})["c"]


def array_text(value: Any) -> str:
    """
    Write an array of texts as Postgres does.
    """
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + ",".join(map(array_text, value)) + "}"
    if value and value.upper() != "NULL" and not set(value) & set('{}",\\ \t\n\r\v\f'):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.sampled_from(TYPES), st.text(), st.booleans())
def test_no_text_makes_a_decoder_fail(name: str, text: str, is_array: bool) -> None:  # noqa: FBT001
    """
    Whatever a server sends as a value, a row comes of it.
    """
    decode(name, text, **({"dims": 1} if is_array else {}))


@given(
    st.recursive(
        st.lists(
            st.none() | st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"])), max_size=4
        ),
        lambda inner: st.lists(inner, min_size=1, max_size=3),
        max_leaves=6,
    )
)
def test_arrays_come_back_as_lists(value: list[Any]) -> None:
    """
    Nested, with NULL, quotes, commas, semicolons and words that look like NULL.
    """
    assert decode("text", array_text(value), dims=1) == value


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
def test_numbers_are_exact(number: Decimal, integer: int, double: float) -> None:
    """
    No digit is lost.
    """
    assert decode("numeric", f"{number:f}") == number
    assert decode("int8", str(integer)) == integer
    assert decode("float8", repr(double)) == double


@given(st.datetimes(), st.integers(-1439, 1439))
def test_times_are_exact(moment: dt.datetime, minutes: int) -> None:
    """
    Dates, times and both, with and without a zone.
    """
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    zone = f"{sign}{hours:02d}" + (f":{rest:02d}" if rest else "")
    text = str(moment)
    zoned = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    assert decode("timestamp", text) == moment
    assert decode("timestamptz", text + zone).isoformat() == zoned.isoformat()
    assert decode("date", text[:10]) == moment.date()
    assert decode("time", text[11:]) == moment.time()
    assert decode("timetz", text[11:] + zone).isoformat() == zoned.timetz().isoformat()


@given(st.integers(-999, 999), st.integers(-99, 99), st.integers(-59, 59), st.integers(-59_999_999, 59_999_999))
def test_intervals_are_exact(days: int, hours: int, minutes: int, micros: int) -> None:
    """
    Each part with a sign of its own, down to the microsecond; with months they stay text.
    """
    whole, rest = divmod(abs(micros), 1_000_000)
    seconds = f"{'-' if micros < 0 else ''}{whole}.{rest:06d}"
    text = f"P{days}DT{hours}H{minutes}M{seconds}S"
    expected = dt.timedelta(days=days, hours=hours, minutes=minutes, microseconds=micros)
    assert decode("interval", text) == expected
    assert decode("interval", "P1Y2M" + text[1:]) == "P1Y2M" + text[1:]


@given(st.binary(), st.uuids(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_bytes_identifiers_and_documents_come_back(data: bytes, name: uuid.UUID, document: Any) -> None:
    """
    As what they are.
    """
    assert decode("bytea", "\\x" + data.hex()) == data
    assert decode("uuid", str(name)) == name
    assert decode("jsonb", json.dumps(document)) == document


@given(
    st.sampled_from(
        [
            ("timestamptz", "infinity"), ("timestamp", "-infinity"), ("date", "0044-03-15 BC"), ("date", "12024-01-01"),
            ("timestamp", "294276-12-31 23:59:59.999999"), ("time", "24:00:00"), ("interval", "P1M"), ("interval", "P"),
            ("interval", "P999999999999D"), ("bytea", "\\x0"), ("bool", "yes"), ("jsonb", "["), ("uuid", "x"),
        ]
    )
)  # fmt: skip
def test_what_python_cannot_represent_stays_text(form: tuple[str, str]) -> None:
    """
    Also within an array, whose other elements are decoded; and an array with bounds of its own as a whole.
    """
    name, text = form
    assert decode(name, text) == text
    assert decode(name, array_text([text, None]), dims=1) == [text, None]
    assert decode(name, f"[0:0]={array_text([text])}", dims=1) == f"[0:0]={array_text([text])}"


def test_decoders_of_ones_own_go_first() -> None:
    """
    By name of type, for columns and for elements; what they refuse stays text.
    """
    own = {"int4": lambda text: f"<{text}>", "mood": {"calm": 1}.__getitem__}
    column = decoder_of({"type": "int4", "dims": 1}, own)
    assert column is not None
    assert column("{1,2}") == ["<1>", "<2>"]
    assert decoder_of({"type": "text"}, own) is None


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")) | st.none()), st.data())
def test_any_split_of_events_gives_the_same_events(payloads: list[bytes | None], data: st.DataObject) -> None:
    """
    Payloads and comments, with either end of line, wherever the bytes are split.
    """
    text = b"".join(
        (b": keep-alive\r\n\r\n" if payload is None else b"data: " + payload + b"\n\n") for payload in payloads
    )
    feeder = EventFeeder()
    events = []
    while text:
        length = data.draw(st.integers(1, len(text)))
        events += feeder.feed(text[:length])
        text = text[length:]
    assert events == [KEEP_ALIVE if payload is None else payload for payload in payloads]
