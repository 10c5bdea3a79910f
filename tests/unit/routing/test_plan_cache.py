"""The cache of routes never keeps a route for other model lists than the present ones."""

import asyncio
from collections.abc import Callable, Sequence

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.router import PlanCache, RoutingQuery
from anthropic_proxy.gateway.settings import load_settings
from tests.support.interleaving import interleave

_QUERY = RoutingQuery("claude-opus-5-5")


class _Listing:
    """Model list of a server that has one model, `new`."""

    async def list_models(self) -> Sequence[str] | None:
        return ["new"]

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        return None

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        return capabilities


def test_a_route_of_an_earlier_model_list_is_not_cached_for_the_present_one() -> None:
    settings = load_settings({"PREFERRED_PROVIDER": "ollama"}, PROVIDERS, env_file=None)

    def build() -> tuple[Callable[[], str], Callable[[], None]]:
        cache, catalog = PlanCache(), Catalog({"ollama": ("old",)}, {"ollama": _Listing()})

        def find() -> str:
            return cache.find_plan(_QUERY, settings, catalog).targets[0].model

        def change() -> None:
            asyncio.run(catalog.refresh_listing("ollama"))
            cache.find_plan(RoutingQuery("claude-haiku-5"), settings, catalog)

        cached.append(find)
        return find, change

    cached: list[Callable[[], str]] = []
    assert set(interleave(build)) == {"old", "new"}
    assert {find() for find in cached[:-1]} == {"new"}
