"""Arrow Flight's DoExchange over a Unix socket: one stream that stays open, a record batch each way."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import RoundTrip


def _serve(location: str) -> None:
    import pyarrow.flight as flight

    class Echo(flight.FlightServerBase):  # type: ignore[misc]
        def do_exchange(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
            writer.begin(reader.schema)
            for chunk in reader:
                writer.write_batch(chunk.data)

    Echo(location).serve()


def start() -> RoundTrip:
    """A process that echoes batches of one column with one value."""
    import pyarrow as pa
    import pyarrow.flight as flight

    location = f"grpc+unix://{Path(tempfile.mkdtemp()) / 'flight.sock'}"
    multiprocessing.get_context("spawn").Process(target=_serve, args=(location,), daemon=True).start()
    client = _connected(flight, location)
    schema = pa.schema([("x", pa.large_binary())])
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"echo"))
    writer.begin(schema)

    def round_trip(data: bytes) -> Any:
        # Without a copy on this side: the batch refers to the bytes.
        value = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), 1, [None, pa.py_buffer(_offsets(len(data))), pa.py_buffer(data)]
        )
        writer.write_batch(pa.record_batch([value], schema=schema))
        return reader.read_chunk().data.column(0)[0].as_buffer().to_pybytes()

    return round_trip


def _offsets(size: int) -> bytes:
    return (0).to_bytes(8, "little") + size.to_bytes(8, "little")


def _connected(flight: Any, location: str) -> Any:
    for _ in range(100):
        try:
            client = flight.connect(location)
            client.wait_for_available(1)
        except flight.FlightError:
            time.sleep(0.05)
        else:
            return client
    raise TimeoutError("the Flight server does not answer")
