"""Turns the envelope of a request and the buffers beside it into a command and its arguments."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from msgpack import unpackb

from ..support.errors import CallError, Refusal
from ..support.limits import MAX_DEPTH, MAX_VALUES
from .arrays import Layout
from .validation import NOT_BYTES, Suspect, count_values, look_inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    # A session, or that and a correlation id.
    Caller = str | list[str | None] | None

# So many layouts are remembered.
_LAYOUTS = 256


def _is_caller(value: Any) -> bool:
    return type(value) is list and [*map(type, value)] in ([str, str], [type(None), str])


class Fault:
    """Stands for a value that could not be made, while its place is looked for.

    It keeps the words, not the exception: that holds frames, and those hold views of the arguments.
    """

    __slots__ = ("words",)

    def __init__(self, refusal: Refusal) -> None:
        self.words = (refusal.reason, refusal.message, refusal.type)


class Decoder:
    """Decodes one request at a time; belongs to one lane."""

    def __init__(self) -> None:
        self._buffers: Sequence[memoryview] = ()
        self._depth = 0
        # Decodes an envelope without buffers, or a part of the one that `request` is at.
        self.plainly = partial(unpackb, ext_hook=self._value, strict_map_key=False)
        self._searching = partial(unpackb, ext_hook=self._value_or_fault, strict_map_key=False)
        self._unpack = self.plainly
        # By what a tensor is in the envelope, where its bytes are a buffer: the next one of a kind is known by that.
        self._layouts: dict[bytes, tuple[Layout, bytes]] = {}
        # Types with nothing inside; arrays, once there was one.
        self._leaves: frozenset[object] = NOT_BYTES
        # Whether the last request had bytes anywhere in its arguments.
        self.bytes_inside = False

    def request(self, envelope: Any, buffers: Sequence[memoryview] = ()) -> tuple[str, dict[str, Any], Caller]:
        """Command, arguments and caller. Raises `CallError` (validation) for anything it does not like."""
        self._buffers = buffers
        self._depth = 0
        self.bytes_inside = False
        try:
            parts = self._unpack(envelope)
            if type(parts) is not list or len(parts) != 3:
                raise Refusal("bad_envelope", "a request must be [command, args, caller]")
            command, arguments, caller = parts
            if type(command) is not str or type(arguments) is not dict:
                raise Refusal("bad_envelope", "a request needs the name of a command and a map of arguments")
            if caller is not None and type(caller) is not str and not _is_caller(caller):
                raise Refusal("bad_envelope", "a caller must be a session, or that and a correlation id")
            if not self._leaves.issuperset(map(type, arguments.values())):
                self.bytes_inside = look_inside(arguments)
            if len(envelope) > MAX_VALUES and count_values(parts) > MAX_VALUES:
                raise Refusal("too_many_values", f"a request has more than {MAX_VALUES} values")
        except Exception as error:
            # The error's frames hold what was decoded so far, views of shared memory among it.
            error.__traceback__ = None
            found = self._find(envelope) or _general(error)
        else:
            return command, arguments, caller
        finally:
            self._buffers = ()
        raise found

    def _find(self, envelope: Any) -> CallError | None:
        """Decodes once more, leaving a mark where a value cannot be made, and looks for the first."""
        from .locate import explain

        self._unpack = self._searching
        self._depth = 0
        try:
            parts = self._unpack(envelope)
            if type(parts) is not list or len(parts) != 3 or type(parts[1]) is not dict:
                return None
            return explain(parts[1], "args", _refuse_fault)
        except Exception:
            return None
        finally:
            self._unpack = self.plainly

    def _value_or_fault(self, code: int, payload: bytes) -> Any:
        try:
            return self._value(code, payload)
        except Refusal as refusal:
            return Fault(refusal)
        except Exception as error:
            return Fault(Refusal("bad_value", f"extension {code}: {error}"))

    def _value(self, code: int, payload: bytes) -> Any:
        if code == 2:
            return tuple(self._array(payload, "tuple"))
        if code == 6:
            known = self._layouts.get(payload)
            return known[0].over(self._buffer(known[1])) if known else self._tensor(payload)
        if code == 4:
            return self._buffer(payload)
        if code == 5:
            try:
                return str(self._buffer(payload), "utf-8")
            except UnicodeDecodeError:
                raise Refusal("not_utf8", "a str that is not UTF-8") from None
        if code == 3:
            return _set(self._array(payload, "set"))
        if code == 1:
            return _integer(payload)
        from .datetimes import makers

        maker = makers.get(code)
        if maker is None:
            raise Refusal("unsupported_type", f"this worker does not know extension {code}")
        return maker(self._inside(payload))

    def _tensor(self, payload: bytes) -> Any:
        parts = self._array(payload, "tensor")
        if len(parts) != 3:
            raise Refusal("bad_tensor", "a tensor must be [dtype, shape, data]")
        name, shape, data = parts
        if type(data) is Fault:
            raise Refusal(*data.words)
        layout = Layout(name, shape)
        made = layout.over(data)
        self._leaves = NOT_BYTES | {type(made)}
        # As the BEAM writes it: an array of three, with the name of the dtype in it, too.
        if type(data) is memoryview and payload[0] == 0x93 and payload[1] & 0xE0 == 0xA0:
            if len(self._layouts) == _LAYOUTS:
                self._layouts.clear()
            # A reference to a buffer ends with its index.
            self._layouts[payload] = layout, payload[-4:]
        return made

    def _inside(self, payload: bytes) -> Any:
        # Each level of this takes some 40 KiB of the C stack.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refusal("too_deep", f"values are nested deeper than {MAX_DEPTH}")
        value = self._unpack(payload)
        self._depth -= 1
        return value

    def _array(self, payload: bytes, what: str) -> list[Any]:
        parts = self._inside(payload)
        if type(parts) is not list:
            raise Refusal("bad_value", f"a {what} must be an array")
        return parts

    def _buffer(self, payload: bytes) -> memoryview:
        index = int.from_bytes(payload, "little")
        if len(payload) != 4 or index >= len(self._buffers):
            raise Refusal("bad_envelope", f"there is no buffer {index}: {len(self._buffers)} came")
        return self._buffers[index]


def _set(parts: list[Any]) -> set[Any]:
    try:
        made = set(map(_member, parts)) if {memoryview, tuple}.intersection(map(type, parts)) else set(parts)
    except TypeError as error:
        raise Refusal("bad_set", f"Python cannot have this in a set: {error}") from None
    if len(made) != len(parts):
        raise Refusal("bad_set", "elements of this set are equal in Python (1, 1.0 and True are)")
    return made


def _member(value: Any) -> Any:
    """A member of a set, with `bytes` for views: a view has no hash where the memory below it can change."""
    if type(value) is memoryview:
        return bytes(value)
    return tuple(map(_member, value)) if type(value) is tuple else value


def _integer(payload: bytes) -> int:
    magnitude = int.from_bytes(payload[1:], "little")
    if not payload or payload[0] > 1 or (len(payload) > 1 and payload[-1] == 0):
        raise Refusal("bad_value", "an integer's sign or magnitude is malformed")
    value = -magnitude if payload[0] else magnitude
    if -(1 << 63) <= value < 1 << 64:
        raise Refusal("bad_value", "an integer of 64 bits does not travel as an extension")
    return value


def _refuse_fault(value: Any) -> None:
    if type(value) is Fault:
        raise Refusal(*value.words)


def _general(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, Refusal):
        return CallError("validation", error.reason, error.message, path=None)
    if isinstance(error, Suspect):
        return CallError("validation", "too_deep", f"args: values are nested deeper than {MAX_DEPTH}", path="args")
    return CallError(
        "validation", "bad_envelope", f"the request cannot be read: {type(error).__name__}: {error}"[:2000]
    )
