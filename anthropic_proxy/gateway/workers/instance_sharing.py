"""Exchange of observed facts, such as an API key in cooldown, between all processes that use the same Redis."""

import asyncio
import random
from collections.abc import Callable

import msgspec
from msgspec import structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.redis import FAILURES, RedisStore
from anthropic_proxy.gateway.workers.ipc import SharedObservation
from anthropic_proxy.plugins import Store

SEND_DELAY_SECONDS = 0.5
"""Seconds for which observations are collected before they are sent. A newer one with the same name replaces an older
one."""
IDLE_SECONDS_BEFORE_PING = 10.0
"""Seconds without a message from Redis after which the connection is checked. After twice this time, the process
connects again."""
MAX_RECONNECT_DELAY_SECONDS = 5.0
"""Maximum pause before the next attempt to connect. The pause is random."""
MAX_UNSENT_OBSERVATIONS = 10_000
"""Maximum number of observations that wait for Redis. Above it, new ones are dropped."""


def share_observations(store: Store, apply: Callable[[SharedObservation], None]) -> "InstanceSharing | None":
    """Share observed facts with the other instances. None: `store` is not on a server that all instances use."""
    if isinstance(store, FallbackStore) and isinstance(store.remote, RedisStore):
        return InstanceSharing(store, apply)
    return None


class InstanceSharing:
    """Exchange of observed facts with the other instances, by Redis.

    `apply` is called with each fact that another process has observed.
    """

    def __init__(self, store: FallbackStore[RedisStore], apply: Callable[[SharedObservation], None]) -> None:
        self._store, self._apply = store, apply
        self._unsent: dict[str, SharedObservation] = {}
        self._has_unsent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._tasks:
            self._store.start()
            self._tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._receive_all())]

    def publish(self, observation: SharedObservation) -> None:
        name = f"{observation.kind} {observation.settings_digest} {observation.name}"
        if name in self._unsent or len(self._unsent) < MAX_UNSENT_OBSERVATIONS:
            self._unsent[name] = observation
            self._has_unsent.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _send_all(self) -> None:
        while True:
            await self._has_unsent.wait()
            await asyncio.sleep(SEND_DELAY_SECONDS)
            self._has_unsent.clear()
            unsent, self._unsent = self._unsent, {}
            try:
                while unsent:
                    name, observation = next(iter(unsent.items()))
                    text = msgspec.json.encode(observation).decode()
                    await self._store.remote.publish_observation(name, text, observation.lifetime_seconds)
                    del unsent[name]
            except FAILURES:
                self._unsent = {**unsent, **self._unsent}
                self._has_unsent.set()
                await asyncio.sleep(random.uniform(0, MAX_RECONNECT_DELAY_SECONDS))

    async def _receive_all(self) -> None:
        redis = self._store.remote
        while True:
            try:
                async with redis.client.pubsub() as messages:
                    async with asyncio.timeout(IDLE_SECONDS_BEFORE_PING):
                        await messages.subscribe(redis.observation_channel)
                        await messages.get_message(timeout=None)  # the reply: what is sent from now on arrives
                        stored = await redis.list_observations()
                    for seconds, text in stored:
                        self._apply_text(text, seconds)
                    is_checked = False
                    while True:
                        message = await messages.get_message(
                            ignore_subscribe_messages=True, timeout=IDLE_SECONDS_BEFORE_PING
                        )
                        if message is None:
                            if is_checked:
                                raise TimeoutError  # noqa: TRY301
                            await messages.ping()
                        is_checked = message is None
                        if message is not None and message["type"] == "message":
                            sender, _, text = str(message["data"]).partition(" ")
                            if sender != redis.process_id:
                                self._apply_text(text)
            except Exception:  # noqa: BLE001  # redis-py raises any exception for an invalid reply
                await asyncio.sleep(random.uniform(0, MAX_RECONNECT_DELAY_SECONDS))

    def _apply_text(self, text: str, lifetime_seconds: float | None = None) -> None:
        try:
            observation = decode_json(text, SharedObservation)
        except InvalidJson:  # a message of another version, or damaged
            return
        if lifetime_seconds is not None:
            observation = structs.replace(observation, lifetime_seconds=lifetime_seconds)
        self._apply(observation)
