from __future__ import annotations

import pytest

from penstock.errors import DecodeError
from penstock.wire.identifiers import parse_columns, parse_identifier, parse_relation


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("items", "items"),
        ("Items", "items"),
        ("_x$1", "_x$1"),
        ("ÄPFEL", "Äpfel"),
        ("naïve", "naïve"),
        ("e\u0301", "e\u0301"),
        ('"Items"', "Items"),
        ('"a""b"', 'a"b'),
        ('"a.b,c d"', "a.b,c d"),
        ('""""', '"'),
        ("x" * 63, "x" * 63),
    ],
)
def test_identifier_is_folded_or_unquoted(text: str, name: str) -> None:
    """
    Unquoted names fold ASCII letters only; quoted ones are taken as they are.
    """
    assert parse_identifier(text) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid zero-length delimited identifier"),
        ('""', "Invalid zero-length delimited identifier"),
        ('"a"b"', 'Invalid identifier with unescaped quote: a"b'),
        ('"""', 'Invalid identifier with unescaped quote: "'),
        ("1a", "Invalid unquoted identifier contains special characters: 1a"),
        ("$a", "Invalid unquoted identifier contains special characters: $a"),
        ("a b", "Invalid unquoted identifier contains special characters: a b"),
        ("a-b", "Invalid unquoted identifier contains special characters: a-b"),
        ('"', 'Invalid unquoted identifier contains special characters: "'),
        ('"a', 'Invalid unquoted identifier contains special characters: "a'),
        (" a", "Invalid unquoted identifier contains special characters:  a"),
        ("x" * 64, "Identifier is too long (max length is 63)"),
        ('"' + "y" * 64 + '"', "Identifier is too long (max length is 63)"),
    ],
)
def test_what_is_no_identifier_is_refused_in_the_contracts_words(text: str, message: str) -> None:
    """
    Each kind of malformed identifier has a message that clients know.
    """
    with pytest.raises(DecodeError) as caught:
        parse_identifier(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("items", ("public", "items")),
        ("app.items", ("app", "items")),
        ('"My.App"."It""ems"', ("My.App", 'It"ems')),
        ('App."items"', ("app", "items")),
    ],
)
def test_relation_has_a_schema_or_gets_public(text: str, relation: tuple[str, str]) -> None:
    """
    One part lies in `public`; dots inside quotes do not divide.
    """
    assert parse_relation(text) == relation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b.c", "Invalid relation identifier, too many delimiters: a.b.c"),
        (".x", "Invalid zero-length delimited identifier"),
        ("x.", "Invalid zero-length delimited identifier"),
        ("a.b-c", "Invalid unquoted identifier contains special characters: b-c"),
    ],
)
def test_malformed_relations_are_refused(text: str, message: str) -> None:
    """
    Too many parts, empty parts and malformed parts each say so.
    """
    with pytest.raises(DecodeError) as caught:
        parse_relation(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id", ("id",)),
        ("title,ID", ("title", "id")),
        ('id,"Foo,Bar","q""q"', ("id", "Foo,Bar", 'q"q')),
    ],
)
def test_columns_are_split_outside_quotes(text: str, columns: tuple[str, ...]) -> None:
    """
    Commas inside quotes belong to a name; the order is kept.
    """
    assert parse_columns(text) == columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo,", "Invalid zero-length delimited identifier"),
        ("id, title", "Invalid unquoted identifier contains special characters:  title"),
    ],
)
def test_columns_are_not_trimmed(text: str, message: str) -> None:
    """
    A trailing comma or a space makes the list malformed.
    """
    with pytest.raises(DecodeError) as caught:
        parse_columns(text)
    assert caught.value.message == message
