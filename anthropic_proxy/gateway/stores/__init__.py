"""Stores for state that server processes share: counters of limits, and values with a lifetime."""

from collections.abc import Callable
from typing import NoReturn

from anthropic_proxy.errors import require_package
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Store
from anthropic_proxy.secrets import UnknownSecret


class _UnknownStore(MemoryStore):
    """The store of a server in another process, whose Redis URL only that process knows."""

    def __init__(self, url: UnknownSecret) -> None:
        super().__init__()
        self._url = url

    async def get(self, key: str) -> NoReturn:
        self._url.reveal()


def open_redis_store(settings: Settings, warn: Callable[[str], None]) -> Store | None:
    """Return the store of `REDIS_URL`, or None without it. No connection is opened before its first use.

    Raises `ConfigurationError` if the package for Redis is missing.
    """
    if settings.redis_url is None:
        return None
    if isinstance(settings.redis_url, UnknownSecret):
        return _UnknownStore(settings.redis_url)
    require_package("A Redis server (REDIS_URL) needs redis-py", "redis", "redis")
    from anthropic_proxy.gateway.stores import fallback, redis  # noqa: PLC0415  # they load redis-py

    url = settings.redis_url.reveal()
    return fallback.FallbackStore(
        redis.RedisStore(url, settings.redis_prefix),
        fails_open=settings.redis_failure == "open",
        address=redis.format_redis_address(url),
        warn=warn,
    )
