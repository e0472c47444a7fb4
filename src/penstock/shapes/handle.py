"""
Names of shape logs.

A handle names one log of one shape for ever: clients remember handles that ended and take one that returns for stale
cache content. It reads `<hash of the definition>-<microseconds since 1970>`; the maker passes a time that is greater
than that of every handle made before. Pure.
"""

from __future__ import annotations

from penstock.shapes.definition import ShapeDefinition


def make_handle(definition: ShapeDefinition, unix_us: int) -> str:
    """
    Name a new log of this definition.
    """
    assert unix_us > 0
    return f"{definition.digest()}-{unix_us}"
