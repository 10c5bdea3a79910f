"""Observations from the replies of a model: rejected parameters and token counts."""

from anthropic_proxy.plugins import Store

RETENTION_SECONDS = 7 * 24 * 3600.0
"""Retention of an observation. Afterwards, a rejected parameter is sent again."""
MIN_SCALE, MAX_SCALE = 0.7, 1.6
"""Limits of a plausible scale. Counts beyond them result from a preamble of the provider or an error."""
MIN_RECORDED_TOKENS = 1_000
"""Smaller requests are ignored, because a preamble of the provider dominates their count."""
_REPLACING_VERBS = frozenset(("limit", "window"))
"""First words of adaptations that replace an earlier one with the same first word."""
_SMOOTHING_FACTOR = 0.25
"""Weight of the latest reply in the moving average."""


class ModelObservations:
    """Adaptations and token scales by provider and model, in `store`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def find_adaptations(self, provider: str, model: str) -> tuple[str, ...]:
        """Return the adaptations of a model, oldest first."""
        known = await self.store.get(_key(provider, model))
        return tuple(known.split("\n")) if known else ()

    async def store_adaptation(self, provider: str, model: str, adaptation: str) -> None:
        """Store an adaptation for `RETENTION_SECONDS`."""
        known = await self.find_adaptations(provider, model)
        if adaptation in known:
            return
        verb = adaptation.partition(" ")[0]
        kept = [name for name in known if verb not in _REPLACING_VERBS or name.partition(" ")[0] != verb]
        await self.store.put(_key(provider, model), "\n".join((*kept, adaptation)), RETENTION_SECONDS)

    async def token_scale(self, provider: str, model: str) -> float:
        """Return the factor from estimated to real tokens of a model. 1.0: unknown."""
        known = await self.store.get(_scale_key(provider, model))
        return float(known) if known else 1.0

    async def record_token_count(self, provider: str, model: str, estimated: int, counted: int) -> None:
        """Record the input tokens of a request: estimated without scale, and counted by the provider."""
        if estimated < MIN_RECORDED_TOKENS or counted <= 0:
            return
        key, scale = _scale_key(provider, model), min(max(counted / estimated, MIN_SCALE), MAX_SCALE)
        known = await self.store.get(key)
        if known:
            scale = float(known) * (1 - _SMOOTHING_FACTOR) + scale * _SMOOTHING_FACTOR
        await self.store.put(key, f"{scale:.4f}", RETENTION_SECONDS)


def _scale_key(provider: str, model: str) -> str:
    return f"scale:{provider}/{model}"


def _key(provider: str, model: str) -> str:
    return f"healed:{provider}/{model}"
