"""The native part of a worker (`native/snakepit_worker`), built by `mix snakepit.setup`."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

class Decoder:
    def __new__(
        cls,
        make: Callable[[int, Any], Any],
        layout: Callable[[Any, Any], Any],
        error: Callable[[Exception | tuple[str, str], str | None], Exception],
        step: Callable[[Any], str],
    ) -> Decoder: ...
    def request(
        self, envelope: Any, buffers: Sequence[memoryview] | None = None
    ) -> tuple[str, dict[str, Any], Any, bool]: ...
    def remembered(self) -> int: ...

class Encoder:
    def __new__(
        cls,
        limit: int,
        convert: Callable[[Any], Any],
        bytes: Callable[[Any], Any],
        suspect: type[Exception],
        max_buffers: int,
    ) -> Encoder: ...
    def encode(self, value: Any) -> tuple[bytes, list[Any] | None]: ...

class QuickCalls:
    def __new__(
        cls,
        *,
        decoder: Decoder,
        encoder: Encoder,
        tools: dict[str, Any],
        cancellation: Any,
        caller: ContextVar[Any],
        gone: Any,
        table: memoryview,
        max_envelope: int,
    ) -> QuickCalls: ...
    def call(self, calls: Any, memory: memoryview, start: int, length: int) -> Any: ...

def serve(lane: Any, quick: QuickCalls, descriptor: int, memory: memoryview, start: int, spin_us: int) -> None: ...
