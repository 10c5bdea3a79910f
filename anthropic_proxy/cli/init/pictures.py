"""The question of `init` about pictures: another model describes them if the chosen one does not see."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from anthropic_proxy.cli.init.answers import ChosenProvider, Session
from anthropic_proxy.cli.init.models import find_offered_models
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target, sees
from anthropic_proxy.errors import ClientError
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings


def choose_describing_model(session: Session, backend: ChosenProvider, models: Mapping[str, str]) -> str:
    """Return the model that is to describe pictures, with its prefix. "": none, because the chosen models see, no known
    one does, one is set already, or the user wants none.

    `models`: variable → chosen model. Only a person is asked, because each picture costs a call of that model.
    """
    if session.settings.images is not None:
        return ""
    chosen = [target for name in models.values() if (target := _find_target(name, backend.settings)) is not None]
    blind = next((target.model for target in chosen if not sees(target)), "")
    candidate = next(_list_seeing_models(session, backend), "") if blind else ""
    if not candidate:
        return ""
    asks = session.questions
    if asks is None or not asks.has_person:
        session.warn(
            f"{blind} does not see, so pictures are left out. To have them described, add to {CONFIG_FILE}:  [images] "
            f'with model = "{candidate}"'
        )
        return ""
    question = f"{blind} does not see. Let {candidate} describe pictures for it, one call for each?"
    return candidate if asks.confirm(question, default=True, instead="--yes") else ""


def _list_seeing_models(session: Session, backend: ChosenProvider) -> Iterator[str]:
    """Yield the models that are known to see: small ones first, of the chosen provider, then of others with a key."""
    offered = find_offered_models(backend)
    own = backend.provider
    names = [name for name in (own.default_small_model, own.default_big_model) if name in offered]
    for name in (*names, *offered):
        if _is_known_to_see(f"{own.prefix}/{name}", backend.settings):
            yield f"{own.prefix}/{name}"
    for provider in find_registry(session.settings):
        if provider is not own and session.settings.keys.get(provider.name):
            for default in filter(None, (provider.default_small_model, provider.default_big_model)):
                if _is_known_to_see(f"{provider.prefix}/{default}", session.settings):
                    yield f"{provider.prefix}/{default}"


def _is_known_to_see(model: str, settings: Settings) -> bool:
    target = _find_target(model, settings)
    return target is not None and target.capabilities.accepts_images and sees(target)


def _find_target(model: str, settings: Settings) -> Target | None:
    with suppress(ClientError):
        return build_plan(RoutingQuery(model), settings, Catalog()).targets[0]
    return None
