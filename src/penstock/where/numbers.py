"""
Integers, floats and numerics as Postgres computes them: ranges, rounding, NaN, infinities and the scale of numerics.

A float4 is a Python float that fits one; a numeric is a `Decimal` whose exponent is Postgres's display scale. NaN equals
NaN and is greater than everything, in both. Pure.
"""

from __future__ import annotations

import decimal
import math
import re
import struct
from decimal import Decimal
from typing import Final

from penstock.where.failures import EvaluationError

NUMERIC_WHOLE_DIGITS_MAX: Final = 131_072
NUMERIC_SCALE_MAX: Final = 16_383
_RESULT_SCALE_MAX: Final = 2000
_DISPLAY_SCALE_MAX: Final = 1000

# Wide enough for the exact sum or product of any two numerics; signals are looked at by their results.
_EXACT: Final = decimal.Context(
    prec=2 * (NUMERIC_WHOLE_DIGITS_MAX + NUMERIC_SCALE_MAX) + 8,
    rounding=decimal.ROUND_HALF_UP,
    Emin=decimal.MIN_EMIN,
    Emax=decimal.MAX_EMAX,
    traps=[],
)
ZERO: Final = Decimal(0)
NAN: Final = Decimal("NaN")
_INTEGER: Final = re.compile(r"[ \t\n\r\f\v]*([+-]?[0-9]+)[ \t\n\r\f\v]*", re.ASCII)
_DECIMAL: Final = re.compile(r"[ \t\n\r\f\v]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[ \t\n\r\f\v]*")
_NAMED: Final = re.compile(r"[ \t\n\r\f\v]*(?:(nan)|([+-]?)(inf|infinity))[ \t\n\r\f\v]*", re.IGNORECASE | re.ASCII)
_INTEGER_DIGITS_MAX: Final = 4000


# --- integers --------------------------------------------------------------------------------------------------------


def parse_integer(text: str) -> int:
    """
    Read a decimal integer with an optional sign.
    """
    match = _INTEGER.fullmatch(text)
    if match is None or len(text) > _INTEGER_DIGITS_MAX:
        raise EvaluationError("not an integer")
    return int(match[1])


def int2(value: int) -> int:
    """
    Give it back if it fits 16 bits.
    """
    if -32_768 <= value <= 32_767:
        return value
    raise EvaluationError("smallint out of range")


def int4(value: int) -> int:
    """
    Give it back if it fits 32 bits.
    """
    if -2_147_483_648 <= value <= 2_147_483_647:
        return value
    raise EvaluationError("integer out of range")


def int8(value: int) -> int:
    """
    Give it back if it fits 64 bits.
    """
    if -9_223_372_036_854_775_808 <= value <= 9_223_372_036_854_775_807:
        return value
    raise EvaluationError("bigint out of range")


def integer_quotient(left: int, right: int) -> int:
    """
    Divide towards zero.
    """
    if right == 0:
        raise EvaluationError("division by zero")
    whole = abs(left) // abs(right)
    return whole if (left < 0) == (right < 0) else -whole


def integer_remainder(left: int, right: int) -> int:
    """
    Give the remainder with the sign of the dividend.
    """
    if right == 0:
        raise EvaluationError("division by zero")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


# --- floats ----------------------------------------------------------------------------------------------------------


def float_rank(value: float) -> tuple[bool, float]:
    """
    Give what floats are ordered by.
    """
    return (True, 0.0) if value != value else (False, value)  # noqa: PLR0124 - that is what NaN is


def float_eq(left: float, right: float) -> bool:
    """
    Compare; NaN equals NaN.
    """
    return left == right or (left != left and right != right)  # noqa: PLR0124 - that is what NaN is


def float_lt(left: float, right: float) -> bool:
    """
    Compare; NaN is greater than everything else.
    """
    return left < right or (right != right and left == left)  # noqa: PLR0124 - that is what NaN is


def to_single(value: float) -> float:
    """
    Round to the nearest float4; what does not fit is an error.
    """
    try:
        single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise EvaluationError("real out of range") from None
    if single == 0.0 and value != 0.0:
        raise EvaluationError("real out of range")
    return single


def _odd_neighbour(value: float, exact: Decimal) -> float:
    """
    Of the two floats around a decimal, give the one whose last bit is 1: rounding it again cannot go wrong twice.
    """
    if math.isinf(value) or Decimal(value) == exact:
        return value
    if struct.unpack("<Q", struct.pack("<d", value))[0] & 1:
        return value
    return math.nextafter(value, math.inf if Decimal(value) < exact else -math.inf)


def decimal_to_double(value: Decimal) -> float:
    """
    Give the nearest float8; what does not fit is an error.
    """
    if not value.is_finite():
        return float(value)
    double = float(value)
    if math.isinf(double) or (double == 0.0 and value):
        raise EvaluationError("double precision out of range")
    return double


