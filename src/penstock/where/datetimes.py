"""
Dates, times and intervals as Postgres computes them, over all of its range: 4714 BC to the year 294276, and infinity.

A date is the number of days since 2000-01-01, a timestamp the microseconds since then (of UTC for a timestamptz), a time
the microseconds since midnight, an interval `(months, days, microseconds)`. Infinities are the same extreme integers
that Postgres uses, so that comparing numbers compares values.

Owns these values, the calendar and arithmetic; their texts are in `datetime_texts`, their fields in `datetime_fields`. Pure.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from penstock.where.failures import EvaluationError

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
MINUTE_US: Final = 60_000_000
SECOND_US: Final = 1_000_000
DATE_INFINITY: Final = 2**31 - 1
DATE_MINUS_INFINITY: Final = -(2**31)
INFINITY: Final = 2**63 - 1
MINUS_INFINITY: Final = -(2**63)
DATE_MIN: Final = -2_451_545  # 4714-11-24 BC
DATE_END: Final = 2_145_031_949  # after 5874897-12-31
_TIMESTAMP_MIN: Final = -211_813_488_000_000_000
_TIMESTAMP_END: Final = 9_223_371_331_200_000_000
_INT4_MAX: Final = 2**31 - 1
_INT8_MAX: Final = 2**63 - 1
EPOCH_DAYS: Final = -10_957  # 1970-01-01


class Interval(NamedTuple):
    """
    A span of time; equality of values is that of `span`, not of the parts.
    """

    months: int
    days: int
    us: int


INTERVAL_INFINITY: Final = Interval(_INT4_MAX, _INT4_MAX, _INT8_MAX)
INTERVAL_MINUS_INFINITY: Final = Interval(-(2**31), -(2**31), -(2**63))


def span(value: Interval) -> int:
    """
    Give the number that intervals are compared by: a month is 30 days, a day 24 hours.
    """
    return value[2] + (value[1] + value[0] * 30) * DAY_US


def is_finite_interval(value: Interval) -> bool:
    """
    Tell whether it is neither infinity.
    """
    return value not in {INTERVAL_INFINITY, INTERVAL_MINUS_INFINITY}


def make_interval(months: int, days: int, us: int) -> Interval:
    """
    Make an interval whose parts fit.
    """
    fits = -_INT4_MAX - 1 <= months <= _INT4_MAX and -_INT4_MAX - 1 <= days <= _INT4_MAX
    if not fits or not -_INT8_MAX - 1 <= us <= _INT8_MAX:
        raise EvaluationError("interval out of range")
    return Interval(months, days, us)


def check_timestamp(value: int) -> int:
    """
    Refuse what no timestamp reaches; gives the value back.
    """
    if not _TIMESTAMP_MIN <= value < _TIMESTAMP_END:
        raise EvaluationError("timestamp out of range")
    return value


# --- the calendar ----------------------------------------------------------------------------------------------------


def days_from_civil(year: int, month: int, day: int) -> int:
    """
    Count days since 2000-01-01 in the Gregorian calendar, prolonged; the year 0 is 1 BC.
    """
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 730_425


def civil_from_days(days: int) -> tuple[int, int, int]:
    """
    Give year, month and day; the opposite of `days_from_civil`.
    """
    days += 730_425
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    day = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + (3 if shifted < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, day


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def month_days(year: int, month: int) -> int:
    """
    Tell the length of a month in days.
    """
    if month == 2:
        return 29 if _is_leap(year) else 28
    return 30 if month in {4, 6, 9, 11} else 31


# --- arithmetic ------------------------------------------------------------------------------------------------------


def date_to_timestamp(value: int) -> int:
    """
    Give the midnight a date begins with.
    """
    if value == DATE_INFINITY:
        return INFINITY
    if value == DATE_MINUS_INFINITY:
        return MINUS_INFINITY
    return check_timestamp(value * DAY_US)


def date_rank(value: int) -> int:
    """
    Give a date's midnight for comparing with timestamps, also where no timestamp reaches.
    """
    if value == DATE_INFINITY:
        return INFINITY
    if value == DATE_MINUS_INFINITY:
        return MINUS_INFINITY
    return min(value * DAY_US, INFINITY - 1)


def timestamp_to_date(value: int) -> int:
    """
    Drop the time.
    """
    if value == INFINITY:
        return DATE_INFINITY
    if value == MINUS_INFINITY:
        return DATE_MINUS_INFINITY
    return value // DAY_US


def timestamp_to_time(value: int) -> int | None:
    """
    Drop the date; an infinity has no time.
    """
    return None if value in {INFINITY, MINUS_INFINITY} else value % DAY_US


def date_plus(value: int, days: int) -> int:
    """
    Add days to a date.
    """
    if value in {DATE_INFINITY, DATE_MINUS_INFINITY}:
        return value
    result = value + days
    if not DATE_MIN <= result < DATE_END:
        raise EvaluationError("date out of range")
    return result


def date_minus(left: int, right: int) -> int:
    """
    Count the days between two dates.
    """
    if {left, right} & {DATE_INFINITY, DATE_MINUS_INFINITY}:
        raise EvaluationError("cannot subtract infinite dates")
    return left - right


def date_at(date: int, time: int) -> int:
    """
    Put a date and a time together.
    """
    start = date_to_timestamp(date)
    return start if start in {INFINITY, MINUS_INFINITY} else check_timestamp(start + time)


def negate_interval(value: Interval) -> Interval:
    """
    Turn an interval around.
    """
    if value == INTERVAL_INFINITY:
        return INTERVAL_MINUS_INFINITY
    if value == INTERVAL_MINUS_INFINITY:
        return INTERVAL_INFINITY
    return make_interval(-value.months, -value.days, -value.us)


def interval_plus(left: Interval, right: Interval) -> Interval:
    """
    Add part by part.
    """
    if not (is_finite_interval(left) and is_finite_interval(right)):
        if is_finite_interval(left) or left == right:
            return right
        if is_finite_interval(right):
            return left
        raise EvaluationError("interval out of range")
    return make_interval(left.months + right.months, left.days + right.days, left.us + right.us)


def interval_minus(left: Interval, right: Interval) -> Interval:
    """
    Subtract part by part.
    """
    return interval_plus(left, negate_interval(right))


def timestamp_plus(value: int, by: Interval) -> int:
    """
    Add months (ending with the month where it is shorter), then days, then time.
    """
    if not is_finite_interval(by):
        toward = INFINITY if by == INTERVAL_INFINITY else MINUS_INFINITY
        if value in {INFINITY, MINUS_INFINITY} and value != toward:
            raise EvaluationError("timestamp out of range")
        return toward
    if value in {INFINITY, MINUS_INFINITY}:
        return value
    if by.months:
        days, us = divmod(value, DAY_US)
        year, month, day = civil_from_days(days)
        carried, index = divmod(month - 1 + by.months, 12)
        year += carried
        value = days_from_civil(year, index + 1, min(day, month_days(year, index + 1))) * DAY_US + us
        check_timestamp(value)
    if by.days:
        value = check_timestamp(value + by.days * DAY_US)
    return check_timestamp(value + by.us)


def timestamp_minus(value: int, by: Interval) -> int:
    """
    Subtract an interval.
    """
    return timestamp_plus(value, negate_interval(by))


def timestamp_difference(left: int, right: int) -> Interval:
    """
    Give the days and the time between two timestamps.
    """
    infinite = {INFINITY, MINUS_INFINITY}
    if left in infinite or right in infinite:
        if left == right:
            raise EvaluationError("interval out of range")
        is_plus = left == INFINITY or right == MINUS_INFINITY
        return INTERVAL_INFINITY if is_plus else INTERVAL_MINUS_INFINITY
    # Before Postgres 17 what does not fit 64 bits wraps around; since then it is an error, where any answer is good.
    difference = (left - right - MINUS_INFINITY) % 2**64 + MINUS_INFINITY
    return justify_hours(Interval(0, 0, difference))


def time_plus(value: int, by: Interval) -> int:
    """
    Add the time part of an interval, around midnight.
    """
    if not is_finite_interval(by):
        raise EvaluationError("cannot add infinite interval to time")
    return (value + by.us) % DAY_US


def time_minus(value: int, by: Interval) -> int:
    """
    Subtract the time part of an interval, around midnight.
    """
    if not is_finite_interval(by):
        raise EvaluationError("cannot subtract infinite interval from time")
    return (value - by.us) % DAY_US


def interval_to_time(value: Interval) -> int:
    """
    Keep the time of day.
    """
    if not is_finite_interval(value):
        raise EvaluationError("cannot convert infinite interval to time")
    return value.us % DAY_US


def towards_zero(value: int, unit: int) -> tuple[int, int]:
    """
    Split into whole units and the rest, both with the sign of the value.
    """
    whole = abs(value) // unit
    whole = -whole if value < 0 else whole
    return whole, value - whole * unit


def justify_hours(value: Interval) -> Interval:
    """
    Turn 24 hours into a day.
    """
    if not is_finite_interval(value):
        return value
    whole, us = towards_zero(value.us, DAY_US)
    days = value.days + whole
    if days > 0 and us < 0:
        us += DAY_US
        days -= 1
    elif days < 0 and us > 0:
        us -= DAY_US
        days += 1
    return make_interval(value.months, days, us)


def justify_days(value: Interval) -> Interval:
    """
    Turn 30 days into a month.
    """
    if not is_finite_interval(value):
        return value
    whole, days = towards_zero(value.days, 30)
    months = value.months + whole
    if months > 0 and days < 0:
        days += 30
        months -= 1
    elif months < 0 and days > 0:
        days -= 30
        months += 1
    return make_interval(months, days, value.us)


def justify_interval(value: Interval) -> Interval:
    """
    Turn hours into days, days into months, and make the signs agree.
    """
    if not is_finite_interval(value):
        return value
    whole, us = towards_zero(value.us, DAY_US)
    days = value.days + whole
    whole, days = towards_zero(days, 30)
    months = value.months + whole
    if months > 0 and (days < 0 or (days == 0 and us < 0)):
        days += 30
        months -= 1
    elif months < 0 and (days > 0 or (days == 0 and us > 0)):
        days -= 30
        months += 1
    if days > 0 and us < 0:
        us += DAY_US
        days -= 1
    elif days < 0 and us > 0:
        us -= DAY_US
        days += 1
    return make_interval(months, days, us)


def _near_us(seconds: float) -> float:
    return round(seconds * 1_000_000.0) / 1_000_000.0


def interval_times(value: Interval, factor: float) -> Interval:
    """
    Multiply, cascading the fractions of months and days downwards as Postgres does.
    """
    if math.isnan(factor):
        raise EvaluationError("interval out of range")
    if not is_finite_interval(value) or math.isinf(factor):
        # Since Postgres 17; an error before.
        sign = (span(value) > 0) - (span(value) < 0)
        direction = sign * ((factor > 0) - (factor < 0))
        if direction == 0:
            raise EvaluationError("interval out of range")
        return INTERVAL_INFINITY if direction > 0 else INTERVAL_MINUS_INFINITY
    months_float, days_float = value.months * factor, value.days * factor
    if not (-(2.0**31) <= months_float < 2.0**31 and -(2.0**31) <= days_float < 2.0**31):
        raise EvaluationError("interval out of range")
    months, days = int(months_float), int(days_float)
    remainder_days = _near_us((months_float - months) * 30)
    seconds = _near_us((days_float - days + remainder_days - int(remainder_days)) * 86_400)
    if abs(seconds) >= 86_400:
        days += int(seconds / 86_400)
        seconds -= int(seconds / 86_400) * 86_400
    days += int(remainder_days)
    us_float = float(value.us) * factor + seconds * 1_000_000.0
    if not -(2.0**63) <= us_float < 2.0**63:
        raise EvaluationError("interval out of range")
    return make_interval(months, days, round(us_float))
