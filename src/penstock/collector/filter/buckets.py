"""
Groups of shapes that a row has been led to, and what is still to be asked of it for each of them.

Form: mutable values; `conditions` owns what leads a row here, and binds the functions that ask.

A group in a bucket is *sure* when a row that is led there is included without a further question. The others have one
(`where.family`): those of one family are asked together, by a loop over their constants or by a binary search among
them. Whether a row is included is for a question to say as exactly as for the whole condition, so it is not asked again.

A condition whose answer changes though the row does not (membership in a subquery) will be led to by a probe like any
other, with keys that come and go; its groups are never sure of it.

Invariant: what was added in whatever order, removing it leaves nothing behind. Adding and removing take a time that
does not depend on how many there are, but for the moving of pointers in a sorted list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from penstock.replication.messages import Row
from penstock.shapes.condition import Condition
from penstock.where.family import Ask, AskTogether, Family, Read, bind_together

Groups: TypeAlias = dict["Group", None]
Search: TypeAlias = Callable[[Row, "SortedMembers", Groups], None]


class Question:
    """
    What a family asks of rows whose columns have certain types.

    Attributes:
        family: whose members are asked together.
        types: type oid and modifier of each of its columns.
        uses_count: how many groups have it.
    """

    __slots__ = ("_asks", "_searches", "family", "types", "uses_count")

    def __init__(self, family: Family, types: tuple[tuple[int, int], ...]) -> None:
        self.family: Final = family
        self.types: Final = types
        self.uses_count = 0
        # By the places of the columns: there are as many as orders of columns among the partitions of a table.
        self._asks: dict[tuple[int, ...], Ask] = {}
        self._searches: dict[tuple[int, ...], Search] = {}

    def ask(self, places: tuple[int, ...]) -> Ask:
        """
        Give the loop over members.
        """
        ask = self._asks.get(places)
        if ask is None:
            ask = self._asks[places] = self.family.bind(places)
        return ask

    def search(self, places: tuple[int, ...]) -> Search:
        """
        Give the binary search among members that are sorted.
        """
        search = self._searches.get(places)
        if search is None:
            assert self.family.order is not None
            search = self._searches[places] = _make_search(self.family.bind_order(places), self.family.order.sign)
        return search


class Group:
    """
    Shapes with the same condition.

    Attributes:
        condition: theirs.
        question: what is asked of a row that was led here; None when nothing.
        row: the constants of the condition, and this.
        threshold: what it is sorted by, if the question is of a family that is.
        is_proved: whether a row that is found is included for certain; else only the whole condition can say.
        is_everywhere: whether every row leads here.
        places: where else it is registered: probe, key, probe, key, and so on.
    """

    __slots__ = (
        "_incarnations",
        "_sequence",
        "condition",
        "is_everywhere",
        "is_proved",
        "places",
        "question",
        "row",
        "threshold",
    )

    def __init__(self, condition: Condition) -> None:
        self.condition: Final = condition
        self.question: Question | None = None
        self.row: tuple[Any, ...] = ()
        self.threshold: Any = None
        self.is_proved = False
        self.is_everywhere = False
        self.places: tuple[Any, ...] = ()
        # Nearly all have one shape only, and a dict is large.
        self._incarnations: int | dict[int, None] | None = None
        self._sequence: tuple[int, ...] | None = None

    def add(self, incarnation: int) -> None:
        """
        Take a shape in.
        """
        mine = self._incarnations
        self._sequence = None
        if mine is None:
            self._incarnations = incarnation
        elif isinstance(mine, int):
            self._incarnations = {mine: None, incarnation: None}
        else:
            mine[incarnation] = None

    def remove(self, incarnation: int) -> bool:
        """
        Let a shape go; tells whether it was the last one.
        """
        mine = self._incarnations
        self._sequence = None
        if isinstance(mine, dict):
            del mine[incarnation]
            return not mine
        assert mine == incarnation, (mine, incarnation)
        self._incarnations = None
        return True

    @property
    def sequence(self) -> tuple[int, ...]:
        """
        Its shapes, in the order they were added.
        """
        mine = self._incarnations
        if isinstance(mine, int):
            return (mine,)
        if self._sequence is None:
            self._sequence = tuple(mine or ())
        return self._sequence


class ListedMembers:
    """
    Members of a family that are asked one after the other.
    """

    __slots__ = ("_at", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        """What the question is asked with; always the same list."""
        self._at: dict[Group, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._at)

    def add(self, group: Group) -> None:
        """
        Take a group in.
        """
        self._at[group] = len(self.rows)
        self.rows.append(group.row)

    def remove(self, group: Group) -> None:
        """
        Let a group go; the last one takes its place.
        """
        at = self._at.pop(group)
        last = self.rows.pop()
        if at < len(self.rows):
            self.rows[at] = last
            self._at[last[-1]] = at


class SortedMembers:
    """
    Members of a family, sorted by their thresholds.
    """

    __slots__ = ("groups", "thresholds")

    def __init__(self) -> None:
        self.thresholds: list[Any] = []
        self.groups: list[Group] = []

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def add(self, group: Group) -> None:
        """
        Take a group in.
        """
        at = bisect_right(self.thresholds, group.threshold)
        self.thresholds.insert(at, group.threshold)
        self.groups.insert(at, group)

    def remove(self, group: Group) -> None:
        """
        Let a group go.
        """
        at = bisect_left(self.thresholds, group.threshold)
        # Different texts may mean the same threshold: 1.0 and 1.00.
        while self.groups[at] is not group:
            at += 1
        del self.thresholds[at], self.groups[at]


Members: TypeAlias = ListedMembers | SortedMembers


def _make_search(read: Read, sign: str) -> Search:
    """
    Make the binary search for thresholds to which a row's value stands in a relation.
    """
    bisect = bisect_left if sign in {">", "<="} else bisect_right

    def below(row: Row, members: SortedMembers, found: Groups) -> None:
        value = read(row)
        if value is not None:
            at = bisect(members.thresholds, value)
            if at:
                found.update(dict.fromkeys(members.groups[:at]))

    def above(row: Row, members: SortedMembers, found: Groups) -> None:
        value = read(row)
        if value is not None:
            at = bisect(members.thresholds, value)
            if at < len(members.groups):
                found.update(dict.fromkeys(members.groups[at:]))

    return below if sign in {">", ">="} else above


class Bucket:
    """
    Groups that a row is led to together.

    Attributes:
        sure: those of which nothing is asked.
        asked: the others, by question.
    """

    __slots__ = ("asked", "sure")

    def __init__(self, groups: Sequence[Group] = ()) -> None:
        """
        Hold these.
        """
        self.sure: Groups = {}
        self.asked: dict[Question, Members] = {}
        for group in groups:
            self.add(group)

    def __len__(self) -> int:
        return len(self.sure) + sum(map(len, self.asked.values()))

    def __iter__(self) -> Iterator[Group]:
        yield from self.sure
        for members in self.asked.values():
            yield from members

    def add(self, group: Group) -> None:
        """
        Take a group in.
        """
        question = group.question
        if question is None:
            self.sure[group] = None
            return
        members = self.asked.get(question)
        if members is None:
            members = SortedMembers() if question.family.order is not None else ListedMembers()
            self.asked[question] = members
        members.add(group)

    def remove(self, group: Group) -> None:
        """
        Let a group go.
        """
        question = group.question
        if question is None:
            del self.sure[group]
            return
        members = self.asked[question]
        members.remove(group)
        if not len(members):
            del self.asked[question]


BATCH_COUNT_MAX: Final = 16
"""Questions that are written into one function: it takes about a third of a millisecond each to compile."""


class Batch:
    """
    Questions to all rows, each with one member, that are asked by one function.

    Attributes:
        questions: they.
    """

    __slots__ = ("_asks", "questions")

    def __init__(self) -> None:
        self.questions: dict[Question, None] = {}
        self._asks: dict[tuple[tuple[int, ...], ...], AskTogether] = {}

    def add(self, question: Question) -> None:
        """
        Take a question in.
        """
        self.questions[question] = None
        self._asks.clear()

    def remove(self, question: Question) -> None:
        """
        Let a question go.
        """
        del self.questions[question]
        self._asks.clear()

    def ask(self, places: tuple[tuple[int, ...], ...]) -> AskTogether:
        """
        Give the function for rows that have the columns of each question at these places.
        """
        ask = self._asks.get(places)
        if ask is None:
            families = [question.family for question in self.questions]
            ask = self._asks[places] = bind_together(list(zip(families, places, strict=True)))
        return ask


class Everywhere(Bucket):
    """
    The groups that every row is led to.

    Attributes:
        batches: those questions that are asked together.
    """

    __slots__ = ("_batch_of", "_roomy", "batches")

    def __init__(self) -> None:
        """
        Hold none.
        """
        super().__init__()
        self.batches: dict[Batch, None] = {}
        self._batch_of: dict[Question, Batch] = {}
        self._roomy: dict[Batch, None] = {}

    def add(self, group: Group) -> None:
        """
        Take a group in.
        """
        super().add(group)
        self._arrange(group.question)

    def remove(self, group: Group) -> None:
        """
        Let a group go.
        """
        super().remove(group)
        self._arrange(group.question)

    def is_batched(self, question: Question) -> bool:
        """
        Tell whether a question is asked with others.
        """
        return question in self._batch_of

    def _arrange(self, question: Question | None) -> None:
        """
        Let a question be in a batch as long as it has one member.
        """
        assert question is not None, "what every row is led to is asked something"
        wants = len(self.asked.get(question, ())) == 1 and question.family.parts is not None
        batch = self._batch_of.get(question)
        if wants and batch is None:
            batch = next(iter(self._roomy), None)
            if batch is None:
                batch = Batch()
                self.batches[batch] = self._roomy[batch] = None
            batch.add(question)
            self._batch_of[question] = batch
            if len(batch.questions) == BATCH_COUNT_MAX:
                del self._roomy[batch]
        elif not wants and batch is not None:
            batch.remove(question)
            del self._batch_of[question]
            self._roomy[batch] = None
            if not batch.questions:
                del self.batches[batch], self._roomy[batch]


Held: TypeAlias = dict[Hashable, Group | Bucket]
"""What keys lead to: mostly one group, which needs no bucket."""


def add_to(held: Held, key: Hashable, group: Group) -> None:
    """
    Let a key lead to a group that it does not lead to yet.
    """
    here = held.get(key)
    if here is None:
        held[key] = group
    elif isinstance(here, Bucket):
        here.add(group)
    else:
        held[key] = Bucket((here, group))


def remove_from(held: Held, key: Hashable, group: Group) -> None:
    """
    Let a key lead to a group no more.
    """
    here = held[key]
    if isinstance(here, Bucket):
        here.remove(group)
        if len(here):
            return
    else:
        assert here is group, "a key leads to what was added"
    del held[key]


def count_at(held: Held, key: Hashable) -> int:
    """
    Count what a key leads to.
    """
    here = held.get(key)
    return 0 if here is None else len(here) if isinstance(here, Bucket) else 1


def all_of(held: Held) -> Groups:
    """
    List what all keys lead to.
    """
    found: Groups = {}
    for here in held.values():
        if isinstance(here, Bucket):
            found.update(dict.fromkeys(here))
        else:
            found[here] = None
    return found
