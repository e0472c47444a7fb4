"""
Dates, times and intervals as Postgres computes them, over all of its range: 4714 BC to the year 294276, and infinity.

A date is the number of days since 2000-01-01, a timestamp the microseconds since then (of UTC for a timestamptz), a time
the microseconds since midnight, an interval `(months, days, microseconds)`. Infinities are the same extreme integers
that Postgres uses, so that comparing numbers compares values. Pure.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
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
_DATE_MIN: Final = -2_451_545  # 4714-11-24 BC
_DATE_END: Final = 2_145_031_949  # after 5874897-12-31
_TIMESTAMP_MIN: Final = -211_813_488_000_000_000
_TIMESTAMP_END: Final = 9_223_371_331_200_000_000
_INT4_MAX: Final = 2**31 - 1
_INT8_MAX: Final = 2**63 - 1
_EPOCH_DAYS: Final = -10_957  # 1970-01-01


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


# --- text ------------------------------------------------------------------------------------------------------------

_DATE: Final = r"(\d{4,7})-(\d\d)-(\d\d)"
_TIME: Final = r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?"
_DATE_TEXT: Final = re.compile(rf"{_DATE}( BC)?", re.ASCII)
_TIME_TEXT: Final = re.compile(_TIME, re.ASCII)
_CLOCK_TEXT: Final = re.compile(rf"{_TIME} ?([AP]M)", re.ASCII | re.IGNORECASE)
_TIMESTAMP_TEXT: Final = re.compile(rf"{_DATE}[ T]{_TIME}( BC)?", re.ASCII)
_TIMESTAMPTZ_TEXT: Final = re.compile(
    rf"{_DATE}[ T]{_TIME} ?(?:([+-])(\d\d)(?::?(\d\d)(?::(\d\d))?)?|[Zz])( BC)?", re.ASCII
)
_SPACE: Final = " \t\n\r\f\v"


def _days(year: str, month: str, day: str, before_christ: str | None) -> int:
    number, of_year, of_month = int(year), int(month), int(day)
    if number == 0 or not 1 <= of_year <= 12:
        raise EvaluationError("no such date")
    if before_christ:
        number = 1 - number
    if not 1 <= of_month <= month_days(number, of_year):
        raise EvaluationError("no such date")
    return days_from_civil(number, of_year, of_month)


def _clock(hour: str, minute: str, second: str, fraction: str | None) -> int:
    hours, minutes, seconds = int(hour), int(minute), int(second)
    us = int(fraction.ljust(6, "0")) if fraction else 0
    total = hours * HOUR_US + minutes * MINUTE_US + seconds * SECOND_US + us
    if minutes > 59 or seconds > 59 or total > DAY_US:
        raise EvaluationError("no such time")
    return total


def parse_date(text: str) -> int:
    """
    Read an ISO date, `epoch` or an infinity.
    """
    match = _DATE_TEXT.fullmatch(text)
    if match:
        days = _days(*match.groups())
        if not _DATE_MIN <= days < _DATE_END:
            raise EvaluationError("date out of range")
        return days
    special = {"infinity": DATE_INFINITY, "-infinity": DATE_MINUS_INFINITY, "epoch": _EPOCH_DAYS}
    word = text.strip(_SPACE)
    if word.lower() in special:
        return special[word.lower()]
    if word != text:
        return parse_date(word)
    raise EvaluationError("not a date")


def parse_time(text: str) -> int:
    """
    Read an ISO time with seconds, or one with AM or PM.
    """
    match = _TIME_TEXT.fullmatch(text)
    if match:
        return _clock(*match.groups())
    match = _CLOCK_TEXT.fullmatch(text)
    if match:
        hour, minute, second, fraction, half = match.groups()
        if not 1 <= int(hour) <= 12:
            raise EvaluationError("not a time")
        return _clock(str(int(hour) % 12 + (12 if half.upper() == "PM" else 0)), minute, second, fraction)
    word = text.strip(_SPACE)
    if word != text:
        return parse_time(word)
    raise EvaluationError("not a time")


def _check_timestamp(value: int) -> int:
    if not _TIMESTAMP_MIN <= value < _TIMESTAMP_END:
        raise EvaluationError("timestamp out of range")
    return value


_SPECIAL: Final = {"infinity": INFINITY, "-infinity": MINUS_INFINITY, "epoch": _EPOCH_DAYS * DAY_US}


def parse_timestamp(text: str) -> int:
    """
    Read an ISO timestamp, `epoch` or an infinity.
    """
    match = _TIMESTAMP_TEXT.fullmatch(text)
    if match:
        year, month, day, hour, minute, second, fraction, before_christ = match.groups()
        us = _days(year, month, day, before_christ) * DAY_US + _clock(hour, minute, second, fraction)
        return _check_timestamp(us)
    word = text.strip(_SPACE)
    if word.lower() in _SPECIAL:
        return _SPECIAL[word.lower()]
    if word != text:
        return parse_timestamp(word)
    raise EvaluationError("not a timestamp")


def parse_timestamptz(text: str) -> int:
    """
    Read an ISO timestamp with an offset from UTC or `Z`, `epoch` or an infinity.
    """
    match = _TIMESTAMPTZ_TEXT.fullmatch(text)
    if match:
        year, month, day, hour, minute, second, fraction, sign, hours, minutes, seconds, before_christ = match.groups()
        us = _days(year, month, day, before_christ) * DAY_US + _clock(hour, minute, second, fraction)
        if sign:
            if int(hours) > 15 or int(minutes or 0) > 59 or int(seconds or 0) > 59:
                raise EvaluationError("no such offset from UTC")
            offset = int(hours) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
            us -= (offset if sign == "+" else -offset) * SECOND_US
        return _check_timestamp(us)
    word = text.strip(_SPACE)
    if word.lower() in _SPECIAL:
        return _SPECIAL[word.lower()]
    if word != text:
        return parse_timestamptz(word)
    raise EvaluationError("not a timestamp with an offset")


_NUMBER: Final = r"([+-]?\d+(?:\.\d*)?)"
_ISO_INTERVAL: Final = re.compile(
    r"P(?=[-+\dT])(?:([+-]?\d+)Y)?(?:([+-]?\d+)M)?(?:([+-]?\d+)W)?(?:([+-]?\d+)D)?"
    r"(?:T(?=[-+\d])(?:([+-]?\d+)H)?(?:([+-]?\d+)M)?(?:([+-]?)(\d+)(?:\.(\d{1,6}))?S)?)?",
    re.ASCII,
)
_WORD: Final = re.compile(r"([+-]?)(\d+)(?:\.(\d{1,6}))?\s*([a-z]+)", re.ASCII)
_CLOCK: Final = re.compile(r"([+-]?)(\d{1,10}):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?", re.ASCII)
_MONTH_UNITS: Final = {
    "year": 12, "years": 12, "y": 12, "yr": 12, "yrs": 12,
    "mon": 1, "mons": 1, "month": 1, "months": 1,
    "decade": 120, "decades": 120, "century": 1200, "centuries": 1200, "millennium": 12000, "millennia": 12000,
}  # fmt: skip
_DAY_UNITS: Final = {"day": 1, "days": 1, "d": 1, "week": 7, "weeks": 7, "w": 7}
_TIME_UNITS: Final = {
    "hour": HOUR_US, "hours": HOUR_US, "h": HOUR_US, "hr": HOUR_US, "hrs": HOUR_US,
    "minute": MINUTE_US, "minutes": MINUTE_US, "min": MINUTE_US, "mins": MINUTE_US, "m": MINUTE_US,
    "second": SECOND_US, "seconds": SECOND_US, "sec": SECOND_US, "secs": SECOND_US, "s": SECOND_US,
}  # fmt: skip


def make_interval(months: int, days: int, us: int) -> Interval:
    """
    Make an interval whose parts fit.
    """
    fits = -_INT4_MAX - 1 <= months <= _INT4_MAX and -_INT4_MAX - 1 <= days <= _INT4_MAX
    if not fits or not -_INT8_MAX - 1 <= us <= _INT8_MAX:
        raise EvaluationError("interval out of range")
    return Interval(months, days, us)


def _digits_us(sign: str, whole: str, fraction: str | None) -> int:
    us = int(whole) * SECOND_US + (int(fraction.ljust(6, "0")) if fraction else 0)
    return -us if sign == "-" else us


def parse_interval(text: str) -> Interval:
    """
    Read an interval in ISO 8601 form with designators, or as numbers with units and a clock.

    Fractions of anything but seconds are refused: they cascade.
    """
    match = _ISO_INTERVAL.fullmatch(text)
    if match:
        years, months, weeks, days, hours, minutes, sign, whole, fraction = match.groups()
        us = int(hours or 0) * HOUR_US + int(minutes or 0) * MINUTE_US
        if whole is not None:
            us += _digits_us(sign, whole, fraction)
        return make_interval(int(years or 0) * 12 + int(months or 0), int(weeks or 0) * 7 + int(days or 0), us)
    word = text.strip(_SPACE).lower()
    if word == "infinity":
        return INTERVAL_INFINITY
    if word == "-infinity":
        return INTERVAL_MINUS_INFINITY
    return _parse_verbose_interval(word)


def _parse_verbose_interval(word: str) -> Interval:
    months = days = us = 0
    seen: set[str] = set()
    is_ago = word.endswith(" ago")
    rest = word.removesuffix(" ago").removeprefix("@").strip(_SPACE)
    if not rest:
        raise EvaluationError("not an interval")
    while rest:
        if clock := _CLOCK.match(rest):
            if "clock" in seen or int(clock[3]) > 59 or int(clock[4] or 0) > 59:
                raise EvaluationError("not an interval")
            seen.add("clock")
            value = int(clock[2]) * HOUR_US + int(clock[3]) * MINUTE_US + _digits_us("", clock[4] or "0", clock[5])
            us += -value if clock[1] == "-" else value
            rest = rest[clock.end() :].lstrip(_SPACE)
            if rest and (is_ago or not seen.isdisjoint({"after"})):
                raise EvaluationError("not an interval")
            continue
        part = _WORD.match(rest)
        if part is None or part[4] in seen:
            raise EvaluationError("not an interval")
        sign, whole, fraction, unit = part.groups()
        number = -int(whole) if sign == "-" else int(whole)
        seen.add(unit)
        if unit in _TIME_UNITS and (fraction is None or _TIME_UNITS[unit] == SECOND_US):
            us += _digits_us(sign, whole, fraction) * (_TIME_UNITS[unit] // SECOND_US)
        elif fraction is None and unit in _MONTH_UNITS:
            months += number * _MONTH_UNITS[unit]
        elif fraction is None and unit in _DAY_UNITS:
            days += number * _DAY_UNITS[unit]
        else:
            raise EvaluationError("not an interval")
        rest = rest[part.end() :].lstrip(_SPACE)
    if is_ago:
        months, days, us = -months, -days, -us
    return make_interval(months, days, us)


def _format_fraction(us: int) -> str:
    return f".{us:06d}".rstrip("0") if us else ""


def format_date(value: int) -> str:
    """
    Write a date as the session settings make Postgres write it.
    """
    if value == DATE_INFINITY:
        return "infinity"
    if value == DATE_MINUS_INFINITY:
        return "-infinity"
    year, month, day = civil_from_days(value)
    return f"{year:04d}-{month:02d}-{day:02d}" if year > 0 else f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def format_time(value: int) -> str:
    """
    Write a time.
    """
    seconds, us = divmod(value, SECOND_US)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{_format_fraction(us)}"


def _format_timestamp(value: int, zone: str) -> str:
    if value == INFINITY:
        return "infinity"
    if value == MINUS_INFINITY:
        return "-infinity"
    days, us = divmod(value, DAY_US)
    date, bc, _ = format_date(days).partition(" BC")
    return f"{date} {format_time(us)}{zone}{bc}"


def format_timestamp(value: int) -> str:
    """
    Write a timestamp.
    """
    return _format_timestamp(value, "")


def format_timestamptz(value: int) -> str:
    """
    Write a timestamptz in UTC.
    """
    return _format_timestamp(value, "+00")


def format_interval(value: Interval) -> str:
    """
    Write an interval in the ISO 8601 form with designators.
    """
    if value == INTERVAL_INFINITY:
        return "infinity"
    if value == INTERVAL_MINUS_INFINITY:
        return "-infinity"
    if value == (0, 0, 0):
        return "PT0S"
    text = "P"
    years, months = abs(value.months) // 12, abs(value.months) % 12
    minus = "-" if value.months < 0 else ""
    if years:
        text += f"{minus}{years}Y"
    if months:
        text += f"{minus}{months}M"
    if value.days:
        text += f"{value.days}D"
    if value.us:
        minus = "-" if value.us < 0 else ""
        seconds, us = divmod(abs(value.us), SECOND_US)
        text += "T"
        if seconds // 3600:
            text += f"{minus}{seconds // 3600}H"
        if seconds // 60 % 60:
            text += f"{minus}{seconds // 60 % 60}M"
        if seconds % 60 or us:
            text += f"{minus}{seconds % 60}{_format_fraction(us)}S"
    return text


# --- arithmetic ------------------------------------------------------------------------------------------------------


def date_to_timestamp(value: int) -> int:
    """
    Give the midnight a date begins with.
    """
    if value == DATE_INFINITY:
        return INFINITY
    if value == DATE_MINUS_INFINITY:
        return MINUS_INFINITY
    return _check_timestamp(value * DAY_US)


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
    if not _DATE_MIN <= result < _DATE_END:
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
    return start if start in {INFINITY, MINUS_INFINITY} else _check_timestamp(start + time)


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
        _check_timestamp(value)
    if by.days:
        value = _check_timestamp(value + by.days * DAY_US)
    return _check_timestamp(value + by.us)


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


def _towards_zero(value: int, unit: int) -> tuple[int, int]:
    whole = abs(value) // unit
    whole = -whole if value < 0 else whole
    return whole, value - whole * unit


def justify_hours(value: Interval) -> Interval:
    """
    Turn 24 hours into a day.
    """
    if not is_finite_interval(value):
        return value
    whole, us = _towards_zero(value.us, DAY_US)
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
    whole, days = _towards_zero(value.days, 30)
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
    whole, us = _towards_zero(value.us, DAY_US)
    days = value.days + whole
    whole, days = _towards_zero(days, 30)
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


# --- fields ----------------------------------------------------------------------------------------------------------

_INFINITE_FIELDS: Final = frozenset({"year", "century", "decade", "millennium", "julian", "isoyear", "epoch"})
_DATE_FIELDS: Final = frozenset(
    {"century", "day", "decade", "dow", "doy", "epoch", "isodow", "isoyear", "millennium", "month", "quarter", "week"}
) | {"year"}
_TIME_FIELDS: Final = frozenset({"hour", "microseconds", "milliseconds", "minute", "second"})
_PLURALS: Final = {
    "years": "year", "months": "month", "days": "day", "hours": "hour", "minutes": "minute", "seconds": "second",
    "weeks": "week", "quarters": "quarter", "centuries": "century", "decades": "decade", "millennia": "millennium",
    "microsecond": "microseconds", "millisecond": "milliseconds",
}  # fmt: skip
_TRUNCATIONS: Final = (
    "millennium", "century", "decade", "year", "quarter", "month", "week", "day", "hour", "minute", "second",
    "milliseconds", "microseconds",
)  # fmt: skip


def known_field(name: str, type_: str) -> str | None:
    """
    Give a field's own name if `extract` has it for a type.
    """
    field = name.lower()
    field = _PLURALS.get(field, field)
    fields = {
        "date": _DATE_FIELDS,
        "time": _TIME_FIELDS | {"epoch"},
        "timestamp": _DATE_FIELDS | _TIME_FIELDS,
        "interval": (_TIME_FIELDS | {"epoch", "day", "month", "year", "decade", "century", "millennium"}),
    }[type_]
    return field if field in fields else None


def known_truncation(name: str, type_: str) -> str | None:
    """
    Give a field's own name if `date_trunc` has it for a type.
    """
    field = name.lower()
    field = _PLURALS.get(field, field)
    if field not in _TRUNCATIONS or (type_ == "interval" and field == "week"):
        return None
    return field


def _iso_week(days: int) -> tuple[int, int]:
    year = civil_from_days(days - (days + 5) % 7 + 3)[0]  # the year of the week's Thursday
    first = days_from_civil(year, 1, 4)
    monday = first - (first + 5) % 7
    return year, (days - monday) // 7 + 1


def _century(year: int, years: int) -> int:
    """
    Count hundreds or thousands of years; the first began with the year 1, the one before it is -1.
    """
    return (year + years - 1) // years if year > 0 else -((years - 1 - (year - 1)) // years)


def _extract_date(field: str, days: int) -> int:
    year, month, day = civil_from_days(days)
    match field:
        case "year":
            return year if year > 0 else year - 1
        case "month":
            return month
        case "day":
            return day
        case "quarter":
            return (month - 1) // 3 + 1
        case "dow":
            return (days + 6) % 7
        case "isodow":
            return (days + 5) % 7 + 1
        case "doy":
            return days - days_from_civil(year, 1, 1) + 1
        case "week":
            return _iso_week(days)[1]
        case "isoyear":
            iso = _iso_week(days)[0]
            return iso if iso > 0 else iso - 1
        case "decade":
            return year // 10 if year >= 0 else -((8 - (year - 1)) // 10)
        case "century":
            return _century(year, 100)
        case _:
            assert field == "millennium", field
            return _century(year, 1000)


def _scaled(us: int, digits: int) -> Decimal:
    return Decimal(us).scaleb(-digits)


def _extract_time(field: str, us: int) -> Decimal:
    match field:
        case "hour":
            return Decimal(us // HOUR_US)
        case "minute":
            return Decimal(us // MINUTE_US % 60)
        case "second":
            return _scaled(us % MINUTE_US, 6)
        case "milliseconds":
            return _scaled(us % MINUTE_US, 3)
        case _:
            assert field == "microseconds", field
            return Decimal(us % MINUTE_US)


def _extract_infinite(field: str, *, is_negative: bool) -> Decimal | None:
    if field in _INFINITE_FIELDS:
        return Decimal("-Infinity" if is_negative else "Infinity")
    return None


def extract_date(field: str, value: int) -> Decimal | None:
    """
    Take a field of a date; an infinite date has only those that grow for ever.
    """
    if value in {DATE_INFINITY, DATE_MINUS_INFINITY}:
        return _extract_infinite(field, is_negative=value < 0)
    if field == "epoch":
        return Decimal((value - _EPOCH_DAYS) * 86_400)
    return Decimal(_extract_date(field, value))


def extract_timestamp(field: str, value: int) -> Decimal | None:
    """
    Take a field of a timestamp.
    """
    if value in {INFINITY, MINUS_INFINITY}:
        return _extract_infinite(field, is_negative=value < 0)
    if field == "epoch":
        return _scaled(value - _EPOCH_DAYS * DAY_US, 6)
    if field in _TIME_FIELDS:
        return _extract_time(field, value % DAY_US)
    return Decimal(_extract_date(field, value // DAY_US))


def extract_time(field: str, value: int) -> Decimal:
    """
    Take a field of a time.
    """
    if field == "epoch":
        return _scaled(value, 6)
    return _extract_time(field, value)


def extract_interval(field: str, value: Interval) -> Decimal | None:
    """
    Take a field of an interval.
    """
    if not is_finite_interval(value):
        return _extract_infinite(field, is_negative=value.months < 0)
    sign, us = (-1 if value.us < 0 else 1), abs(value.us)
    months = abs(value.months)
    months_sign = -1 if value.months < 0 else 1
    match field:
        case "hour":
            return Decimal(sign * (us // HOUR_US))
        case "minute":
            return Decimal(sign * (us // MINUTE_US % 60))
        case "second":
            return _scaled(sign * (us % MINUTE_US), 6)
        case "milliseconds":
            return _scaled(sign * (us % MINUTE_US), 3)
        case "microseconds":
            return Decimal(sign * (us % MINUTE_US))
        case "day":
            return Decimal(value.days)
        case "month":
            return Decimal(months_sign * (months % 12))
        case "year":
            return Decimal(months_sign * (months // 12))
        case "decade":
            return Decimal(months_sign * (months // 120))
        case "century":
            return Decimal(months_sign * (months // 1200))
        case "millennium":
            return Decimal(months_sign * (months // 12_000))
        case _:
            assert field == "epoch", field
            # A year is 365.25 days here and a month 30.
            days = Decimal(months_sign * (months // 12)) * 1461 / 4 + months_sign * (months % 12) * 30 + value.days
            return (_scaled(value.us, 6) + days * 86_400).quantize(Decimal("0.000001"))


def trunc_timestamp(field: str, value: int) -> int:
    """
    Set everything below a field to its beginning.
    """
    if value in {INFINITY, MINUS_INFINITY}:
        return value
    units = {
        "microseconds": 1,
        "milliseconds": 1000,
        "second": SECOND_US,
        "minute": MINUTE_US,
        "hour": HOUR_US,
        "day": DAY_US,
    }
    if field in units:
        return _check_timestamp(value - value % units[field])
    days = value // DAY_US
    year, month, _ = civil_from_days(days)
    match field:
        case "week":
            days -= (days + 5) % 7
        case "month":
            days = days_from_civil(year, month, 1)
        case "quarter":
            days = days_from_civil(year, (month - 1) // 3 * 3 + 1, 1)
        case "year":
            days = days_from_civil(year, 1, 1)
        case "decade":
            days = days_from_civil(year // 10 * 10 if year > 0 else -((8 - (year - 1)) // 10) * 10, 1, 1)
        case "century":
            days = days_from_civil(_trunc_years(year, 100), 1, 1)
        case _:
            assert field == "millennium", field
            days = days_from_civil(_trunc_years(year, 1000), 1, 1)
    return _check_timestamp(days * DAY_US)


def _trunc_years(year: int, years: int) -> int:
    return (
        (year + years - 1) // years * years - (years - 1)
        if year > 0
        else -((years - 1 - (year - 1)) // years) * years + 1
    )


def trunc_interval(field: str, value: Interval) -> Interval:
    """
    Set everything below a field of an interval to zero.
    """
    if not is_finite_interval(value):
        return value
    units = {
        "microseconds": 1,
        "milliseconds": 1000,
        "second": SECOND_US,
        "minute": MINUTE_US,
        "hour": HOUR_US,
    }
    if field in units:
        return Interval(value.months, value.days, value.us - _towards_zero(value.us, units[field])[1])
    if field == "day":
        return Interval(value.months, value.days, 0)
    months = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200, "millennium": 12_000}[field]
    return Interval(value.months - _towards_zero(value.months, months)[1], 0, 0)
