"""
Shapes from models: `shape(Item).where(Item.status == "open")`, for SQLAlchemy 2, SQLModel and Django.
"""

from __future__ import annotations

from penstock.models.definition import ModelShape, TableShape
from penstock.models.making import shape

__all__ = ["ModelShape", "TableShape", "shape"]
