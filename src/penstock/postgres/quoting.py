"""
Names and texts as they are written in SQL, in replication commands and in messages.

Nothing else in the project doubles a quote for Postgres. Pure.
"""

from __future__ import annotations

from penstock.postgres.relation import TableId


def quote_identifier(name: str) -> str:
    """
    Write a name so that Postgres reads exactly it.
    """
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def quote_table(table: TableId) -> str:
    """
    Write a table's name with its schema.
    """
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"


def quote_name(name: str) -> str:
    """
    Write a name for a message: quoted where it must be.
    """
    plain = name and (name[0].isalpha() or name[0] == "_") and name.islower()
    if plain and name.isascii() and all(letter.isalnum() or letter == "_" for letter in name):
        return name
    return quote_identifier(name)


def quote_literal(text: str) -> str:
    """
    Write a text constant, whatever `standard_conforming_strings` says.
    """
    doubled = text.replace("'", "''")
    if "\\" in doubled:
        escaped = doubled.replace("\\", "\\\\")
        return f"E'{escaped}'"
    return f"'{doubled}'"
