"""What one worker learns and the others should know: lessons of models, keys that rest, upstreams left alone."""

import hashlib
from collections.abc import Callable, Sequence

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.routing.store import MemoryStore
from anthropic_proxy.server.channel import Fact
from anthropic_proxy.settings import Settings

LESSON, KEY, UPSTREAM = "lesson", "key", "upstream"
_DIGEST_BYTES = 16


def share(house: House, tell: Callable[[Fact], None]) -> None:
    """Tell others whatever this house learns from now on."""
    addresses, upstreams = _scopes(house.settings)
    if isinstance(store := house.learned.store, MemoryStore):
        store.told = lambda key, value, seconds: tell(Fact(LESSON, addresses, key, value, seconds))
    house.credentials.told = lambda key, seconds: tell(Fact(KEY, "", _digest(key), "", seconds))
    house.breakers.told = lambda upstream, failure, seconds: tell(Fact(UPSTREAM, upstreams, upstream, failure, seconds))


def take(house: House, fact: Fact) -> None:
    """Know what another worker has learned, if it is true for these settings too."""
    addresses, upstreams = _scopes(house.settings)
    if fact.kind == LESSON and fact.scope == addresses and isinstance(store := house.learned.store, MemoryStore):
        store.keep(fact.name, fact.value, fact.seconds)
    elif fact.kind == KEY:
        for key in (key.reveal() for keys in house.settings.keys.values() for key in keys):
            if _digest(key) == fact.name:
                house.credentials.rest(key, fact.seconds)
    elif fact.kind == UPSTREAM and fact.scope == upstreams:
        if fact.seconds <= 0:
            house.breakers.forgive(fact.name)
        else:
            house.breakers.leave_alone(fact.name, _failure_of(fact), fact.seconds)


def _scopes(settings: Settings) -> Sequence[str]:
    """Return which addresses, and which addresses with which keys, something was learned of."""
    addresses = sorted(settings.base_urls.items()), sorted(settings.wires.items())
    keys = sorted((name, [key.reveal() for key in keys]) for name, keys in settings.keys.items())
    return _digest(repr(addresses)), _digest(repr((addresses, keys)))


def _digest(text: str) -> str:
    """Return what stands for a key among processes: it is told to nobody, not even there."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _failure_of(fact: Fact) -> UpstreamError:
    """Return the failure in words of our own: the provider's were not told, because a key may stand in them."""
    provider, (status, kind) = fact.name.partition(" ")[0], fact.value.split(" ", 1)
    return UpstreamError(f"{provider} failed with status {status}.", provider=provider, status=int(status), kind=kind)
