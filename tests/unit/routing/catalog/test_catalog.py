import asyncio
from collections.abc import Callable, Sequence
from datetime import date

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import FIRST_LIMITS_TIMEOUT_SECONDS, Catalog, LearnedModel
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from tests.support.interleaving import interleave

LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize("row", PROVIDERS, ids=lambda row: row.name)
def test_every_known_model_is_in_the_table_and_makes_sense(row):
    catalogue = Catalog()
    for model in row.known_models:
        if model in row.non_chat_models or row.transport == "demo" or row.name == "ollama":
            continue
        facts = catalogue.cached_capabilities(row.name, model)
        assert facts.known, model
        assert 0 < facts.max_output <= facts.context_window
        assert [level for level in LEVELS if level in facts.efforts] == list(facts.efforts)
        assert facts.default_effort is None or facts.default_effort in facts.efforts


def test_names_in_any_case_and_found_again_are_the_same():
    catalogue = Catalog()
    assert catalogue.cached_capabilities("openai", "GPT-4.1") == catalogue.cached_capabilities("openai", "gpt-4.1")
    assert catalogue.cached_capabilities("openai", "gpt-4.1") is catalogue.cached_capabilities("openai", "gpt-4.1")


class _Ollama:
    """Model list of a provider that reports a context window of 8192 tokens."""

    async def list_models(self) -> Sequence[str] | None:
        return None

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        return ModelCapabilities(context_window=8192)

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        return ModelCapabilities(context_window=4096)


def test_the_capabilities_that_a_server_reports_are_not_replaced_by_the_table() -> None:
    def build() -> tuple[Callable[[], int], Callable[[], None]]:
        catalog = Catalog(sources={"ollama": _Ollama()})

        def read() -> int:
            catalog.cached_capabilities("ollama", "qwen3")
            return 0

        def report() -> None:
            asyncio.run(_fetch(catalog))
            catalogs.append(catalog)

        return read, report

    catalogs: list[Catalog] = []
    assert len(interleave(build)) > 10
    windows = [catalog.cached_capabilities("ollama", "qwen3").context_window for catalog in catalogs]
    assert set(windows) == {8192}


async def _fetch(catalog: Catalog) -> None:
    await catalog.fetch_capabilities("ollama", "qwen3")
    await catalog.close()


async def test_only_the_first_client_waits_for_a_list_that_hangs() -> None:
    seconds, ended, queries = [0.0], asyncio.Event(), list[str]()

    async def query() -> None:
        queries.append("list")
        await ended.wait()

    async def fetch(turns: int) -> bool:
        task = asyncio.create_task(catalog.fetch_capabilities("acme", "m"))
        for _ in range(turns):
            await asyncio.sleep(0)
        return task.done() or not task.cancel()

    catalog = Catalog(limit_queries={"acme": query}, clock=lambda: seconds[0])
    catalog.start_due_queries("acme", "m")
    seconds[0] = FIRST_LIMITS_TIMEOUT_SECONDS - 0.01
    await catalog.fetch_capabilities("acme", "m")
    ended.set()
    assert await fetch(10)  # the query has ended without a list
    ended.clear()
    seconds[0] = 1_000
    assert await fetch(10)  # the next query hangs too
    assert queries == ["list", "list"]
    await catalog.close()


async def test_the_newest_list_replaces_the_limits_of_the_list_before() -> None:
    replies: list[dict[str, int | None] | None] = [
        {"removed": 1_000, "unloaded": 2_000, "changed": 3_000},
        {"unloaded": None, "changed": 4_000},
        None,  # no reply
        {},
    ]
    seconds, found = [0.0], list[tuple[list[str], list[int | None]]]()

    async def query() -> list[LearnedModel] | None:
        reply = replies[len(found)]
        return None if reply is None else [_listed(model, window) for model, window in reply.items()]

    async def query_other() -> list[LearnedModel] | None:
        return [_listed("own", 5_000, "other host")]

    catalog = Catalog(limit_queries={"acme": query, "other": query_other}, clock=lambda: seconds[0])
    await catalog.fetch_capabilities("other", "own")
    for _ in replies:
        seconds[0] += 1_000
        await catalog.fetch_capabilities("acme", "changed")
        await asyncio.gather(*catalog._queries.values())
        observed = [catalog.find_observed_model("acme host", model) for model in ("removed", "unloaded", "changed")]
        windows = [None if one is None else one.context_window for one in observed]
        found.append((catalog.list_reported_models("acme host"), windows))
    later = (["unloaded", "changed"], [None, 2_000, 4_000])  # a model has a window while it is loaded
    assert found == [(["removed", "unloaded", "changed"], [1_000, 2_000, 3_000]), later, later, ([], [None] * 3)]
    assert catalog.list_reported_models("other host") == ["own"]


def _listed(model: str, window: int | None, server: str = "acme host") -> LearnedModel:
    return LearnedModel(
        server=server, model=model, observed_on=date(2026, 11, 26), evidence="a list", context_window=window
    )
