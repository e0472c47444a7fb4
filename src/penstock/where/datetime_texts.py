"""
Dates, times and intervals in writing: read from literals, written as Postgres does under the settings of our sessions.

Read is ISO alone, and of intervals the verbose form too; Postgres reads more, some of it depending on the session, and
that is refused. What the numbers mean is said in `datetimes`. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from penstock.where.datetimes import (
    DATE_END,
    DATE_INFINITY,
    DATE_MIN,
    DATE_MINUS_INFINITY,
    DAY_US,
    EPOCH_DAYS,
    HOUR_US,
    INFINITY,
    INTERVAL_INFINITY,
    INTERVAL_MINUS_INFINITY,
    MINUS_INFINITY,
    MINUTE_US,
    SECOND_US,
    Interval,
    check_timestamp,
    civil_from_days,
    days_from_civil,
    make_interval,
    month_days,
)
from penstock.where.failures import EvaluationError

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
        if not DATE_MIN <= days < DATE_END:
            raise EvaluationError("date out of range")
        return days
    special = {"infinity": DATE_INFINITY, "-infinity": DATE_MINUS_INFINITY, "epoch": EPOCH_DAYS}
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


_SPECIAL: Final = {"infinity": INFINITY, "-infinity": MINUS_INFINITY, "epoch": EPOCH_DAYS * DAY_US}


def parse_timestamp(text: str) -> int:
    """
    Read an ISO timestamp, `epoch` or an infinity.
    """
    match = _TIMESTAMP_TEXT.fullmatch(text)
    if match:
        year, month, day, hour, minute, second, fraction, before_christ = match.groups()
        us = _days(year, month, day, before_christ) * DAY_US + _clock(hour, minute, second, fraction)
        return check_timestamp(us)
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
        return check_timestamp(us)
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