def decimal_to_single(value: Decimal) -> float:
    """
    Give the nearest float4, rounding once.
    """
    if not value.is_finite():
        return float(value)
    return to_single(_odd_neighbour(decimal_to_double(value), value))


def integer_to_single(value: int) -> float:
    """
    Give the float4 nearest to an integer, rounding once.
    """
    return decimal_to_single(Decimal(value))


def _decimal_text(text: str) -> Decimal | float:
    match = _DECIMAL.fullmatch(text)
    if match:
        try:
            return Decimal(match[1])
        except decimal.InvalidOperation:
            raise EvaluationError("number out of range") from None
    named = _NAMED.fullmatch(text)
    if named is None:
        raise EvaluationError("not a number")
    if named[1]:
        return math.nan
    return -math.inf if named[2] == "-" else math.inf


def parse_double(text: str) -> float:
    """
    Read a float8.
    """
    value = _decimal_text(text)
    return decimal_to_double(value) if isinstance(value, Decimal) else value


def parse_single(text: str) -> float:
    """
    Read a float4.
    """
    value = _decimal_text(text)
    return decimal_to_single(value) if isinstance(value, Decimal) else value


def column_single(data: bytes) -> float:
    """
    Read a float4 that Postgres wrote.
    """
    value = float(data)
    if value != value or value in {math.inf, -math.inf}:  # noqa: PLR0124 - that is what NaN is
        return value
    if struct.unpack("<Q", struct.pack("<d", value))[0] & 0x1FFF_FFFF == 0x1000_0000 or abs(value) < 1.2e-38:
        return decimal_to_single(Decimal(data.decode()))
    return to_single(value)


def _format_shortest(digits: str, exponent: int, *, precision: int, is_negative: bool) -> str:
    """
    Lay out significant digits as Postgres does: plain for moderate exponents, else with `e`.
    """
    sign = "-" if is_negative else ""
    if exponent < -4 or exponent >= precision:
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if len(digits) <= exponent + 1:
        return sign + digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"


def format_double(value: float) -> str:
    """
    Write the shortest text that reads back as the same float8.
    """
    if value != value:  # noqa: PLR0124 - that is what NaN is
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    return _format_shortest(text, exponent + len(text) - 1, precision=15, is_negative=bool(sign))


def format_single(value: float) -> str:
    """
    Write the shortest text that reads back as the same float4.
    """
    if value != value or math.isinf(value) or value == 0:  # noqa: PLR0124 - that is what NaN is
        return format_double(value)
    for precision in range(1, 10):
        short = Decimal(f"{value:.{precision - 1}e}")
        try:
            same = decimal_to_single(short) == value
        except EvaluationError:
            same = False
        if same:
            sign, digits, exponent = short.normalize().as_tuple()
            assert isinstance(exponent, int)
            text = "".join(map(str, digits))
            return _format_shortest(text, exponent + len(text) - 1, precision=6, is_negative=bool(sign))
    raise EvaluationError("not a real")


def check_double(result: float, *operands: float) -> float:
    """
    Give a result back unless it left the range that its finite operands were in.
    """
    if math.isinf(result) and not any(math.isinf(operand) for operand in operands):
        raise EvaluationError("value out of range: overflow")
    return result


def double_plus(left: float, right: float) -> float:
    """
    Add.
    """
    return check_double(left + right, left, right)


def double_minus(left: float, right: float) -> float:
    """
    Subtract.
    """
    return check_double(left - right, left, right)


def double_times(left: float, right: float) -> float:
    """
    Multiply.
    """
    result = check_double(left * right, left, right)
    if result == 0.0 and left != 0.0 and right != 0.0:
        raise EvaluationError("value out of range: underflow")
    return result


def double_over(left: float, right: float) -> float:
    """
    Divide.
    """
    if right == 0.0:
        if left != left:  # noqa: PLR0124 - that is what NaN is
            return left
        raise EvaluationError("division by zero")
    result = check_double(left / right, left)
    if result == 0.0 and left != 0.0 and not math.isinf(right):
        raise EvaluationError("value out of range: underflow")
    return result


def _single(result: float, *operands: float) -> float:
    if math.isinf(result) or result != result:  # noqa: PLR0124 - that is what NaN is
        return check_double(result, *operands)
    return to_single(result)


def single_plus(left: float, right: float) -> float:
    """
    Add float4s; rounding the exact double once more is harmless.
    """
    return _single(left + right, left, right)


def single_minus(left: float, right: float) -> float:
    """
    Subtract float4s.
    """
    return _single(left - right, left, right)


def single_times(left: float, right: float) -> float:
    """
    Multiply float4s.
    """
    return _single(left * right, left, right)


