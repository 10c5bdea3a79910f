"""The store of limits and values that the workers of one server share: it is in the memory of their supervisor.

Theory of operation. `SharedStore` in a worker sends each call of the interface `plugins.Store` as a `StoreCall` to the
hub, which calls the same method of its `MemoryStore` and returns the result. The hub handles one message after another,
so that limits are exact. Calls are short, and the supervisor serves no requests, so that a worker waits for less than a
millisecond. If the supervisor ends, its workers end too.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from anthropic_proxy.gateway.stores.memory import MemoryStore, run_at_once
from anthropic_proxy.gateway.workers.ipc import StoreCall, StoreResult
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

_METHODS: dict[str, tuple[Any, Any]] = {
    "get": (tuple[str], str | None),
    "put": (tuple[str, str, float], None),
    "put_if_absent": (tuple[str, str, float], str),
    "increment": (tuple[str, float, float], float),
    "delete": (tuple[str], None),
    "reserve": (tuple[list[Limit], float], Reservation),
    "settle": (tuple[Reservation, list[int]], None),
    "renew": (tuple[list[Reservation]], None),
}
"""Method of a store → types of its arguments and of its result."""
_encode = msgspec.msgpack.Encoder().encode
_argument_decoders = {name: msgspec.msgpack.Decoder(arguments).decode for name, (arguments, _) in _METHODS.items()}
_result_decoders = {name: msgspec.msgpack.Decoder(result).decode for name, (_, result) in _METHODS.items()}


class SharedStore:
    """The store of a worker. It implements `plugins.Store`. `call` sends the name of a method and its arguments."""

    def __init__(self, call: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._send = call

    @property
    def state(self) -> StoreState:
        return StoreState()

    async def get(self, key: str) -> str | None:
        found: str | None = await self._call("get", key)
        return found

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._call("put", key, value, lifetime_seconds)

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        stored: str = await self._call("put_if_absent", key, value, lifetime_seconds)
        return stored

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        total: float = await self._call("increment", key, amount, lifetime_seconds)
        return total

    async def delete(self, key: str) -> None:
        await self._call("delete", key)

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        reservation: Reservation = await self._call("reserve", limits, lease_seconds)
        return reservation

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        await self._call("settle", reservation, amounts)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        await self._call("renew", reservations)

    async def close(self) -> None: ...

    async def _call(self, method: str, *arguments: object) -> Any:
        return _result_decoders[method](await self._send(method, _encode(arguments)))


def answer_call(store: MemoryStore, call: StoreCall) -> StoreResult:
    """Run a call of a worker in the hub."""
    method = getattr(store, call.method)(*_argument_decoders[call.method](call.arguments))
    return StoreResult(call.number, _encode(run_at_once(method)))
