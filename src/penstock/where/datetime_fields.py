"""
Fields of dates, times and intervals: what `extract` takes out of them and where `date_trunc` cuts them.

Which fields a type has depends on the type alone, so it is known before any row (`known_field`, `known_truncation`). What
the numbers mean is said in `datetimes`. Pure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from penstock.where.datetimes import (
    DATE_INFINITY,
    DATE_MINUS_INFINITY,
    DAY_US,
    EPOCH_DAYS,
    HOUR_US,
    INFINITY,
    MINUS_INFINITY,
    MINUTE_US,
    SECOND_US,
    Interval,
    check_timestamp,
    civil_from_days,
    days_from_civil,
    is_finite_interval,
    towards_zero,
)

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
        return Decimal((value - EPOCH_DAYS) * 86_400)
    return Decimal(_extract_date(field, value))


def extract_timestamp(field: str, value: int) -> Decimal | None:
    """
    Take a field of a timestamp.
    """
    if value in {INFINITY, MINUS_INFINITY}:
        return _extract_infinite(field, is_negative=value < 0)
    if field == "epoch":
        return _scaled(value - EPOCH_DAYS * DAY_US, 6)
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
        return check_timestamp(value - value % units[field])
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
    return check_timestamp(days * DAY_US)


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
        return Interval(value.months, value.days, value.us - towards_zero(value.us, units[field])[1])
    if field == "day":
        return Interval(value.months, value.days, 0)
    months = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200, "millennium": 12_000}[field]
    return Interval(value.months - towards_zero(value.months, months)[1], 0, 0)
