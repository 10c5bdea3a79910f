"""`CommandPipeline`: sends commands and Lua scripts to Redis, several in one message.

`run_script` and `run_command` send one script or command, and wait for its result. Calls that come while an earlier
message is in progress are collected, and sent together in the next one. `close` cancels the calls without a result.

Redis has failed if it does not reply to a message within `REPLY_TIMEOUT_SECONDS`. A timer cannot decide that alone: if
this process is paused (a stopped container, a busy machine), the reply waits in the socket, and the timer of the event
loop is late too. Hence the time is counted in short steps, between which the event loop reads what has arrived. A late
step means that this process did not run, so it does not count.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import InvalidResponse, NoScriptError, RedisError

from anthropic_proxy.engine.platforms.os_errors import describe_os_error

REPLY_TIMEOUT_SECONDS = 1.0
"""Maximum time for a reply of Redis to a message, including a new connection."""
_STEPS = 10
_STEP_SECONDS = REPLY_TIMEOUT_SECONDS / _STEPS
_MAX_LATE_STEPS = 20
"""Number of late steps that do not count. It bounds the wait on a machine that is always busy."""
MAX_CALLS = 100
"""Maximum number of calls in one message. Redis runs them one after another, in about 0.05 ms each."""
SCRIPTS = ("reserve", "settle", "renew", "heartbeat", "add", "publish")
_WITH_COMMON = frozenset({"reserve", "settle", "renew"})
"""Names of the scripts that use the functions of `common.lua`. Its text is put before theirs."""
_Call = tuple[str, Sequence[str], Sequence[object], asyncio.Future[Any]]
"""A waiting call. For a command, the name is "", the keys are empty, and the arguments are its words."""


class CommandPipeline:
    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    async def run_script(self, name: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Raises the errors of redis-py."""
        return await self._run(name, keys, arguments)

    async def run_command(self, *words: object) -> Any:
        """Raises the errors of redis-py."""
        return await self._run("", (), words)

    async def _run(self, name: str, keys: Sequence[str], words: Sequence[object]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, keys, words, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_waiting())
        return await future

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for *_, future in self._waiting:
            future.cancel()

    async def _send_waiting(self) -> None:
        while self._waiting:
            calls, self._waiting = self._waiting[:MAX_CALLS], self._waiting[MAX_CALLS:]
            calls = [call for call in calls if not call[3].done()]  # the caller no longer waits
            try:
                async with _limit_wait():
                    await self._send(calls)
            except (RedisError, OSError, TimeoutError) as error:
                self._fail(calls, error)
            except Exception as error:  # noqa: BLE001  # redis-py raises any exception for an invalid reply
                self._fail(calls, InvalidResponse(describe_os_error(error)))
                # the rest of the reply would be read as the reply to the next command
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                        await self._client.connection_pool.disconnect()

    def _fail(self, calls: Sequence[_Call], error: Exception) -> None:
        # each of the other calls would wait for its own timeout
        failed, self._waiting = [*calls, *self._waiting], []
        for *_, future in failed:
            if not future.done():
                future.set_exception(error)

    async def _send(self, calls: Sequence[_Call]) -> None:
        results = await self._execute(calls)
        if missing := {call[0] for call, result in results if isinstance(result, NoScriptError)}:
            for name in missing:  # the server has started again
                await self._client.script_load(_read_scripts()[name][1])
            retried = [call for call, result in results if isinstance(result, NoScriptError)]
            results = [pair for pair in results if not isinstance(pair[1], NoScriptError)]
            results += await self._execute(retried)
        for (*_, future), result in results:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _execute(self, calls: Sequence[_Call]) -> list[tuple[_Call, Any]]:
        scripts = _read_scripts()
        async with self._client.pipeline(transaction=False) as pipeline:
            for name, keys, words, _ in calls:
                if name:
                    pipeline.evalsha(scripts[name][0], len(keys), *keys, *map(str, words))
                else:
                    pipeline.execute_command(*words)
            return list(zip(calls, await pipeline.execute(raise_on_error=False), strict=True))


@asynccontextmanager
async def _limit_wait() -> AsyncIterator[None]:
    """Raise `TimeoutError` in the block after `REPLY_TIMEOUT_SECONDS` in which the event loop has run."""
    loop = asyncio.get_running_loop()
    steps, late_steps, due = _STEPS, _MAX_LATE_STEPS, loop.time() + _STEP_SECONDS
    timer: asyncio.Handle

    def end_step() -> None:
        nonlocal timer, steps, late_steps, due
        if loop.time() - due > _STEP_SECONDS and late_steps:
            late_steps -= 1
        else:
            steps -= 1
        if steps:
            due = loop.time() + _STEP_SECONDS
            timer = loop.call_at(due, end_step)
        else:
            timeout.reschedule(loop.time())

    timer = loop.call_at(due, end_step)
    async with asyncio.timeout(None) as timeout:
        try:
            yield
        finally:
            timer.cancel()


@cache
def _read_scripts() -> Mapping[str, tuple[str, str]]:
    """Return name of a script → its SHA-1 digest, by which Redis finds a loaded script, and its text."""
    common = _read_script("common")
    texts = {name: (common if name in _WITH_COMMON else "") + _read_script(name) for name in SCRIPTS}
    return {name: (sha1(text.encode(), usedforsecurity=False).hexdigest(), text) for name, text in texts.items()}


def _read_script(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text("utf-8")
