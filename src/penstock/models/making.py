"""
`shape()`: which library a model or a query is of. Pure.

The libraries are extras, and are imported only when somebody brings an object of theirs.
"""

from __future__ import annotations

from typing import Any

from penstock.errors import InvalidShapeError
from penstock.models.definition import ModelShape


def shape(of: Any) -> ModelShape:
    """
    Make a shape of a model or of a query.

        shape(Item).where(Item.status == "open").columns(Item.id, Item.title)
        shape(select(Item).where(Item.status == "open"))
        shape(Item.objects.filter(status="open").only("id", "title"))

    It goes wherever a client takes a table, and its `definition` has what authorisation adds to a request: `where`,
    `params` and `columns`. Without columns, a shape has all those of the table, also those that the model does not map.

    Args:
        of: a mapped class, a table or a `select()` of SQLAlchemy; a class of SQLModel; a model or a queryset of Django.

    Raises:
        InvalidShapeError: a shape cannot be of it; the message names the construct, and what to do instead.
    """
    libraries = {module.partition(".")[0] for kind in _kinds(of) for module in [kind.__module__]}
    if "django" in libraries:
        from penstock.models.django import source_of  # noqa: PLC0415  an extra

        return ModelShape.of(source_of(of))
    if "sqlalchemy" in libraries or hasattr(of, "__mapper__") or hasattr(of, "__clause_element__"):
        from penstock.models.sqlalchemy import source_of as source_of_select  # noqa: PLC0415  an extra

        return ModelShape.of(source_of_select(of))
    raise InvalidShapeError(
        "table",
        f"a shape is of a mapped class or a select() of SQLAlchemy or SQLModel, or of a model or a queryset of Django, "
        f"and not of {_describe(of)}; where there is no model, name the table: client.shape('items')",
    )


def _kinds(of: Any) -> tuple[type, ...]:
    return (*(of.__mro__ if isinstance(of, type) else ()), *type(of).__mro__)


def _describe(of: Any) -> str:
    return f"the class {of.__name__}" if isinstance(of, type) else f"a {type(of).__name__}"
