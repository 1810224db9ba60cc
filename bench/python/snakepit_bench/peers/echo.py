"""The Python ends of peers whose other end is the BEAM: `python -m snakepit_bench.peers.echo FORMAT [PATH]`.

Messages have a length of four bytes before them, and are `{echo, Data}` in Erlang's external term format, on the
standard streams as a port has them, or `["echo", data]` in MessagePack on a Unix socket. The answer is the data in
`{ok, Data}`, or `["ok", data]`.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

# The external term format: its version, and the tags that an echo needs.
_VERSION, _SMALL_TUPLE, _BINARY, _ATOM_UTF8, _SMALL_ATOM_UTF8, _ATOM = 131, 104, 109, 118, 119, 100


def decode_etf(data: bytes) -> Any:
    """Tuples, atoms (as str) and binaries."""
    if data[0] != _VERSION:
        raise ValueError("no external term")
    return _term(data, 1)[0]


def _term(data: bytes, at: int) -> tuple[Any, int]:
    tag = data[at]
    if tag == _SMALL_TUPLE:
        items, at, count = [], at + 2, data[at + 1]
        for _ in range(count):
            item, at = _term(data, at)
            items.append(item)
        return tuple(items), at
    if tag == _BINARY:
        (size,) = struct.unpack_from(">I", data, at + 1)
        return data[at + 5 : at + 5 + size], at + 5 + size
    if tag == _SMALL_ATOM_UTF8:
        size = data[at + 1]
        return data[at + 2 : at + 2 + size].decode(), at + 2 + size
    if tag in (_ATOM, _ATOM_UTF8):
        (size,) = struct.unpack_from(">H", data, at + 1)
        return data[at + 3 : at + 3 + size].decode(), at + 3 + size
    raise ValueError(f"tag {tag}")


def encode_etf(atom: str, data: bytes) -> list[bytes]:
    """A tuple of an atom and a binary."""
    name = atom.encode()
    head = bytes([_VERSION, _SMALL_TUPLE, 2, _SMALL_ATOM_UTF8, len(name)]) + name
    return [head + struct.pack(">BI", _BINARY, len(data)), data]


def etf(message: bytes) -> list[bytes]:
    """Answers one message in the external term format."""
    what, data = decode_etf(message)
    return encode_etf("ok" if what == "echo" else "error", data)


def msgpack(message: bytes) -> list[bytes]:
    """Answers one message in MessagePack."""
    import msgpack as library

    what, data = library.unpackb(message, max_bin_len=1 << 31)
    return [library.packb(["ok" if what == "echo" else "error", data])]


def serve(reader: BinaryIO, writer: BinaryIO, answer: Callable[[bytes], list[bytes]]) -> None:
    """Until there is nothing more to read."""
    while head := reader.read(4):
        (size,) = struct.unpack(">I", head)
        parts = answer(reader.read(size))
        writer.write(struct.pack(">I", sum(map(len, parts))))
        for part in parts:
            writer.write(part)
        writer.flush()


def main(form: str, path: str | None = None) -> None:
    answer = {"etf": etf, "msgpack": msgpack}[form]
    if path is None:
        # An answer is one write, not one of each part, whatever PYTHONUNBUFFERED says.
        with open(1, "wb", closefd=False) as writer:
            serve(sys.stdin.buffer, writer, answer)
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            serve(sock.makefile("rb"), sock.makefile("wb"), answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
