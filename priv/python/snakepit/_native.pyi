"""The native part of a worker (`native/snakepit_worker`), built by `mix snakepit.setup`."""

from collections.abc import Callable, Sequence
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
