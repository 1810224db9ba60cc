"""The life of a worker: handshake, the user's modules, lanes, the end."""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from .. import __version__
from .._native import Arena, Borrowed, add_descriptor
from ..diagnosis import missing
from ..memory import memory_array
from ..memory.maintenance import Maintenance
from ..support import context, fork, identity
from ..support.limits import PROTOCOL
from ..tools.catalog import describe
from ..tools.probe import PROBE, probe_tool
from ..tools.registry import collect
from ..wire.control import Control
from . import signals
from .calls import Service
from .control_loop import ControlLoop
from .lane import Lane
from .life import Life

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ..logs.records import Logs
    from ..memory.numpy_memory import NumpyMemory
    from ..tools.signature import Tool

# Nested extensions are decoded by nested C calls of some 40 KiB each.
_STACK = 16 << 20


def capabilities() -> list[str]:
    """The ways this worker can take."""
    from importlib.machinery import PathFinder

    able = ["inline"]
    if hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate"):
        able.append("zero_copy")
    if PathFinder.find_spec("grpc") is not None:
        able.append("grpc")
    return able


def run(path: str, token: str) -> None:
    """Serves until the BEAM says stop or goes away."""
    threading.stack_size(_STACK)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    control = Control(sock)
    able = capabilities()
    control.send(
        [
            "hello",
            {
                "protocol": PROTOCOL,
                "version": __version__,
                "token": bytes.fromhex(token),
                "pid": os.getpid(),
                "python": sys.version.split()[0],
                "capabilities": able,
            },
        ]
    )
    settings = _welcome(control)
    fork.install()
    missing.configure(settings.get("install"))
    add_descriptor(sock.fileno())
    tools: dict[str, Tool] = {}
    arena = _arena(settings, control) if "zero_copy" in able else None
    borrowed = Borrowed(arena)
    maintenance = Maintenance(
        arena, borrowed, int(settings["idle_ms"]), lambda tokens: control.send(["released", tokens])
    )
    service = Service(
        tools,
        arena,
        borrowed,
        maintenance,
        int(settings["inline_limit"]),
        int(settings.get("max_result") or 0),
        _numpy_memory(settings, arena),
        settings.get("pool") or "",
        # Lanes that share an interpreter would keep each other from running.
        int(settings.get("busy_poll") or 0) if settings["lanes"] == 1 else 0,
    )
    memory_array.arena = arena
    if settings.get("watch"):
        from .sources import Sources

        Sources(settings["watch"], lambda *source: control.send(["source", *source])).install()
    lanes = _lanes(int(settings["lanes"]), control, service)
    logs = _logs(settings, control)
    if "worker" in settings:
        own = settings["worker"]
        identity.become(own["pool"], int(own["index"]), int(own["size"]), len(lanes))
    life = Life(control, lanes[0], settings.get("warm_up") or ())
    os.register_at_fork(after_in_child=_in_child)
    signals.listen_for_stop()
    lanes[0].calls.cancellation.listen()
    try:
        try:
            _serve(control, service, lanes, life, settings, logs)
        finally:
            # Exit handlers are left alone.
            signals.ignore_stop()
    except SystemExit:
        # It is to stop; what modules and tools raise does not come here.
        pass
    _leave(life)


def _serve(
    control: Control,
    service: Service,
    lanes: list[Lane],
    life: Life,
    settings: dict[str, Any],
    logs: Logs | None = None,
) -> None:
    stop = threading.Event()
    source = settings.get("source")
    loop = ControlLoop(control, service, lanes, stop, logs)
    threading.Thread(target=loop.run, name="snakepit-control", daemon=True).start()
    try:
        modules = _imported(list(settings["modules"]), source, control)
        service.tools.update(collect(modules))
        on_stop = life.begin(modules)
        if fork.is_child():
            fork.leave()
        described = describe(service.tools)
        if logs is not None:
            logs.tools(service.tools.values())
        if settings.get("check_returns"):
            from ..tools.returns import watch

            for tool in service.tools.values():
                watch(tool, lambda words: control.send(["warning", words[:2000]]))
        service.tools[PROBE] = probe_tool()
        control.send(["ready", {"tools": described, "on_stop": on_stop}])
    except BaseException as error:
        if fork.is_child():
            fork.leave(error)
        if service.stopping:
            return
        control.send(["failed", life.failure(error, source)])
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of a half imported module must not keep a worker that failed.
        os._exit(1)
    # All objects made so far stay: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    for lane in lanes[1:]:
        threading.Thread(target=lane.serve, name="snakepit-lane", daemon=True).start()
    lanes[0].serve()
    if not service.stopping:
        # Only this lane ended.
        stop.wait()


def _in_child() -> None:
    """In a process that a tool forked: nothing of the worker's is here any more."""
    memory_array.arena = None
    fork.become_child()


def _leave(life: Life) -> None:
    """Ends the process with status 0. Hooks and exit handlers run; threads that do not end cannot hold it up."""
    context.caller_gone()
    try:
        life.end()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _welcome(control: Control) -> dict[str, Any]:
    while True:
        message = control.receive()
        if message is None:
            # The BEAM went away, or did not like the hello; it knows why.
            sys.exit(1)
        if message[0] == "welcome":
            settings: dict[str, Any] = message[1]
            return settings


def _arena(settings: dict[str, Any], control: Control) -> Arena:
    return Arena(
        int(settings["owner"]),
        int(settings["chunk_size"]),
        int(settings["quota"]),
        lambda id, size, fd: control.send(["chunk", id, size], [fd]),
        lambda id: control.send(["drop", id]),
    )


def _numpy_memory(settings: dict[str, Any], arena: Arena | None) -> Callable[[], None] | None:
    """Installs numpy's memory handler in a lane's thread; loaded when it is first wanted."""
    library = settings.get("numpy_memory")
    if arena is None or not library:
        return None

    @cache
    def memory() -> NumpyMemory:
        from ..memory.numpy_memory import NumpyMemory

        return NumpyMemory(arena, str(library))

    return lambda: memory().install()


def _lanes(number: int, control: Control, service: Service) -> list[Lane]:
    pairs = [socket.socketpair() for _ in range(number)]
    control.send(["lanes", number], [theirs.fileno() for _, theirs in pairs])
    for _, theirs in pairs:
        theirs.close()
    return [Lane(ours, service, number) for number, (ours, _) in enumerate(pairs)]


def _logs(settings: dict[str, Any], control: Control) -> Logs | None:
    """The way of log records to the BEAM, if it wants them."""
    level = settings.get("log_level")
    if level is None:
        return None
    from ..logs.channel import LogChannel
    from ..logs.records import Logs

    ours, theirs = socket.socketpair()
    control.send(["logs"], [theirs.fileno()])
    theirs.close()
    logs = Logs(LogChannel(ours), int(level))
    logs.start()
    return logs


def _imported(names: list[str], source: dict[str, Any] | None, control: Control) -> list[ModuleType]:
    import importlib

    modules = []
    for name in names:
        # Should it take too long, the BEAM knows what.
        control.send(["importing", name])
        modules.append(importlib.import_module(name))
    if source:
        from ..tools import inline

        control.send(["importing", source["file"]])
        modules.append(inline.load(source["text"], source["file"]))
    return modules
