"""A bare echo on a Unix socket: the floor of a call. `python -m snakepit_bench.echo PATH`."""

from __future__ import annotations

import socket
import sys


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        buffer = bytearray(65536)
        view = memoryview(buffer)
        while got := sock.recv_into(buffer):
            sock.sendall(view[:got])


if __name__ == "__main__":
    main(sys.argv[1])
