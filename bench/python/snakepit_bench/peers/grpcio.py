"""grpcio on both ends, over a Unix socket."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import RoundTrip


def start() -> RoundTrip:
    """A process that echoes (`snakepit_bench.grpc_echo`), and a channel to it."""
    import grpc

    path = Path(tempfile.mkdtemp()) / "echo.sock"
    server = subprocess.Popen([sys.executable, "-m", "snakepit_bench.grpc_echo", str(path)], stdin=subprocess.DEVNULL)
    _end_with_us(server)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(f"unix:{path}", options)
    call: Any = channel.unary_unary("/snakepit.v1.Worker/Call")
    return lambda data: call(data, wait_for_ready=True, timeout=120)


def _end_with_us(process: subprocess.Popen[bytes]) -> None:
    import atexit

    atexit.register(process.kill)
