"""What replies taught about a model: parameters that it refuses, and how its tokens differ from our estimate."""

from anthropic_proxy.hooks import Store

KEPT_SECONDS = 7 * 24 * 3600.0
"""A model that learns to take a parameter is asked again after this long."""
LEAST_SCALE, MOST_SCALE = 0.7, 1.6
"""Beyond these a count says more about the provider's own preamble, or a mistake, than about the model's tokens."""
LEAST_TOKENS = 1_000
"""Smaller requests teach nothing: what a provider puts before them weighs too much."""
_SHARE = 0.25
"""What the last reply counts for."""


class Learned:
    """Remembers healings by provider and model, in whatever store the house has."""

    def __init__(self, store: Store) -> None:
        self.store = store
        """Where it is kept."""

    async def find(self, provider: str, model: str) -> tuple[str, ...]:
        """Return the healings that hold for a model, in the order in which they were learned."""
        known = await self.store.get(_key(provider, model))
        return tuple(known.split("\n")) if known else ()

    async def remember(self, provider: str, model: str, healing: str) -> None:
        """Keep one more healing for a week."""
        known = await self.find(provider, model)
        if healing not in known:
            await self.store.put(_key(provider, model), "\n".join((*known, healing)), KEPT_SECONDS)

    async def find_scale(self, provider: str, model: str) -> float:
        """Return what our estimate of a request is multiplied with, to be what this model counts; 1.0: not known."""
        known = await self.store.get(_scale_key(provider, model))
        return float(known) if known else 1.0

    async def compare(self, provider: str, model: str, estimated: int, counted: int) -> None:
        """Take note of a request's input tokens, as estimated without any scale and as the provider counted them."""
        if estimated < LEAST_TOKENS or counted <= 0:
            return
        key, scale = _scale_key(provider, model), min(max(counted / estimated, LEAST_SCALE), MOST_SCALE)
        known = await self.store.get(key)
        if known:
            scale = float(known) * (1 - _SHARE) + scale * _SHARE
        await self.store.put(key, f"{scale:.4f}", KEPT_SECONDS)


def _scale_key(provider: str, model: str) -> str:
    return f"scale:{provider}/{model}"


def _key(provider: str, model: str) -> str:
    return f"healed:{provider}/{model}"
