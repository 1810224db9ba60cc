"""Turns a result into an envelope and the buffers that travel beside it."""

from __future__ import annotations

import datetime
import sys
from functools import partial
from typing import Any

from msgpack import ExtType, Packer, packb

from ..support.errors import CallError, Refusal, a_type, type_name
from ..support.limits import MAX_BUFFERS, MAX_VALUES
from .arrays import as_array, is_array, scalar, wire_dtype
from .buffers import Array, Bytes
from .validation import FIRST, LAST, PLAIN, SIZED, Suspect, apart, count_values, survey, with_plain_keys

# An `ExtType` whose parts need no checks.
_extension = partial(tuple.__new__, ExtType)
_MOMENTS = frozenset({datetime.date, datetime.time, datetime.datetime})
_BYTES = frozenset({bytes, bytearray, memoryview})
_BYTES_ALONE: bytes = packb(ExtType(4, bytes(4)))
# So many envelopes are remembered.
_ENVELOPES = 256


class Encoder:
    """Encodes one value at a time; belongs to one lane."""

    def __init__(self, inline_limit: int) -> None:
        self.limit = max(1, inline_limit)
        self.buffers: list[Bytes | Array] = []
        # Of results that are one array beside it: by dtype and shape, the envelope, and the dtype it travels as.
        self._envelopes: dict[tuple[Any, tuple[int, ...]], tuple[bytes, Any]] = {}
        self._reset()

    def _reset(self) -> None:
        # A packer cannot be used again inside its own hook: one for each level of nested extensions.
        self._level = 0
        self._packers = [self._packer()]
        self._pack = self._packers[0].pack
        self.buffers = []

    def _packer(self) -> Packer:
        return Packer(default=self._default, strict_types=True)

    def encode(self, value: Any, root: str = "result") -> bytes:
        """The envelope. `take_buffers` has what travels beside it."""
        kind = type(value)
        if self.buffers:
            # Of a value whose conversion ended by what is no `Exception`.
            self._reset()
        try:
            if kind in PLAIN or (kind is str and len(value) < self.limit):
                packed: bytes = self._pack(value)
                return packed
            alone = self._alone(value, kind)
            if alone:
                return alone
            try:
                large = survey(value, self.limit)
            except Suspect:
                # Keys that are an `int` or a `str` of another type.
                value = with_plain_keys(value)
                large = survey(value, self.limit)
            packed = self._pack(self._split(value) if large else value)
        except CallError:
            self._reset()
            raise
        except Exception as error:
            self._reset()
            raise self._explain(value, root, error) from None
        if len(packed) > MAX_VALUES and count_values(value) > MAX_VALUES:
            self._reset()
            raise CallError("python_error", "too_many_values", f"{root} has more than {MAX_VALUES} values", path=root)
        if self.buffers and is_array(kind):
            if len(self._envelopes) == _ENVELOPES:
                self._envelopes.clear()
            self._envelopes[value.dtype, value.shape] = packed, wire_dtype(value)[1]
        return packed

    def _alone(self, value: Any, kind: type) -> bytes | None:
        """The envelope of a result that is one large buffer: of bytes, or of a kind of array that went before."""
        if kind in _BYTES and (kind is not memoryview or value.c_contiguous):
            run = Bytes(value)
            if run.nbytes >= self.limit:
                self.buffers.append(run)
                return _BYTES_ALONE
        elif is_array(kind):
            known = self._envelopes.get((value.dtype, value.shape))
            if known:
                self.buffers.append(Array(value, known[1]))
                return known[0]
        return None

    def take_buffers(self) -> list[Bytes | Array]:
        buffers = self.buffers
        if buffers:
            self.buffers = []
        return buffers

    def _explain(self, value: Any, root: str, error: Exception) -> CallError:
        from .locate import explain

        found = explain(value, root, self._convert, "python_error")
        self._reset()
        if found is not None:
            return found
        if isinstance(error, Suspect):
            error = Refusal("unsupported_type", "the value changed while it was read")
        reason = error.reason if isinstance(error, Refusal) else "unsupported_type"
        return CallError("python_error", reason, f"{root}: {type(error).__name__}: {error}"[:2000], path=root)

    def _beside(self, code: int, buffer: Bytes | Array) -> ExtType:
        index = len(self.buffers)
        if index >= MAX_BUFFERS:
            raise CallError("python_error", "too_many_buffers", f"a value has more than {MAX_BUFFERS} large buffers")
        self.buffers.append(buffer)
        return ExtType(code, index.to_bytes(4, "little"))

    def _split(self, value: Any) -> Any:
        """The value with what is large replaced by references to buffers."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind in SIZED:
            if not apart(value, self.limit):
                return value
            if kind is str:
                return self._beside(5, Bytes(value.encode("utf-8")))
            run = value if kind is not memoryview or value.c_contiguous else bytes(value)
            return self._beside(4, Bytes(run)) if len(run) >= self.limit else run
        if isinstance(value, dict):
            return {key: self._split(item) for key, item in value.items()}
        if kind is list:
            return [self._split(item) for item in value]
        if kind is tuple:
            return tuple([self._split(item) for item in value])
        if kind is set or kind is frozenset:
            return ExtType(3, self._inner([self._split(item) for item in value]))
        return value

    def _inner(self, parts: Any) -> bytes:
        self._level += 1
        if self._level == len(self._packers):
            self._packers.append(self._packer())
        packed: bytes = self._packers[self._level].pack(parts)
        self._level -= 1
        return packed

    def _default(self, value: Any) -> Any:
        """What msgpack does not know by itself."""
        kind = type(value)
        if kind is tuple:
            return _extension((2, self._inner(list(value))))
        if kind is set or kind is frozenset:
            return _extension((3, self._inner(list(value))))
        return self._convert(value)

    def _convert(self, value: Any) -> Any:
        kind = type(value)
        if kind is int:
            magnitude = abs(value)
            sign = b"\1" if value < 0 else b"\0"
            return ExtType(1, sign + magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "little"))
        if isinstance(value, dict):
            return dict(value)
        if kind in _MOMENTS or ("decimal" in sys.modules and kind is sys.modules["decimal"].Decimal):
            from .datetimes import parts_of

            code, parts = parts_of(value)
            return ExtType(code, self._inner(parts))
        plain = scalar(value)
        if plain is not None:
            return plain
        if isinstance(value, (str, int, float)):
            return self._value_of(value)
        array = as_array(value)
        if array is not None:
            return self._tensor(array)
        if isinstance(value, (bytes, bytearray)):
            return self._beside(4, Bytes(value)) if len(value) >= self.limit else bytes(value)
        raise _unsupported(value)

    def _value_of(self, value: Any) -> Any:
        """The plain value of what is one, as members of an `IntEnum` are. What its own conversion says is passed by."""
        if isinstance(value, str):
            text = str.__str__(value)
            return text if len(text) < self.limit else self._beside(5, Bytes(text.encode("utf-8")))
        if isinstance(value, float):
            return float.__float__(value)
        number = int.__int__(value)
        return number if FIRST <= number <= LAST else self._convert(number)

    def _tensor(self, array: Any) -> ExtType:
        name, dtype = wire_dtype(array)
        buffer = Array(array, dtype)
        data = self._beside(4, buffer) if buffer.nbytes >= self.limit else buffer.view()
        return ExtType(6, self._inner([name, list(array.shape), data]))


def _unsupported(value: Any) -> Refusal:
    from .suggestions import hint_for

    kind = type(value)
    hint = hint_for(value)
    message = f"{a_type(kind)} cannot cross" + (f": {hint}" if hint else "")
    return Refusal("unsupported_type", message, type_name(kind))
