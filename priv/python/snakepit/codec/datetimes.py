"""Dates, times and decimals, as exact on the wire as they are in Python."""

from __future__ import annotations

import datetime
import sys
from functools import cache
from typing import Any

from ..support.errors import Refusal, type_name
from ..support.limits import MAX_DIGITS
from .arrays import install

_OFFSET = r"UTC([+-])(\d\d):(\d\d)(?::(\d\d))?"
_DECIMAL = r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|NaN|-?Infinity"
_INSTANT = ": return x.astimezone(datetime.UTC), which keeps the instant alone"
_ZERO = datetime.timedelta(0)
_SECOND = datetime.timedelta(seconds=1)


@cache
def _pattern(text: str) -> Any:
    import re

    return re.compile(text, re.ASCII)


def from_date(value: datetime.date) -> list[Any]:
    return [value.year, value.month, value.day]


def from_time(value: datetime.time) -> list[Any]:
    if value.tzinfo is not None:
        words = "a time with a time zone has no counterpart: return (x.replace(tzinfo=None), str(x.tzinfo))"
        raise Refusal("unsupported_type", words, "datetime.time")
    return [value.hour, value.minute, value.second, value.microsecond]


def from_naive(value: datetime.datetime) -> list[Any]:
    return [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]


def from_aware(value: datetime.datetime) -> list[Any]:
    zone = value.tzinfo
    offset = value.utcoffset()
    if zone is None or offset is None:
        raise Refusal(
            "unsupported_type",
            "a datetime whose time zone has no offset: return x.replace(tzinfo=None), which leaves the zone out",
            "datetime.datetime",
        )
    dst = value.dst() or _ZERO
    if offset % _SECOND or dst % _SECOND:
        raise Refusal(
            "unsupported_type", f"a utc offset of {offset} is finer than a second{_INSTANT}", "datetime.datetime"
        )
    name = _zone_name(zone, offset)
    seconds, dst_seconds = offset // _SECOND, dst // _SECOND
    return [*from_naive(value), name, value.tzname() or name, seconds - dst_seconds, dst_seconds]


def _zone_name(zone: datetime.tzinfo, offset: datetime.timedelta) -> str:
    if zone is datetime.UTC:
        return "Etc/UTC"
    if type(zone) is datetime.timezone:
        sign = "-" if offset < _ZERO else "+"
        seconds = abs(offset) // _SECOND
        text = f"UTC{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}"
        return f"{text}:{seconds % 60:02}" if seconds % 60 else text
    zoneinfo = sys.modules.get("zoneinfo")
    key = getattr(zone, "key", None)
    if zoneinfo is not None and isinstance(zone, zoneinfo.ZoneInfo) and isinstance(key, str):
        return key
    raise Refusal(
        "unsupported_type",
        f"a time zone of type {type_name(type(zone))} has no portable name: return "
        "x.astimezone(zoneinfo.ZoneInfo(name)), or x.astimezone(datetime.UTC), which keeps the instant alone",
        "datetime.datetime",
    )


def _integers(parts: Any, count: int, what: str) -> list[int]:
    if type(parts) is not list or len(parts) != count or not {int}.issuperset(map(type, parts)):
        raise Refusal("bad_value", f"a {what} must be {count} integers")
    return parts


def _made(kind: Any, parts: list[Any], what: str) -> Any:
    try:
        return kind(*parts)
    except (ValueError, OverflowError) as error:
        raise Refusal("bad_value", f"Python has no such {what}: {error}") from None


def to_date(parts: Any) -> datetime.date:
    made: datetime.date = _made(datetime.date, _integers(parts, 3, "date"), "date")
    return made


def to_time(parts: Any) -> datetime.time:
    made: datetime.time = _made(datetime.time, _integers(parts, 4, "time"), "time")
    return made


def to_naive(parts: Any) -> datetime.datetime:
    made: datetime.datetime = _made(datetime.datetime, _integers(parts, 7, "datetime"), "datetime")
    return made


