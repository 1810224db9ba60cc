"""iceoryx2: bytes are copied into a sample in shared memory, published, and copied out on the other side; and back.

An end that waits for a sample sleeps until a notification comes (`iceoryx2`), or asks again and again, which keeps a
core busy (`iceoryx2_spinning`).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .driver import RoundTrip

# Samples begin small and grow, as the payloads do.
_INITIAL = 4096
# One that spins looks so often before it rests between two looks: other peers' turns need the core. No answer takes as
# long.
_RESTS_AFTER = 1_000_000


class _End:
    """One side: publishes to one service, and receives from the other."""

    def __init__(self, sends_to: str, receives_from: str, spins: bool) -> None:
        import iceoryx2 as iox2

        # Standard output is the driver's.
        iox2.set_log_level(iox2.LogLevel.Error)
        self._node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        self._spins = spins
        if not spins:
            # Before anybody sends: a notification that comes earlier is lost.
            self._notifier = self._event(iox2, sends_to).notifier_builder().create()
            self._listener = self._event(iox2, receives_from).listener_builder().create()
        self._outgoing, incoming = (self._service(iox2, name) for name in (sends_to, receives_from))
        strategy = iox2.AllocationStrategy.PowerOfTwo
        publisher = self._outgoing.publisher_builder().initial_max_slice_len(_INITIAL).allocation_strategy(strategy)
        self._publisher = publisher.create()
        self._subscriber = incoming.subscriber_builder().create()

    def _service(self, iox2: Any, name: str) -> Any:
        builder = self._node.service_builder(iox2.ServiceName.new(name))
        return builder.publish_subscribe(iox2.Slice[ctypes.c_uint8]).open_or_create()

    def _event(self, iox2: Any, name: str) -> Any:
        return self._node.service_builder(iox2.ServiceName.new(f"{name}/event")).event().open_or_create()

    def await_other(self) -> None:
        """Until somebody would get what is sent."""
        deadline = time.monotonic() + 20
        while not self._outgoing.dynamic_config.number_of_subscribers:
            if time.monotonic() > deadline:
                raise TimeoutError("the other side does not come")
            time.sleep(0.01)

    def send(self, size: int, write: Callable[[int], object]) -> None:
        """Publishes `size` bytes, which `write` puts at an address."""
        # A sample has at least one element.
        sample = self._publisher.loan_slice_uninit(max(size, 1) + 1)
        at = sample.payload().as_ptr()
        write(at)
        # The last element says whether the one before it counts.
        ctypes.memset(at + max(size, 1), size != 0, 1)
        sample.assume_init().send()
        if not self._spins:
            self._notifier.notify()

    def receive(self) -> tuple[Any, int, int]:
        """The next sample, which holds its memory: its address and size."""
        tries = 0
        while True:
            sample = self._subscriber.receive()
            if sample is not None:
                payload = sample.payload()
                at, size = payload.as_ptr(), payload.len() - 1
                return sample, at, size if ctypes.string_at(at + size, 1) == b"\1" else 0
            tries += 1
            if not self._spins:
                self._listener.blocking_wait()
            elif tries > _RESTS_AFTER:
                time.sleep(0.001)


def _echo(name: str, spins: bool) -> None:
    end = _End(f"{name}/back", f"{name}/there", spins)
    while True:
        sample, at, size = end.receive()
        end.send(size, lambda to, at=at, size=size: ctypes.memmove(to, at, size))  # type: ignore[misc]
        del sample


def _start(spins: bool) -> RoundTrip:
    name = f"snakepit_bench/{os.getpid()}/{spins}"
    end = _End(f"{name}/there", f"{name}/back", spins)
    multiprocessing.get_context("spawn").Process(target=_echo, args=(name, spins), daemon=True).start()
    end.await_other()

    def round_trip(data: bytes) -> Any:
        end.send(len(data), lambda to: ctypes.memmove(to, data, len(data)))
        sample, at, size = end.receive()
        got = ctypes.string_at(at, size)
        del sample
        return got

    return round_trip


def start() -> RoundTrip:
    """A process that echoes; both sleep while they wait."""
    return _start(spins=False)


def start_spinning() -> RoundTrip:
    """A process that echoes; both spin while they wait."""
    return _start(spins=True)
