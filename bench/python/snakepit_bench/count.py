"""Serves so many calls as a worker's lane does, for `bin/instructions` to count.

`python -m snakepit_bench.count NAME TIMES`. The caller is a process of its own, which Valgrind does not follow: what is
counted is the lane's loop, from a frame's bytes on its socket to those of the reply.
"""

from __future__ import annotations

import socket
import subprocess
import sys

from msgpack import packb

from snakepit._native import Borrowed, Requests
from snakepit.memory.maintenance import Maintenance
from snakepit.runtime.calls import Service
from snakepit.runtime.lane import Lane
from snakepit.tools.registry import collect, tool

# Sends the same frame under ids that count up, one after the other's reply, and checks that each is a result.
_CALLER = """
import socket, struct, sys
lane = socket.socket(fileno=int(sys.argv[1]))
frame, times = bytes.fromhex(sys.argv[2]), int(sys.argv[3])
for id in range(1000, 1000 + times):
    lane.sendall(struct.pack(">I", len(frame)) + frame[:8] + struct.pack("<Q", id) + frame[16:])
    reply = lane.recv(4096)
    assert len(reply) == 4 + struct.unpack_from(">I", reply)[0] and reply[4] == 1, reply
    assert struct.unpack_from("<Q", reply, 12)[0] == id, reply
"""


@tool
def nothing() -> None:
    pass


@tool
def add(a: int, b: int) -> int:
    return a + b


_CALLS = {"worker_frame": ("nothing", {}), "worker_call": ("add", {"a": 1, "b": 2})}


def main(name: str, times: int) -> None:
    command, arguments = _CALLS[name]
    frame = Requests.plain(packb([command, arguments, None]))
    borrowed = Borrowed()
    maintenance = Maintenance(None, borrowed, 60_000, lambda tokens: None)
    # Its thread would be counted, too, by the second.
    maintenance.stop()
    ours, theirs = socket.socketpair()
    lane = Lane(ours, Service(collect([sys.modules[__name__]]), None, borrowed, maintenance, 16_384, 0))
    program = [sys.executable, "-I", "-S", "-c", _CALLER, str(theirs.fileno()), frame.hex(), str(times)]
    with subprocess.Popen(program, pass_fds=[theirs.fileno()]) as caller:
        theirs.close()
        lane.serve()
    if caller.returncode:
        sys.exit("a call was not answered by a result")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
