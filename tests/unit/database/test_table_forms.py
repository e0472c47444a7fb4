from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.database.forms import TableForm, compare_forms, parse_form

FORM = TableForm({1: " 7", 2: " 7"}, {10: "low", 11: "high"}, {20: [(1, 23), (2, 25)]})


def test_reads_what_the_catalog_answers() -> None:
    """
    An ordinary table of ordinary types has nothing to tell.
    """
    assert parse_form("[null,null,null,null,null]") == TableForm({}, {}, {})
    assert parse_form(
        '[[[1," 7"],[2," 7"]],[[10,"low"],[11,"high"]],[[20,1,23],[20,2,25]],[["id",1,"700"]],[[5,6]]]'
    ) == replace(FORM, columns={"id": (1, "700")}, files={5: 6})


@pytest.mark.parametrize(
    "now",
    [
        FORM,
        TableForm(FORM.partitions, {**FORM.labels, 12: "higher"}, FORM.attributes),
        TableForm(FORM.partitions, FORM.labels, {**FORM.attributes, 21: [(1, 23)]}),
        TableForm(FORM.partitions, {}, {}),
    ],
)
def test_what_no_row_knows_of_is_survived(now: TableForm) -> None:
    """
    A label more, and types that come and go with their columns, change no stored row.
    """
    assert compare_forms(FORM, now).reason is None


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (TableForm({1: " 7"}, FORM.labels, FORM.attributes), "a partition was detached or dropped"),
        (TableForm(FORM.partitions, {10: "lower", 11: "high"}, FORM.attributes), "a label of an enum was renamed"),
        (TableForm(FORM.partitions, FORM.labels, {20: [(1, 23)]}), "a composite type was altered"),
    ],
)
def test_what_changes_rows_without_a_word_is_not(now: TableForm, reason: str) -> None:
    """
    Rows that go with their partition, and values whose text becomes another, end the shapes.
    """
    assert compare_forms(FORM, now).reason == reason


def test_partitions_that_come_are_told_apart_from_those_that_went() -> None:
    """
    One that the stream brought rows of and that was never seen in the catalog has gone; one not seen before has come.
    """
    grown = TableForm({**FORM.partitions, 3: " 9"}, FORM.labels, FORM.attributes)
    assert compare_forms(FORM, grown, streamed={3}).gained == {3}
    assert compare_forms(FORM, grown, streamed={3}).reason is None
    short_lived = compare_forms(FORM, FORM, streamed={2, 4})
    assert not short_lived.gained
    assert short_lived.lost == {4}
    assert short_lived.reason is not None


def test_a_partition_that_was_away_in_between_has_gone_and_come() -> None:
    """
    What became of its rows meanwhile, nobody told its former root.
    """
    change = compare_forms(FORM, TableForm({1: " 7", 2: " 9"}, FORM.labels, FORM.attributes))
    assert change.reason is not None
    assert change.gained == change.lost == {2}


def test_columns_that_keep_name_and_type_and_not_their_values_end_shapes() -> None:
    """
    Another column of the same name, and a file written anew with a column defined anew; either of the latter alone is none.
    """
    known = replace(FORM, columns={"id": (1, "700"), "a": (2, "700")}, files={5: 50, 6: 60})
    replaced = replace(known, columns={"id": (1, "700"), "a": (3, "701")})
    assert compare_forms(known, replaced).reason == "a column was replaced by another of its name"
    redefined = replace(known, columns={"id": (1, "700"), "a": (2, "701")})
    vacuumed = replace(known, files={5: 51, 6: 60})
    wider = replace(vacuumed, columns={**known.columns, "b": (3, "701")})
    assert [compare_forms(known, now).reason for now in (redefined, vacuumed, wider)] == [None, None, None]
    rewritten = replace(redefined, files={5: 51, 6: 60})
    change = compare_forms(known, rewritten)
    assert change.reason == "the table was rewritten"
    assert change.columns == frozenset({"a"})
