"""`RedisStore`: store in Redis or Valkey for values, counters of limits, and observations about providers.

The methods raise the errors of redis-py. All errors of one command mean that Redis is unavailable, unless
`is_data_error` finds that they concern only the keys of the command.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    DataError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.gateway.stores.memory import SETTLED_SECONDS
from anthropic_proxy.gateway.stores.redis.connections import OWN_CLASSES
from anthropic_proxy.gateway.stores.remote import MAX_CALLS, DataLost, Heartbeat, limit_wait
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

MAX_CONNECTIONS = 8
"""Maximum number of connections of one process: one for values and limits, one for messages, and few for others."""
PROCESS_SECONDS = 30
"""Time in seconds after its last heartbeat during which a process counts as running."""


_OBSERVATION = compile_anchored(r"\d+(\.\d+)? ")
"""Matches the beginning of a stored observation: the time of its expiry."""


class StoredObservation(NamedTuple):
    lifetime_seconds: float
    text: str


class RedisStore:
    """It implements `RemoteStore`. `prefix` is the beginning of all keys."""

    title: str = "Redis"
    failures: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)

    def __init__(self, url: str, prefix: str, *, clock: Callable[[], float] | None = None) -> None:
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=None,  # `CommandPipeline` and the other users limit each wait
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # with 3, redis-py uses an idle connection that the server has closed
            decode_responses=True,
            encoding_errors="replace",
            client_name="anthropic-proxy",
            redis_connect_func=self._greet,
        )
        self._pool.connection_class = OWN_CLASSES[self._pool.connection_class]
        self.client: Redis = Redis.from_pool(self._pool)
        """Redis client for commands outside the pipeline, such as publish and subscribe."""
        # with the prefix in braces, a cluster keeps all keys on one node
        self._prefix = f"{{{prefix}}}"
        self._clock = clock
        self.has_news = asyncio.Event()
        self.heartbeat_keys: Sequence[str] = [self._name_key("processes", "")]
        self._state_key = self._name_key("data", "")
        self._pipeline = CommandPipeline(self.client)
        self.process_id = os.urandom(16).hex()
        self._group = os.urandom(8).hex()
        """Id of the data. After their loss, the first process brings it back."""

    @property
    def state(self) -> StoreState:
        return StoreState(kind="redis")

    async def _greet(self, connection: AbstractConnection) -> None:
        """The server may have started again, with older data: its state of the data changes before further calls."""
        await connection.on_connect()
        keys, words = self._list_heartbeat()
        await connection.send_command("EVAL", _read_scripts()["heartbeat"][1], len(keys), *keys, *words)
        with suppress(ResponseError):  # the next heartbeat reports it
            await connection.read_response()
        self.has_news.set()

    def _name_key(self, kind: str, name: str) -> str:
        """`kind`: `value`, `counter`, `holds`, `settled`, `call`, `channel` and others."""
        return f"{self._prefix}:{kind}:{name}"

    async def get(self, key: str) -> str | None:
        value = await self._pipeline.run_command("GET", self._name_key("value", key))
        return None if value is None else str(value)

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        milliseconds = max(math.ceil(lifetime_seconds * 1000), 1)
        await self._pipeline.run_command("SET", self._name_key("value", key), value, "PX", milliseconds)

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        milliseconds = max(math.ceil(lifetime_seconds * 1000), 1)
        return str(
            await self._pipeline.run_script("put_if_absent", [self._name_key("value", key)], [value, milliseconds])
        )

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        milliseconds = max(math.ceil(lifetime_seconds * 1000), 1)
        keys = [self._name_key("value", key), self._name_key("call", os.urandom(16).hex())]
        return float(await self._pipeline.run_script("add", keys, [repr(amount), milliseconds, _REPEATED_MILLISECONDS]))

    async def delete(self, key: str) -> None:
        await self._pipeline.run_command("DEL", *(self._name_key(kind, key) for kind in ("value", "counter", "holds")))

    async def reserve(
        self,
        limits: Sequence[Limit],
        lease_seconds: float = LEASE_SECONDS,
        reservation_id: str = "",
        expected_data: str = "",
    ) -> Reservation:
        """`reservation_id` "": random."""
        id_ = reservation_id or os.urandom(16).hex()
        keys = [self._name_key("settled", id_), self._name_key("call", id_), self._state_key]
        keys += self._counter_keys(limits)
        words: list[object] = [self._now(), id_, lease_seconds, _REPEATED_MILLISECONDS, expected_data]
        for limit in limits:
            words += (limit.kind, limit.amount, limit.maximum, limit.seconds, limit.at_least)
        reply = await self._pipeline.run_script("reserve", keys, words)
        if not reply:
            raise TimeoutError
        if reply == ["lost"]:
            raise DataLost
        refused = int(reply[0])
        return Reservation(
            id=id_ if refused < 0 and any(limit.amount for limit in limits) else "",
            limits=tuple(limits),
            refused=None if refused < 0 else refused,
            retry_after_seconds=float(reply[1]),
            remaining=[int(number) for number in reply[2::4]],
            reset_seconds=[float(number) for number in reply[3::4]],
            slots=[int(number) for number in reply[4::4]],
            settled=[int(number) for number in reply[5::4]],
            lease_seconds=lease_seconds,
        )

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        if not reservation.is_held:
            return
        keys = [self._name_key("settled", reservation.id), *self._counter_keys(reservation.limits)]
        words: list[object] = [self._now(), reservation.id, SETTLED_SECONDS, reservation.settled_seconds_ago]
        for limit, slot, amount in zip(reservation.limits, reservation.slots, amounts, strict=True):
            words += (limit.kind, limit.amount, amount, limit.seconds, slot)
        await self._pipeline.run_script("settle", keys, words)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """The caller passes at most `MAX_RENEWED` reservations."""
        keys: list[str] = []
        words: list[object] = [self._now()]
        for reservation in reservations:
            for limit in reservation.limits if reservation.is_held else ():
                if limit.kind != "rate" and limit.amount:
                    keys += (self._name_key("settled", reservation.id), *self._counter_keys([limit]))
                    words += (reservation.id, limit.kind, limit.amount, limit.seconds, reservation.lease_seconds)
        if keys:
            await self._pipeline.run_script("renew", keys, words)

    @property
    def observation_channel(self) -> str:
        return self._name_key("channel", "observations")

    async def publish_observation(self, observation_key: str, text: str, lifetime_seconds: float) -> None:
        """Send an observation to all processes that use this Redis, and store it. `lifetime_seconds` 0: delete it."""
        words = [self.observation_channel, observation_key, text, lifetime_seconds, self.process_id]
        await self._pipeline.run_script("publish", [self._name_key("observations", "")], words)

    async def list_observations(self) -> Sequence[StoredObservation]:
        """Expired ones are deleted."""
        key = self._name_key("observations", "")
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("TIME")
            pipeline.execute_command("HGETALL", key)
            (seconds, microseconds), rows = await pipeline.execute()
        now = int(seconds) + int(microseconds) / 1_000_000
        observations = {name: row.split(" ", 1) for name, row in rows.items() if _OBSERVATION.match(row)}
        if expired := [name for name, (expires_at, _) in observations.items() if float(expires_at) <= now]:
            await self.client.hdel(key, *expired)
        return [StoredObservation(float(end) - now, text) for end, text in observations.values() if float(end) > now]

    async def send_heartbeat(self) -> Heartbeat:
        keys, words = self._list_heartbeat()
        before = time.monotonic()
        processes, group, now, data = await self._pipeline.run_script("heartbeat", keys, words)
        self._group = str(group)
        return Heartbeat(
            processes=int(processes),
            group=self._group,
            data=str(data),
            clock_base=float(now) - (before + time.monotonic()) / 2,
        )

    def _list_heartbeat(self) -> tuple[Sequence[str], Sequence[object]]:
        """Return the keys and words of the script."""
        keys = [*self.heartbeat_keys, self._name_key("group", ""), self._state_key]
        return keys, [self.process_id, PROCESS_SECONDS, self._group, os.urandom(8).hex()]

    def is_data_error(self, error: BaseException) -> bool:
        return is_data_error(error)

    def is_rejection(self, error: BaseException) -> bool:
        return isinstance(error, ResponseError)

    def has_unknown_result(self, error: BaseException) -> bool:
        return isinstance(error, _UNKNOWN_RESULT)

    def describe_data_error(self, error: BaseException, address: str, keys: Sequence[str]) -> str:
        return describe_data_error(error, address, keys)

    def describe_failure(self, error: BaseException, address: str) -> str:
        return describe_failure(error, address)

    async def close(self) -> None:
        await self._pipeline.close()
        await self.client.aclose()
        await self._pool.aclose()

    def _now(self) -> str:
        return "" if self._clock is None else f"{self._clock():.6f}"

    def _counter_keys(self, limits: Sequence[Limit]) -> list[str]:
        return [self._name_key(kind, limit.key) for limit in limits for kind in ("counter", "holds")]


_CONNECTING = compile_later(r"^Error -?\d+ connecting to \S+ ")
"""Matches the beginning of a message of redis-py about a failed connection. Its number differs between systems."""
FAILURES = RedisStore.failures
_UNKNOWN_RESULT = (OSError, TimeoutError, RedisConnectionError, RedisTimeoutError)
"""Exceptions after which it is unknown whether Redis has executed the command."""
_SCRIPT_END = compile_later(r" script:(?: \w+,)? on @\S+$")
"""Matches the end of an error message about a script: of Redis with the digest of the script, of Valkey without it."""
_MAX_NAMED_KEYS = 10
_DATA_PROBLEM = compile_later(r"WRONGTYPE|not an integer|not a valid float|would overflow|user_script:\d+: attempt to ")
"""Matches error messages about the data of one key. Other errors, such as a full memory, concern all keys."""


def is_data_error(error: BaseException) -> bool:
    """Return True if Redis is available, and commands for other keys can succeed."""
    problem = isinstance(error, ResponseError) and _DATA_PROBLEM.search(str(error))
    return isinstance(error, DataError) or bool(problem)


def describe_data_error(error: BaseException, address: str, keys: Sequence[str]) -> str:
    """Return the text about a value in Redis that is not of this program. `address` is the host and port of Redis."""
    text = _SCRIPT_END.sub("", " ".join(str(error).split())).rstrip(".")
    others = f" and {len(keys) - _MAX_NAMED_KEYS} others" if len(keys) > _MAX_NAMED_KEYS else ""
    named = ("one of " if len(keys) > 1 else "") + ", ".join(keys[:_MAX_NAMED_KEYS]) + others
    return f"Redis at {address} has wrong data for {named}: {text}. Delete the wrong data, or change REDIS_PREFIX."


def format_redis_address(url: str) -> str:
    """Return host and port, or the path of a Unix socket, in the value of `REDIS_URL`, without the password."""
    address = urlsplit(url)
    return address.path if address.scheme == "unix" else f"{address.hostname or 'localhost'}:{address.port or 6379}"


def describe_failure(error: BaseException, address: str) -> str:
    subject = f"Redis at {address}"
    text = _SCRIPT_END.sub("", _CONNECTING.sub("", " ".join(str(error).split()))).rstrip(".")
    match error:
        case AuthenticationError():
            return _describe_password(subject)
        case NoPermissionError():
            return _describe_permission(subject, text)
        case ReadOnlyError():
            return f"{subject} is a read-only replica. Set REDIS_URL to the primary server."
        case OutOfMemoryError():
            return f"{subject} has no memory left. Increase its setting maxmemory."
        case BusyLoadingError():
            return f"{subject} is still loading its data."
        case TimeoutError():
            return f"{subject} did not answer within {REPLY_TIMEOUT_SECONDS:g} s."
        case MovedError():
            return f"{subject} is a node of a cluster without these keys. Set REDIS_URL to {error.host}:{error.port}."
        case InvalidResponse():
            return f"{subject} sent a reply that cannot be decoded: {text}."
        case ResponseError():
            if "NOAUTH" in text or "WRONGPASS" in text or "without any password" in text or "Authentication" in text:
                return _describe_password(subject)
            if "OOM" in text:
                return f"{subject} has no memory left. Increase its setting maxmemory."
            if "READONLY" in text:
                return f"{subject} is a read-only replica. Set REDIS_URL to the primary server."
            if "can't run this command" in text or "has no permissions" in text:  # within a script
                return _describe_permission(subject, text)
            return f"{subject} reports an error: {text}."
        case _ if "timeout" in text.lower() or not text:
            return f"{subject} did not answer within {REPLY_TIMEOUT_SECONDS:g} s."
        case _:
            return f"{subject} cannot be reached: {text}. Start it, or correct REDIS_URL."


def _describe_permission(subject: str, text: str) -> str:
    return f"{subject} rejects the user: {text}. Permit all commands for the keys, publish and subscribe."


def _describe_password(subject: str) -> str:
    return f"{subject} rejects the user or password. Correct them in REDIS_URL: redis://user:password@host:6379/0."


REPLY_TIMEOUT_SECONDS = 1.0
"""Maximum time for a reply of Redis to a message, including a new connection."""
_REPEATED_MILLISECONDS = 10_000
"""Time for which Redis keeps the results of `reserve` and `increment`, longer than for a repetition of the pipeline."""
_OTHER_SERVER = (ReadOnlyError, MasterDownError, MovedError, AuthenticationError, NoPermissionError)
"""Replies after which a new connection may lead to another server: the address of a group has a new primary one."""
SCRIPTS = ("reserve", "settle", "renew", "heartbeat", "add", "put_if_absent", "publish")
_WITH_COMMON = frozenset({"reserve", "settle", "renew"})
"""Names of the scripts that use the functions of `common.lua`. Its text is put before theirs."""


class _Call(Struct, eq=False):
    """A waiting call."""

    script: str
    """Name of the script. "": a command, which has no keys. Its words are the arguments."""
    keys: Sequence[str]
    arguments: Sequence[object]
    result: asyncio.Future[Any]


class CommandPipeline:
    """Sends commands and Lua scripts to Redis, several in one message.

    Calls that come while an earlier message is in progress are sent together in the next one.

    Redis has failed if it does not reply to a message within `REPLY_TIMEOUT_SECONDS`, in which this process runs.

    A connection that the server has closed meanwhile, such as an idle one, is replaced once, and the message is sent
    again: a repeated call has no further effect.

    After a failure, the idle connections are closed: those of a server that has ended without a word, or to which the
    name of the server no longer leads, would fail later, one after the other.
    """

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
        self._waiting.append(_Call(name, keys, words, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_waiting())
        return await future

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for call in self._waiting:
            call.result.cancel()

    async def _send_waiting(self) -> None:
        while self._waiting:
            calls = self._waiting[:MAX_CALLS]
            self._waiting = self._waiting[MAX_CALLS:]
            calls = [call for call in calls if not call.result.done()]  # the caller no longer waits
            try:
                async with limit_wait(REPLY_TIMEOUT_SECONDS):
                    try:
                        results = await self._execute(calls)
                    except RedisConnectionError as error:
                        if type(error) is not RedisConnectionError:  # a reply of the server, such as a wrong password
                            raise
                        await self._close_idle_connections()
                        results = await self._execute(calls)
                    if missing := {call.script for call, result in results if isinstance(result, NoScriptError)}:
                        for name in missing:  # the server has started again
                            await self._client.script_load(_read_scripts()[name][1])
                        retried = [call for call, result in results if isinstance(result, NoScriptError)]
                        results = [pair for pair in results if not isinstance(pair[1], NoScriptError)]
                        results += await self._execute(retried)
                    for call, result in results:
                        if call.result.done():
                            continue
                        if isinstance(result, Exception):
                            call.result.set_exception(result)
                        else:
                            call.result.set_result(result)
            except (RedisError, OSError, TimeoutError) as error:
                self._fail(calls, error)
                await self._close_idle_connections()
            except Exception as error:  # noqa: BLE001  # redis-py raises any exception for an invalid reply
                self._fail(calls, InvalidResponse(describe_os_error(error)))
                # also because the rest of the reply would be read as the reply to the next command
                await self._close_idle_connections()
            else:
                if any(isinstance(result, _OTHER_SERVER) for _, result in results):
                    await self._close_idle_connections()

    async def _close_idle_connections(self) -> None:
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                await self._client.connection_pool.disconnect(inuse_connections=False)

    def _fail(self, calls: Sequence[_Call], error: Exception) -> None:
        # each of the other calls would wait for its own timeout
        failed = [*calls, *self._waiting]
        self._waiting = []
        for call in failed:
            if not call.result.done():
                call.result.set_exception(error)

    async def _execute(self, calls: Sequence[_Call]) -> list[tuple[_Call, Any]]:
        scripts = _read_scripts()
        async with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                if call.script:
                    digest, _ = scripts[call.script]
                    pipeline.evalsha(digest, len(call.keys), *call.keys, *map(str, call.arguments))
                else:
                    pipeline.execute_command(*call.arguments)
            return list(zip(calls, await pipeline.execute(raise_on_error=False), strict=True))


@cache
def _read_scripts() -> Mapping[str, tuple[str, str]]:
    """Return name of a script → its SHA-1 digest, by which Redis finds a loaded script, and its text."""
    common = _read_script("common")
    texts = {name: (common if name in _WITH_COMMON else "") + _read_script(name) for name in SCRIPTS}
    return {name: (sha1(text.encode(), usedforsecurity=False).hexdigest(), text) for name, text in texts.items()}


def _read_script(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text("utf-8")
