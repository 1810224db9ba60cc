"""Runs calls: from a request's frame to the reply's parts. One at a time for each lane.

A call must leave no reference to its arguments behind: views of shared memory are given back by the reply that ends it.
So locals are cleared as soon as they are not needed, and the frames that exceptions hold as well.
"""

from __future__ import annotations

import types
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from .._native import QuickCalls, Replies, Requests, Unread, pack
from ..codec.decode import Decoder
from ..codec.encode import Encoder
from ..support import context
from ..support.cancel import Cancellation
from ..support.cancelled import Cancelled
from ..support.errors import CallError, ProtocolError, did_you_mean, nearest, some_of
from ..support.fork import is_child
from ..support.limits import (
    END,
    ERROR,
    FORCED,
    GRPC,
    ITEM,
    MAX_FRAME,
    MAX_GRPC_MESSAGE,
    RESULT,
    RETURNED,
)
from ..tools.probe import PROBE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._native import Arena, Borrowed, Reply
    from ..memory.maintenance import Maintenance
    from ..tools.signature import Tool

_LATE = frozenset({types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType})


class Service:
    """The state that all lanes of a worker share."""

    def __init__(
        self,
        tools: dict[str, Tool],
        arena: Arena | None,
        borrowed: Borrowed,
        maintenance: Maintenance,
        inline_limit: int,
        max_result: int,
        lend_to_numpy: Callable[[], None] | None = None,
        pool: str = "",
        busy_poll: int = 0,
    ) -> None:
        self.pool = f"pool {pool}" if pool else "this pool"
        self.tools = tools
        self.arena = arena
        self.borrowed = borrowed
        self.maintenance = maintenance
        self.inline_limit = inline_limit
        self.max_result = max_result
        self.lend_to_numpy = lend_to_numpy
        # How long lanes spin for a request, in microseconds.
        self.busy_poll = busy_poll
        self.stopping = False


