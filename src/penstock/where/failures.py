"""
What goes wrong while a condition is evaluated. Never leaves the package: a row that cannot be evaluated is not included.
"""

from __future__ import annotations


class EvaluationError(ArithmeticError):
    """
    Postgres would answer with an error here: out of range, division by zero, a text that is no value of its type.
    """