def to_aware(parts: Any) -> datetime.datetime:
    if type(parts) is not list or len(parts) != 11:
        raise Refusal("bad_value", "a datetime with a zone has eleven parts")
    wall = to_naive(parts[:7])
    zone, abbreviation = parts[7:9]
    standard, dst = _integers(parts[9:], 2, "datetime's offsets")
    if type(zone) is not str or type(abbreviation) is not str:
        raise Refusal("bad_value", "a datetime's zone and abbreviation must be strings")
    offset = _made(datetime.timedelta, [0, standard + dst], "utc offset")
    fixed = _pattern(_OFFSET).fullmatch(zone)
    if zone == "Etc/UTC":
        tzinfo: datetime.tzinfo = datetime.UTC
    elif fixed:
        sign, hours, minutes, seconds = fixed.groups()
        written = int(hours) * 3600 + int(minutes) * 60 + int(seconds or 0)
        if offset != datetime.timedelta(seconds=-written if sign == "-" else written):
            raise Refusal("bad_value", f"zone {zone} does not have the utc offset {offset}")
        tzinfo = _made(datetime.timezone, [offset] if abbreviation == zone else [offset, abbreviation], "utc offset")
    else:
        tzinfo = _zone(zone)
    for fold in (0, 1):
        candidate = wall.replace(tzinfo=tzinfo, fold=fold)
        if candidate.utcoffset() == offset:
            return candidate
    raise Refusal("bad_value", f"zone {zone} does not have the utc offset {offset} at {wall}")


# The zone file of UTC: one type of time, of offset 0, named "UTC".
_UTC_FILE = b"TZif" + bytes(16) + b"".join(n.to_bytes(4, "big") for n in (0, 0, 0, 0, 1, 4)) + bytes(6) + b"UTC\0"


@cache
def _utc() -> datetime.tzinfo:
    """Zone "UTC" of a machine that has no zones; it keeps its name, which `datetime.UTC` would not."""
    import io
    import zoneinfo

    class UTC(zoneinfo.ZoneInfo):
        def __reduce__(self) -> Any:
            # One that was read from a file can be neither pickled nor copied.
            return _utc, ()

    return UTC.from_file(io.BytesIO(_UTC_FILE), key="UTC")


def zone_of(key: str) -> datetime.tzinfo:
    """A zone by its key; `ValueError` where this machine knows none of that name."""
    try:
        return _zone(key)
    except Refusal as refusal:
        raise ValueError(refusal.message) from None


def _zone(key: str) -> datetime.tzinfo:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(key)
    except Exception:
        # The exception's type depends on the key: not found, not a key, a directory, not a zone file.
        if key == "UTC":
            return _utc()
        raise Refusal("bad_value", f"this machine's Python knows no time zone {key!r}{_missing()}") from None


def _missing() -> str:
    """Where zones would come from."""
    from importlib.util import find_spec

    if find_spec("tzdata") is not None:
        return ": its package tzdata has no such zone"
    source = "zones come with the operating system, or with package tzdata"
    return f": {source}, which {sys.executable} does not have{install('tzdata')}"


def from_decimal(value: Any) -> str:
    text = str(value)
    if not _pattern(_DECIMAL).fullmatch(text):
        words = f"the decimal {text[:40]} has no counterpart: return str(x), which makes text of it"
        raise Refusal("unsupported_type", words, "decimal.Decimal")
    if len(text) > MAX_DIGITS and len(value.as_tuple().digits) > MAX_DIGITS:
        words = f"a decimal of more than {MAX_DIGITS} digits cannot cross: return str(x)"
        raise Refusal("unsupported_type", words, "decimal.Decimal")
    return text


def to_decimal(text: Any) -> Any:
    import decimal

    if type(text) is not str or not _pattern(_DECIMAL).fullmatch(text):
        raise Refusal("bad_value", "a decimal must be its text")
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise Refusal("bad_value", "a decimal's exponent is out of Python's range") from None


# The functions that make an extension's value from its parts, by the extension's code.
makers = {7: to_date, 8: to_time, 9: to_naive, 10: to_aware, 11: to_decimal}


def parts_of(value: Any) -> tuple[int, Any]:
    """The extension and the parts of a date, a time, a datetime or a decimal."""
    kind = type(value)
    if kind is datetime.date:
        return 7, from_date(value)
    if kind is datetime.time:
        return 8, from_time(value)
    if kind is datetime.datetime:
        return (9, from_naive(value)) if value.tzinfo is None else (10, from_aware(value))
    return 11, from_decimal(value)