class Calls:
    """The calls of one lane."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tools = service.tools
        self._borrowed = service.borrowed
        decoder = Decoder()
        self._encoder = Encoder(service.inline_limit)
        self.replies = Replies(
            arena=service.arena,
            borrowed=service.borrowed,
            maintenance=service.maintenance,
            lend_to_numpy=service.lend_to_numpy,
            max_result=service.max_result,
            max_frame=MAX_FRAME,
            max_message=MAX_GRPC_MESSAGE,
        )
        self._requests = Requests(decoder.native, self.replies)
        self._runner: Any = None
        self._call_id = 0
        self._mask = 0
        self._forced = False
        self.cancellation = Cancellation()
        self.quick_calls = QuickCalls(
            decoder=decoder.native,
            encoder=self._encoder.native,
            tools=service.tools,
            cancellation=self.cancellation,
            caller=context.caller,
            replies=self.replies,
        )

    def quick(self, frame: bytes) -> bytes | Reply | None:
        """The usual call in one go: all arguments of a known tool.

        Its reply is a whole frame, with its length before it, or as from `answer`. Returns `None`, before any tool ran,
        for whatever is not so usual, or not right: `answer` then does all of it, and explains what is wrong.
        """
        reply: bytes | Reply | None = self.quick_calls.call(self, frame)
        return reply

    def quickly_raised(self, call_id: int, mask: int, error: BaseException, nanoseconds: int) -> Reply:
        """The reply of a quick call whose tool raised."""
        self._mask, self._call_id = mask, call_id
        return self._raised(error, nanoseconds)

    def quickly_failed(self, call_id: int, mask: int, error: Exception, nanoseconds: int) -> Reply:
        """The reply of a quick call whose arguments did not come, or whose result cannot be sent."""
        self._mask, self._call_id = mask, call_id
        self.cancellation.seen = call_id
        return self._failed(self._as_failure(error), nanoseconds)

    def quickly_returned(
        self, call_id: int, mask: int, forced: bool, holder: list[Any], nanoseconds: int, started: int
    ) -> Reply:
        """The reply of a quick call whose result needs a closer look."""
        self._mask, self._call_id, self._forced = mask, call_id, forced
        return self._finish(holder, nanoseconds, started)

    def quickly_over(self, tool: Tool, error: BaseException | None) -> None:
        """A quick call's tool ended, in a forked child or while it is being cancelled."""
        try:
            if error is not None:
                raise error
        except BaseException:
            self.cancellation.over()
        else:
            self.cancellation.over()

    def answer(
        self,
        frame: memoryview,
        beside: list[memoryview] | None = None,
        views: list[memoryview] | None = None,
    ) -> Reply:
        """Runs a call whose caller takes one reply.

        `beside` has the buffers of a request that came by gRPC, `views` those of any request, if they were made
        already.
        """
        try:
            opened = self._open(frame, beside, views)
            views = None
        except Exception as error:
            return self._failed(self._as_failure(error), 0)
        return self._run_tool(opened)

    def _run_tool(self, opened: list[Any]) -> Reply:
        """Runs a tool and makes the reply. Takes tool and arguments out of `opened`, so that nobody else holds them."""
        arguments = opened.pop()
        tool = opened.pop()
        started = perf_counter_ns()
        try:
            value = [self._users(tool.call, arguments)]
        except BaseException as error:
            arguments = None
            return self._raised(error, perf_counter_ns() - started)
        arguments = None
        return self._finish(value, perf_counter_ns() - started, started)

    def _finish(self, holder: list[Any], nanoseconds: int, started: int) -> Reply:
        """The reply with a tool's value, which is taken out of `holder`. Runs on what it started: a coroutine, say."""
        value = holder.pop()
        try:
            if type(value) in _LATE:
                late, value = value, None
                try:
                    value = self._users(self._collect, {"value": late})
                except BaseException as error:
                    late = None
                    return self._raised(error, perf_counter_ns() - started)
                late = None
                nanoseconds = perf_counter_ns() - started
            envelope = self._encoder.encode(value)
            value = None
            return self._reply(RESULT, nanoseconds, envelope)
        except Exception as error:
            failure = self._as_failure(error)
            # The result is still held here.
            value = None
            return self._failed(failure, nanoseconds)

    def _raised(self, error: BaseException, nanoseconds: int) -> Reply:
        """The reply with what a tool raised, or with `Cancelled` if that arrived after it."""
        if self.cancellation.cancelling:
            # It arrived on the way into `over`.
            self.cancellation.over()
        if self._service.stopping:
            raise error
        return self._failed(self._as_failure(python_error(error)), nanoseconds)

    def stream(
        self,
        frame: memoryview,
        beside: list[memoryview] | None = None,
        views: list[memoryview] | None = None,
    ) -> Generator[Reply, None, None]:
        """Runs a call whose caller takes a stream: items, then an end or an error."""
        source: Any = None
        started = perf_counter_ns()
        try:
            try:
                tool, arguments = self._open(frame, beside, views)
                views = None
                if beside is None and self._mask != 1 << GRPC:
                    # The items of a stream on a lane cannot be fetched.
                    self._mask &= ~(1 << GRPC)
                wanted = Requests.head(frame)[2] & RETURNED
                started = perf_counter_ns()
                source = self._guarded(tool.call, arguments)
                arguments = tool = None
                if type(source) is types.CoroutineType:
                    source = self._guarded(self._run, {"coroutine": source})
                advance = self._advancing(source)
                self.cancellation.stream = self._call_id
                while True:
                    if self.cancellation.cancelling:
                        raise CallError("python_error", "raised", "the stream was cancelled")
                    item = self._guarded(advance, {})
                    nanoseconds = perf_counter_ns() - started
                    if type(item) is _End:
                        # A value that nobody asked for need not be fit to cross.
                        item = item.returned if wanted else None
                        envelope = self._encoder.encode(item, "returned")
                        item = None
                        end = self._reply(END, nanoseconds, envelope)
                        break
                    envelope = self._encoder.encode(item, "item")
                    item = None
                    yield self._reply(ITEM, nanoseconds, envelope)
                    started = perf_counter_ns()
            except Exception as error:
                failure = self._as_failure(error)
                arguments = item = None
                self._closed(source)
                source = None
                yield self._failed(failure, perf_counter_ns() - started)
                return
            source = advance = None  # type: ignore[assignment]
            yield end
        finally:
            self.cancellation.stream = 0
            if self.cancellation.cancelling:
                self.cancellation.over()
            self._closed(source)

    def _open(self, frame: memoryview, beside: list[memoryview] | None, views: list[memoryview] | None) -> list[Any]:
        """Decodes a request and checks its arguments; tool and arguments, as `_run_tool` takes them."""
        _, self._mask, flags, self._call_id, _ = Requests.head(frame)
        self._forced = bool(flags & FORCED)
        self.cancellation.seen = self._call_id
        command, arguments, caller, bytes_inside = self._requests.open(frame, beside, views)
        tool = self._tools.get(command)
        if tool is None:
            raise self._unknown(command)
        if tool.converts:
            # The user's classes take part in it.
            self._users_part(tool, arguments, bytes_inside)
        else:
            tool.check(arguments)
            if bytes_inside or tool.writable:
                tool.adapt(arguments)
        if caller is not context.caller.get():
            context.caller.set(caller)
        return [tool, arguments]

    def _unknown(self, command: str) -> CallError:
        known = [name for name in self._tools if name != PROBE]
        suggestion = did_you_mean(command[:200], known) or f"; it has {some_of(known)}"
        message = f"{self._service.pool} has no tool {command[:200]!r}{suggestion}"
        return CallError("validation", "unknown_command", message, details={"nearest": nearest(command[:200], known)})

    def _users(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Calls the user's code, which may be cancelled meanwhile."""
        cancellation = self.cancellation
        try:
            cancellation.running = self._call_id
            return function(**arguments)
        finally:
            cancellation.running = 0
            if cancellation.cancelling or is_child():
                cancellation.over()

    def _guarded(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Calls the user's code; whatever it raises becomes a `CallError`."""
        try:
            return self._users(function, arguments)
        except BaseException as error:
            if self._service.stopping:
                raise
            raise python_error(error) from None

    def _users_part(self, tool: Tool, arguments: dict[str, Any], bytes_inside: bool) -> None:
        """Checks and converts arguments as a tool runs: the user's code in it may be cancelled, or raise anything."""
        adapts = bytes_inside or bool(tool.writable)
        try:
            self._users(tool.prepare, {"arguments": arguments, "adapts": adapts})
        except CallError:
            raise
        except BaseException as error:
            if self._service.stopping:
                raise
            raise python_error(error) from None

    def _run(self, coroutine: Any) -> Any:
        """Runs a coroutine to its end in this thread. The loop lives as long as the lane, for what tools keep in it."""
        import asyncio
        import contextvars

        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._watched(coroutine), context=contextvars.copy_context())
        except Cancelled:
            # It hit the loop itself, which is in an unknown state: the next coroutine has a new one.
            runner, self._runner = self._runner, None
            runner.close()
            raise

    def complete(self, coroutine: Any) -> None:
        """Runs what is no tool's coroutine, such as a hook's, in the loop that tools have here."""
        self._run(coroutine)

    def abandon(self) -> None:
        """Ends the coroutine out of which this thread was interrupted, so that it can clean up."""
        if self.cancellation.task is None or self._runner is None:
            return
        _loop, task = self.cancellation.task
        self.cancellation.task = None
        task.cancel()
        try:
            self._runner.run(_ended(task))
        except BaseException as error:
            # The worker ends, whatever the tool raises.
            _forget(error)

    async def _watched(self, coroutine: Any) -> Any:
        """The coroutine, in a task that can be cancelled."""
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        self.cancellation.task = asyncio.get_running_loop(), task
        try:
            return await coroutine
        finally:
            self.cancellation.task = None
            if is_child():
                # At once: what the loop has open is its parent's.
                self.cancellation.over()

    def _collect(self, value: Any) -> Any:
        """A generator's items as a list, a coroutine's result."""
        if type(value) is types.GeneratorType:
            return list(value)
        if type(value) is types.AsyncGeneratorType:
            return self._run(_listed(value))
        result = self._run(value)
        return self._collect(result) if type(result) in _LATE else result

    def _advancing(self, source: Any) -> Callable[[], Any]:
        """A function that returns the next item, or an `_End`."""
        if type(source) is types.GeneratorType:
            return partial(_next_of, source)
        if type(source) is types.AsyncGeneratorType:
            return lambda: self._run(_next(source))
        return partial(next, iter((source,)), _End(None))

    def _closed(self, source: Any) -> None:
        """Ends a generator that was not read to its end."""
        try:
            if type(source) is types.GeneratorType:
                self._guarded(source.close, {})
            elif type(source) is types.AsyncGeneratorType:
                self._guarded(self._run, {"coroutine": _close(source)})
        except Exception as error:
            _forget(error)

    def _as_failure(self, error: Exception) -> CallError:
        """The failure to report, without frames and buffers. An exception that nobody foresaw is an internal one."""
        if isinstance(error, ProtocolError):
            raise error
        self._encoder.take_buffers()
        if not isinstance(error, CallError):
            error = CallError("worker", "internal", f"{type(error).__name__}: {error}"[:2000])
        _forget(error)
        return error

    def _failed(self, failure: CallError, nanoseconds: int) -> Reply:
        return self._bare(ERROR, nanoseconds, pack(failure.as_map()))

    def _bare(self, kind: int, nanoseconds: int, envelope: bytes) -> Reply:
        """A reply without buffers."""
        return self.replies.bare(kind, self._mask, self._call_id, nanoseconds, envelope)

    def _reply(self, kind: int, nanoseconds: int, envelope: bytes) -> Reply:
        """A reply with the buffers of what was encoded last."""
        buffers = self._encoder.take_buffers()
        return self.replies.reply(kind, self._mask, self._forced, self._call_id, nanoseconds, envelope, buffers)

    def synchronized(self, frame: memoryview, lost: bool | Unread) -> tuple[Reply, bool | Unread]:
        """The answer to a caller that asks whether a call runs here: none does, or this request would have to wait.

        It names the last call, and says whether tokens are lost if its replies were not read. The request may name a
        call whose reply was not read: its tokens are taken back, where `lost` has those of its only reply.
        """
        self._mask, self._call_id, unread = self._requests.synchronize(frame)
        if isinstance(lost, Unread) and unread == lost.call_id:
            # Those that it gave back go with the answer.
            self.replies.unread(lost)
            lost = False
        return self._bare(RESULT, 0, self._encoder.encode([self.cancellation.seen, bool(lost)])), lost

    def keep_released(self, reply: Reply) -> None:
        """Takes the released tokens out of a reply that may not arrive, or that another one stands for."""
        self._borrowed.take_back(reply.take_released())

    def no_way(self, reply: Reply) -> Reply:
        """The reply that stands for a stream's item which the lane may not carry."""
        self.keep_released(reply)
        message = "a stream's large items cannot go by gRPC on a lane: call it by gRPC, or allow another way"
        return self._failed(CallError("transfer", "no_way", message), 0)

    def too_large(self, reply: Reply, size: int, limit: int) -> Reply:
        """The reply that stands for one which gRPC cannot carry."""
        self.keep_released(reply)
        message = f"the reply has {size} bytes, a gRPC message at most {limit}"
        return self._failed(CallError("transfer", "too_large", message, details={"bytes": size, "limit": limit}), 0)


class _End:
    """Stands for the item after the last one."""

    __slots__ = ("returned",)

    def __init__(self, returned: Any) -> None:
        self.returned = returned


def _next_of(source: Any) -> Any:
    try:
        return next(source)
    except StopIteration as stop:
        return _End(stop.value)


def python_error(error: BaseException) -> CallError:
    """A tool's exception as data."""
    from ..diagnosis.failures import python_error

    return python_error(error)


async def _ended(task: Any) -> None:
    import asyncio

    # One that takes longer must not keep the hooks of the worker's end.
    await asyncio.wait([task], timeout=1.0)


async def _listed(source: Any) -> list[Any]:
    return [item async for item in source]


# After the last item of an async generator, which can return nothing.
_NOTHING = _End(None)


async def _next(source: Any) -> Any:
    return await anext(source, _NOTHING)


async def _close(source: Any) -> None:
    await source.aclose()


def _forget(error: BaseException) -> None:
    """Lets go of the frames an exception holds, and of what they hold."""
    error.__traceback__ = None
    error.__context__ = error.__cause__ = None