def single_over(left: float, right: float) -> float:
    """
    Divide float4s.
    """
    return _single(double_over(left, right), left, right)


def square_root(value: float) -> float:
    """
    Take the square root, which is rounded correctly everywhere.
    """
    if value < 0:
        raise EvaluationError("cannot take square root of a negative number")
    return math.sqrt(value)


def round_double(value: float) -> float:
    """
    Round to an integer, halves to even.
    """
    return value if value != value or math.isinf(value) else math.copysign(float(round(value)), value)  # noqa: PLR0124


def floor_double(value: float) -> float:
    """
    Round down.
    """
    return value if value != value or math.isinf(value) else math.copysign(float(math.floor(value)), value)  # noqa: PLR0124


def ceil_double(value: float) -> float:
    """
    Round up.
    """
    return value if value != value or math.isinf(value) else math.copysign(float(math.ceil(value)), value)  # noqa: PLR0124


def trunc_double(value: float) -> float:
    """
    Round towards zero.
    """
    return value if value != value or math.isinf(value) else math.copysign(float(math.trunc(value)), value)  # noqa: PLR0124


def sign_double(value: float) -> float:
    """
    Give -1, 0, 1, or NaN for NaN as Postgres has it.
    """
    return 1.0 if value > 0 else (-1.0 if value < 0 else 0.0)


def double_to_integer(value: float) -> int:
    """
    Round to an integer, halves to even.
    """
    if value != value or math.isinf(value):  # noqa: PLR0124 - that is what NaN is
        raise EvaluationError("integer out of range")
    return round(value)


def _general_to_decimal(value: float, precision: int) -> Decimal:
    if value != value or math.isinf(value):  # noqa: PLR0124 - that is what NaN is
        return Decimal(value)
    return tidy(Decimal(f"{value:.{precision}g}"))


def double_to_decimal(value: float) -> Decimal:
    """
    Give a numeric of 15 significant digits.
    """
    return _general_to_decimal(value, 15)


def single_to_decimal(value: float) -> Decimal:
    """
    Give a numeric of 6 significant digits.
    """
    return _general_to_decimal(value, 6)


# --- numerics --------------------------------------------------------------------------------------------------------


def tidy(value: Decimal) -> Decimal:
    """
    Bring a decimal into the form Postgres keeps: no exponent above 0, no negative zero, within its range.
    """
    if not value.is_finite():
        return NAN if value.is_nan() else value
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if not value:
        return ZERO if exponent >= 0 else Decimal(0).scaleb(exponent)
    if value.adjusted() >= NUMERIC_WHOLE_DIGITS_MAX or -exponent > NUMERIC_SCALE_MAX:
        raise EvaluationError("value overflows numeric format")
    return value.quantize(Decimal(1), context=_EXACT) if exponent > 0 else value


def parse_numeric(text: str) -> Decimal:
    """
    Read a numeric.
    """
    value = _decimal_text(text)
    if isinstance(value, Decimal):
        adjusted = value.adjusted()
        if value and not -NUMERIC_SCALE_MAX <= adjusted < NUMERIC_WHOLE_DIGITS_MAX:
            raise EvaluationError("value overflows numeric format")
        if not value and adjusted < -NUMERIC_SCALE_MAX:
            raise EvaluationError("value overflows numeric format")
        return tidy(value)
    return Decimal(value)


def column_numeric(data: bytes) -> Decimal:
    """
    Read a numeric that Postgres wrote.
    """
    return Decimal(data.decode())


def format_numeric(value: Decimal) -> str:
    """
    Write a numeric with all digits of its scale.
    """
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:f}"


def numeric_eq(left: Decimal, right: Decimal) -> bool:
    """
    Compare; NaN equals NaN.
    """
    return left == right or (left.is_nan() and right.is_nan())


def numeric_lt(left: Decimal, right: Decimal) -> bool:
    """
    Compare; NaN is greater than everything else.
    """
    if left.is_nan():
        return False
    return right.is_nan() or left < right


def numeric_rank(value: Decimal) -> tuple[bool, Decimal]:
    """
    Give what numerics are ordered by.
    """
    return (True, ZERO) if value.is_nan() else (False, value)


def numeric_plus(left: Decimal, right: Decimal) -> Decimal:
    """
    Add exactly.
    """
    return tidy(_EXACT.add(left, right))


def numeric_minus(left: Decimal, right: Decimal) -> Decimal:
    """
    Subtract exactly.
    """
    return tidy(_EXACT.subtract(left, right))


def numeric_times(left: Decimal, right: Decimal) -> Decimal:
    """
    Multiply exactly; digits beyond the largest scale are rounded away.
    """
    product = _EXACT.multiply(left, right)
    if product.is_finite() and product.as_tuple().exponent < -NUMERIC_SCALE_MAX:  # type: ignore[operator]  # finite
        product = product.quantize(Decimal(1).scaleb(-NUMERIC_SCALE_MAX), context=_EXACT)
    return tidy(product)


