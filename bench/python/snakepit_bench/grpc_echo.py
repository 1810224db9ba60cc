"""A bare gRPC echo of raw messages: the floor of a call by gRPC. `python -m snakepit_bench.grpc_echo PATH`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


def echo(message: bytes, _context: Any) -> bytes:
    return message


def main(path: str) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), options=options)
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("snakepit.v1.Worker", {"Call": handler}),))
    server.add_insecure_port("unix:" + path)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
