"""
Conditions of shapes: the package's face.

`compile_where` takes a text, its parameters and the table's columns, and gives a `Clause`: its one normalised text, the columns
it reads, the function that evaluates it, and what an index can make of it. The normalised text with the columns and facts it
was made under is enough to make the same clause again; parameters are gone by then.

Whatever the text is, the answer is a clause or `InvalidShapeError`, after work bounded by the length of the text. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.postgres.relation import Column
from penstock.where.check import Checker
from penstock.where.evaluate import emit, emit_truth
from penstock.where.facts import NO_FACTS, DatabaseFacts
from penstock.where.family import Member, family_of
from penstock.where.index_plan import IndexPlan, plan_index
from penstock.where.normalise import normalise
from penstock.where.parse import parse, too_deep
from penstock.where.template import Evaluate, Includes, Template
from penstock.where.tree import Node, columns_of


@dataclass(frozen=True, slots=True)
class Clause:
    """
    A condition that was understood.

    Attributes:
        normalised: its text for Postgres, without parameters; equal for equal conditions.
        columns: names of the columns it reads, sorted.
        tree: the condition itself.
        facts: what it was understood under.
    """

    normalised: str
    columns: tuple[str, ...]
    tree: Node = field(repr=False, compare=False)
    facts: DatabaseFacts = field(repr=False, compare=False)
    _truth: list[Template] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def truth(self) -> Template:
        """
        The function that tells whether a row is included, without constants; equal `source`s share compiled code.

        Written when it is first asked for: where an index answers for the whole clause, nobody asks.

        Raises:
            InvalidShapeError: it is too large, or a part without columns cannot be computed; never for what
                `compile_where` gave, but for texts that were accepted by other code.
        """
        if not self._truth:
            try:
                self._truth.append(emit_truth(self.tree, self.facts.case))
            except RecursionError:
                raise too_deep() from None
        return self._truth[0]

    def compile(self, column_order: Sequence[str]) -> Evaluate:
        """
        Give the function from a row, its values in this order, to true, false or None.

        None is SQL's NULL, and also the answer for a row on which evaluation fails. Nothing is ever raised.

        Raises:
            KeyError: a column that the condition reads is not among them.
        """
        return emit(self.tree, self.facts.case).bind(column_order)

    def compile_filter(self, column_order: Sequence[str]) -> Includes:
        """
        Give the function from a row to whether it is included: faster than `compile`, and the same but for NULL.

        Raises:
            KeyError: a column that the condition reads is not among them.
        """
        return self.truth.bind(column_order)


def compile_where(
    text: str,
    params: Sequence[str],
    columns: Sequence[Column],
    facts: DatabaseFacts = NO_FACTS,
    *,
    is_accepted: bool = False,
) -> Clause:
    """
    Understand a condition.

    Args:
        text: the condition, as after WHERE; at most `parse.TEXT_BYTES_MAX` bytes.
        params: values of `$1`, `$2` and so on.
        columns: all columns of the table.
        facts: what else is known of the database.
        is_accepted: the text is the normalised one of a clause, so that what only refuses need not be done again, nor
            normalising.

    Raises:
        InvalidShapeError: it is refused; the message begins with the place and the reason.
    """
    try:
        expression = parse(text)
        tree = Checker(text, params, columns, facts).condition(expression)
        if is_accepted:
            return Clause(text, columns_of(tree), tree, facts)
        clause = Clause(normalise(tree, facts), columns_of(tree), tree, facts)
        # For what they may refuse.
        emit(tree, facts.case)
        _ = clause.truth
    except RecursionError:
        raise too_deep() from None
    return clause


def question_of(clause: Clause, part: Node | None = None) -> Member:
    """
    Give a clause, or a part of it that `index_plan` named, as one of a family that is asked together.
    """
    return family_of(clause.tree if part is None else part, clause.facts.case)


def index_plan(clause: Clause) -> IndexPlan | None:
    """
    Tell what of a clause an index can answer; None when nothing.
    """
    return plan_index(clause.tree, clause.facts.case)