def _first_digit(value: Decimal) -> tuple[int, int]:
    """
    Give the weight and the value of the first digit to the base of 10000.
    """
    if not value:
        return 0, 0
    adjusted = value.adjusted()
    weight = adjusted // 4
    digits = "".join(map(str, value.as_tuple().digits[: adjusted % 4 + 1])).ljust(adjusted % 4 + 1, "0")
    return weight, int(digits)


def _scale(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return max(-exponent, 0)


def numeric_over(left: Decimal, right: Decimal) -> Decimal:
    """
    Divide to the scale Postgres chooses: 16 significant digits or more.
    """
    if left.is_nan() or right.is_nan():
        return NAN
    if not right:
        raise EvaluationError("division by zero")
    if left.is_infinite():
        if right.is_infinite():
            return NAN
        return left if right > 0 else left.copy_negate()
    if right.is_infinite():
        return ZERO
    weight1, first1 = _first_digit(left)
    weight2, first2 = _first_digit(right)
    weight = weight1 - weight2 - (first1 <= first2)
    scale = min(max(16 - weight * 4, _scale(left), _scale(right), 0), _DISPLAY_SCALE_MAX)
    numerator, denominator = _same_power(left, right, scale)
    whole, rest = divmod(abs(numerator), abs(denominator))
    if 2 * rest >= abs(denominator):
        whole += 1
    if (numerator < 0) != (denominator < 0):
        whole = -whole
    return tidy(_EXACT.scaleb(_EXACT.create_decimal(whole), -scale))


def _same_power(left: Decimal, right: Decimal, scale: int) -> tuple[int, int]:
    """
    Write `left * 10**scale / right` as a quotient of integers.
    """
    power = max(_scale(left), _scale(right))
    up = int(_EXACT.scaleb(left, power))
    down = int(_EXACT.scaleb(right, power))
    return up * 10**scale, down


def numeric_remainder(left: Decimal, right: Decimal) -> Decimal:
    """
    Give the remainder with the sign of the dividend.
    """
    if left.is_nan() or right.is_nan():
        return NAN
    if not right:
        raise EvaluationError("division by zero")
    if left.is_infinite():
        return NAN
    if right.is_infinite():
        return left
    return tidy(_EXACT.remainder(left, right))


def numeric_div(left: Decimal, right: Decimal) -> Decimal:
    """
    Divide and drop the fraction.
    """
    if left.is_nan() or right.is_nan():
        return NAN
    if not right:
        raise EvaluationError("division by zero")
    if left.is_infinite():
        return NAN if right.is_infinite() else (left if right > 0 else left.copy_negate())
    if right.is_infinite():
        return ZERO
    return tidy(_EXACT.divide_int(left, right))


def round_numeric(value: Decimal, digits: int = 0, rounding: str = decimal.ROUND_HALF_UP) -> Decimal:
    """
    Round to digits after the point, or before it when negative; halves away from zero.
    """
    if not value.is_finite():
        return value
    digits = max(-_RESULT_SCALE_MAX, min(_RESULT_SCALE_MAX, digits))
    rounded = value.quantize(Decimal(1).scaleb(-digits), rounding=rounding, context=_EXACT)
    return tidy(rounded)


def floor_numeric(value: Decimal) -> Decimal:
    """
    Round down.
    """
    return round_numeric(value, 0, decimal.ROUND_FLOOR)


def ceil_numeric(value: Decimal) -> Decimal:
    """
    Round up.
    """
    return round_numeric(value, 0, decimal.ROUND_CEILING)


def trunc_numeric(value: Decimal, digits: int = 0) -> Decimal:
    """
    Round towards zero.
    """
    return round_numeric(value, digits, decimal.ROUND_DOWN)


def sign_numeric(value: Decimal) -> Decimal:
    """
    Give -1, 0, 1 or NaN.
    """
    if value.is_nan():
        return value
    return Decimal((value > 0) - (value < 0))


def numeric_to_integer(value: Decimal) -> int:
    """
    Round to an integer, halves away from zero.
    """
    if not value.is_finite() or value.adjusted() > 20:
        raise EvaluationError("integer out of range")
    return int(value.quantize(Decimal(1), context=_EXACT))


def limit_numeric(value: Decimal, precision: int, scale: int) -> Decimal:
    """
    Apply `numeric(precision, scale)`.
    """
    if value.is_nan():
        return value
    if value.is_infinite():
        raise EvaluationError("numeric field overflow")
    rounded = round_numeric(value, scale)
    if rounded and rounded.adjusted() >= precision - scale:
        raise EvaluationError("numeric field overflow")
    return rounded
