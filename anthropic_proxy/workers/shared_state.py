"""Facts for routing that all workers share through the hub: facts about models, API keys in cooldown, open circuits.

`register_publisher` makes a worker send each new fact as a `SharedObservation`. `apply_observation` applies it in the
other workers.
"""

import hashlib
from collections.abc import Callable, Sequence

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings
from anthropic_proxy.stores.memory import MemoryStore
from anthropic_proxy.workers.ipc import SharedObservation

MODEL_OBSERVATION, KEY_COOLDOWN, CIRCUIT_STATE = "model", "key", "upstream"
"""Values of `SharedObservation.kind`: a learned fact about a model, a provider API key in cooldown (skipped for a
time), and a circuit that blocks or permits calls to a provider address."""
_DIGEST_BYTES = 16


def register_publisher(services: Services, publish: Callable[[SharedObservation], None]) -> None:
    """Make `services` call `publish` for observed facts, such as key cooldowns and changes of circuits.

    The messages contain digests of API keys, not the keys.
    """
    addresses, upstreams = _settings_digests(services.settings)
    # A shared store needs no messages.
    if isinstance(store := services.observations.store, MemoryStore):
        store.on_put = lambda key, value, seconds: publish(
            SharedObservation(MODEL_OBSERVATION, addresses, key, value, seconds)
        )
    services.credentials.on_cooldown = lambda key, seconds: publish(
        SharedObservation(KEY_COOLDOWN, "", _digest(key), "", seconds)
    )
    services.circuit_breakers.on_change = lambda upstream, failure, seconds: publish(
        SharedObservation(CIRCUIT_STATE, upstreams, upstream, failure, seconds)
    )


def apply_observation(services: Services, observation: SharedObservation) -> None:
    """Apply a fact that another worker has observed, such as a key in cooldown, to `services`.

    A fact about a model or a circuit is ignored if it was observed with other provider settings.
    """
    addresses, upstreams = _settings_digests(services.settings)
    if (
        observation.kind == MODEL_OBSERVATION
        and observation.settings_digest == addresses
        and isinstance(store := services.observations.store, MemoryStore)
    ):
        store.put_from_peer(observation.name, observation.value, observation.lifetime_seconds)
    elif observation.kind == KEY_COOLDOWN:
        for key in (key.reveal() for keys in services.settings.keys.values() for key in keys):
            if _digest(key) == observation.name:
                services.credentials.start_cooldown(key, observation.lifetime_seconds)
    elif observation.kind == CIRCUIT_STATE and observation.settings_digest == upstreams:
        if observation.lifetime_seconds <= 0:
            services.circuit_breakers.close_circuit_from_peer(observation.name)
        else:
            services.circuit_breakers.open_circuit_from_peer(
                observation.name, _decode_failure(observation), observation.lifetime_seconds
            )


def _settings_digests(settings: Settings) -> Sequence[str]:
    """Return the `settings_digest` of model observations, and that of circuit states.

    The first is a digest of the provider addresses and wires. The second is a digest of addresses, wires and API keys.
    """
    tables = [table.json_text for table in settings.configured_providers]
    addresses = sorted(settings.base_urls.items()), sorted(settings.wires.items()), tables
    keys = sorted((name, [key.reveal() for key in keys]) for name, keys in settings.keys.items())
    return _digest(repr(addresses)), _digest(repr((addresses, keys)))


def _digest(text: str) -> str:
    """Return a hexadecimal digest of a text, so that messages contain no API keys and settings."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _decode_failure(observation: SharedObservation) -> UpstreamError:
    """Return the failure that opened a circuit in another worker, with a message composed by this process.

    Workers do not share the provider's own message, because it may contain an API key.
    """
    provider, (status, kind) = observation.name.partition(" ")[0], observation.value.split(" ", 1)
    return UpstreamError(f"{provider} failed with status {status}.", provider=provider, status=int(status), kind=kind)
