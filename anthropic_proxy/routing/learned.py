"""What replies taught about a model: parameters that it refuses."""

from anthropic_proxy.hooks import Store

KEPT_SECONDS = 7 * 24 * 3600.0
"""A model that learns to take a parameter is asked again after this long."""


class Learned:
    """Remembers healings by provider and model, in whatever store the house has."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, provider: str, model: str) -> tuple[str, ...]:
        """Return the healings that hold for a model, in the order in which they were learned."""
        known = await self._store.get(_key(provider, model))
        return tuple(known.split("\n")) if known else ()

    async def remember(self, provider: str, model: str, healing: str) -> None:
        """Keep one more healing for a week."""
        known = await self.find(provider, model)
        if healing not in known:
            await self._store.put(_key(provider, model), "\n".join((*known, healing)), KEPT_SECONDS)


def _key(provider: str, model: str) -> str:
    return f"healed:{provider}/{model}"
