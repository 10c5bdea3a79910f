"""Stores for state that server processes share: counters of limits, and values with a lifetime."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NoReturn

from anthropic_proxy.errors import ConfigurationError, MissingExtra
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Store
from anthropic_proxy.secrets import UnknownSecret


def open_store(settings: Settings, warn: Callable[[str], None]) -> Store:
    """No file or connection is opened. Raises `ConfigurationError` if the package for Redis is missing."""
    if isinstance(settings.redis_url, UnknownSecret):
        return _UnknownStore(settings.redis_url)
    if settings.redis_url is not None:
        if find_spec("redis") is None:
            raise ConfigurationError(
                MissingExtra("A Redis server (REDIS_URL) needs redis-py", "redis").message, code="package-missing"
            )
        from anthropic_proxy.gateway.stores.fallback import FallbackStore  # noqa: PLC0415  # loads redis-py
        from anthropic_proxy.gateway.stores.redis import RedisStore, format_redis_address  # noqa: PLC0415

        url = settings.redis_url.reveal()
        store = RedisStore(url, settings.redis_prefix)
        return FallbackStore(
            store, fails_open=settings.redis_failure == "open", address=format_redis_address(url), warn=warn
        )
    if settings.data_directory is None:
        return MemoryStore()
    from anthropic_proxy.gateway.stores.sqlite import FILE_NAME, SqliteStore  # noqa: PLC0415

    return SqliteStore(settings.data_directory / FILE_NAME, warn)


class _UnknownStore(MemoryStore):
    """The store of a server in another process, whose Redis URL only that process knows. Each use raises an error."""

    def __init__(self, url: UnknownSecret) -> None:
        super().__init__()
        self._url = url

    async def get(self, key: str) -> NoReturn:
        self._url.reveal()

    async def put(self, key: str, value: str, lifetime_seconds: float) -> NoReturn:
        self._url.reveal()

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> NoReturn:
        self._url.reveal()

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> NoReturn:
        self._url.reveal()
