"""Measures a peer whose both ends are Python: `python -m snakepit_bench.peers.driver NAME`.

Reads lines `SIZE COUNT` and answers each with the nanoseconds of COUNT round trips of SIZE bytes, or with `error: …`.
The first line it writes is `ready`, or `absent: …` where the peer cannot run here.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    RoundTrip = Callable[[bytes], Any]


def _peers() -> dict[str, Callable[[], RoundTrip]]:
    from . import arrow_flight, grpcio, iceoryx, multiprocessing_queue, multiprocessing_shared_memory, ray_task, zeromq

    modules = (arrow_flight, grpcio, multiprocessing_queue, multiprocessing_shared_memory, ray_task, zeromq)
    named = {module.__name__.rpartition(".")[2]: module.start for module in modules}
    return named | {"iceoryx2": iceoryx.start, "iceoryx2_spinning": iceoryx.start_spinning}


def payload(size: int) -> bytes:
    """Bytes that differ from place to place, so that a piece in the wrong place shows."""
    pattern = bytes(range(251))
    return (pattern * (size // len(pattern) + 1))[:size]


def measure(round_trip: RoundTrip, data: bytes, count: int) -> list[int]:
    """Nanoseconds of each of `count` round trips, whose results are compared outside of the time."""
    times = []
    for _ in range(count):
        started = time.perf_counter_ns()
        got = round_trip(data)
        times.append(time.perf_counter_ns() - started)
        if len(got) != len(data) or got != data:
            raise ValueError(f"{len(got)} other bytes came back")
        # Not in the next one's time.
        del got
    return times


def serve(round_trip: RoundTrip) -> None:
    """Answers until there are no more lines."""
    data = b""
    for line in sys.stdin:
        size, count = map(int, line.split())
        if len(data) != size:
            data = payload(size)
        try:
            print(*measure(round_trip, data, count), flush=True)
        except Exception as error:
            print(f"error: {type(error).__name__}: {error}".replace("\n", " ")[:500], flush=True)


def main(name: str) -> None:
    try:
        round_trip = _peers()[name]()
        measure(round_trip, payload(100), 3)
    except Exception as error:
        print(f"absent: {type(error).__name__}: {error}".replace("\n", " ")[:500], flush=True)
        return
    print("ready", flush=True)
    serve(round_trip)


if __name__ == "__main__":
    main(sys.argv[1])
