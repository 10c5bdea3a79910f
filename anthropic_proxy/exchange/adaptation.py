"""Adaptations: changes of an upstream request after the provider rejected it, for the retry and for later requests."""

from collections.abc import Sequence
from contextlib import suppress

from msgspec import structs

from anthropic_proxy.errors import Cause, UnsupportedFeature, UpstreamError
from anthropic_proxy.exchange.encoding import run_for_call
from anthropic_proxy.messages.fidelity import FidelityNote, Handling
from anthropic_proxy.routing.router import Target, switch_wire
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import Adaptation, BaseDialect, Call


class Adaptations:
    """Adaptations that the attempts with one target have used in one exchange."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.notes: list[FidelityNote] = []
        """Notes for the fidelity report."""
        self.lasting: list[str] = []
        """Names of adaptations to store for the model once a request with them succeeds."""

    async def find_adapted_target(self, target: Target, call: Call[BaseDialect], error: UpstreamError) -> Target | None:
        """Return the target with an adaptation for this upstream error, for a retry. None: no adaptation applies."""
        adaptations = await run_for_call(self._services, lambda call: _find_adaptations(target, call, error), call)
        adapted: Target | None = target if adaptations else None
        for adaptation in adaptations:
            adapted = adapted and _apply_adaptation(self._services, adapted, adaptation.name)
        if adapted is None:
            return None
        names, provider = ", ".join(adaptation.name for adaptation in adaptations), target.provider.prefix
        self._services.log.write_once(f"{provider}/{target.model}: {names}, because of: {error.message}")
        handling: Handling = "approximated" if target.is_relayed else "kept"  # the encoder notes any other loss
        self.notes.append(FidelityNote(handling, error.parameter or "", f"{provider} refused it: {names}"))
        self.lasting += [adaptation.name for adaptation in adaptations if adaptation.persistent]
        return adapted

    async def store_for_model(self, target: Target) -> None:
        """Store the used adaptations for later requests to the model.

        Call this after the adapted request has succeeded, which proves that the adaptations are correct.
        """
        for name in self.lasting:
            await self._services.observations.store_adaptation(target.upstream, target.model, name)
        self.lasting.clear()


async def apply_stored_adaptations(services: Services, target: Target) -> Target:
    """Return the target with the adaptations that earlier requests stored for its model."""
    for name in await services.observations.find_adaptations(target.upstream, target.model):
        target = _apply_adaptation(services, target, name) or target
    return target


def _find_adaptations(target: Target, call: Call[BaseDialect], error: UpstreamError) -> Sequence[Adaptation]:
    """Return the adaptations that may help after an upstream error. Those for its `cause` come first."""
    if not target.is_relayed and error.cause is not None and (found := _find_by_cause(target, call, error.cause)):
        return found
    adaptation = target.wire.find_adaptation(call, error)
    return () if adaptation is None else (adaptation,)


def _find_by_cause(target: Target, call: Call[BaseDialect], cause: Cause) -> Sequence[Adaptation]:
    """Return the adaptations for a cause that exist on every wire: a lower output limit, or no images."""
    if cause.kind == "images":
        lasts = cause.certain or not (target.capabilities.known and target.capabilities.accepts_images)
        return [Adaptation(NO_IMAGES, persistent=lasts)] if _has_images(call, target) else []
    requested = call.request.max_tokens
    if cause.max_output is not None and cause.max_output < requested:
        return [Adaptation(f"limit {cause.max_output}")]
    if cause.max_tokens is None or cause.max_tokens >= requested:
        return []
    found = [Adaptation(f"limit {cause.max_tokens}", persistent=False)]
    return found if cause.window is None else [Adaptation(f"window {cause.window}"), *found]


def _has_images(call: Call[BaseDialect], target: Target) -> bool:
    blind = structs.replace(call, request=structs.replace(call.request, accepts_images=False))
    with suppress(UnsupportedFeature):
        return target.wire.encode_request(call).body != target.wire.encode_request(blind).body
    return False


NO_IMAGES, NO_DOCUMENTS = "images none", "documents none"


def _apply_adaptation(services: Services, target: Target, name: str) -> Target | None:
    """Return the target with one adaptation applied. None: the adaptation cannot be applied to this target."""
    verb, _, value = name.partition(" ")
    if verb == "wire":
        return switch_wire(target, value, services.settings)
    facts = target.capabilities
    if verb == "limit" and value.isdecimal():
        return structs.replace(target, capabilities=structs.replace(facts, max_output_from_error=int(value)))
    if verb == "window" and value.isdecimal():
        return structs.replace(target, capabilities=structs.replace(facts, context_window_from_error=int(value)))
    if name == NO_IMAGES:
        return structs.replace(target, capabilities=structs.replace(facts, rejects_images=True))
    if name == NO_DOCUMENTS:
        return structs.replace(target, capabilities=structs.replace(facts, rejects_documents=True))
    return structs.replace(target, dialect=target.wire.apply_adaptation(target.dialect, name))
