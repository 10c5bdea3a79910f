"""What a refusal of one parameter teaches: the same request said otherwise, now and to this model from now on."""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.messages.notes import Fate, Note
from anthropic_proxy.routing.router import Target, speak_otherwise
from anthropic_proxy.wire.contract import Call, heals, relays


async def with_learned(house: House, target: Target) -> Target:
    """Return the target with what earlier refusals taught about its model."""
    if heals(target.wire):
        for name in await house.learned.find(target.provider.name, target.model):
            target = _learn(house, target, name) or target
    return target


async def find_healed(house: House, target: Target, call: Call, error: UpstreamError) -> tuple[Target, Note] | None:
    """Return the target as it can be tried again after a refusal, and what to note; None where the refusal stands."""
    if not heals(target.wire) or (healing := target.wire.find_healing(call, error)) is None:
        return None
    if (healed := _learn(house, target, healing.name)) is None:
        return None
    provider = target.provider.name
    house.log.once(f"{provider}/{target.model}: {healing.name}, because of: {error.message}")
    if healing.lasts:
        await house.learned.remember(provider, target.model, healing.name)
    fate: Fate = "approximated" if relays(target.wire) else "kept"  # what else is lost, the encoder says itself
    return healed, Note(fate, error.parameter or "", f"{provider} refused it: {healing.name}")


def _learn(house: House, target: Target, name: str) -> Target | None:
    """Return the target with one thing learned; None where it is told to speak what it cannot."""
    verb, _, language = name.partition(" ")
    if verb == "wire":
        return speak_otherwise(target, language, house.settings)
    if not heals(target.wire):
        return None
    return structs.replace(target, dialect=target.wire.heal(target.dialect, name))
