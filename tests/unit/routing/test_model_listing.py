"""The list of models: what is asked for repeatedly is made once, and the rest not before it is asked for."""

from datetime import date
from typing import Any

import pytest

from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog, LearnedModel
from anthropic_proxy.engine.providers.hosts import find_server_name
from anthropic_proxy.engine.routing import model_listing
from anthropic_proxy.gateway.settings import Settings
from tests.growth import work
from tests.growth.instrument import copy_counting
from tests.support.harness import load_variables

DAY = date(2026, 11, 30)
counting: Any = copy_counting(model_listing)


def read_settings(key: str = "sk-0123456789") -> Settings:
    return load_variables({"OPENAI_API_KEY": key, "OPENAI_BASE_URL": "http://localhost:1/v1"})


def report(number: int, window: int) -> LearnedModel:
    settings = read_settings()
    server = find_server_name(find_registry(settings).find("openai"), settings)
    return LearnedModel(
        server=server, model=f"model-{number}", observed_on=DAY, evidence="its list", context_window=window
    )


async def fetch_list(count: int) -> Catalog:
    """Return a catalog with what the server has listed: `count` models."""

    async def query() -> list[LearnedModel]:
        return [report(number, 50_000) for number in range(count)]

    catalog = Catalog(limit_queries={"openai": query})
    await catalog.fetch_capabilities("openai", "")
    return catalog


async def count_page(count: int) -> tuple[int, int]:
    """Return how many models are listed, and the steps of a second request for the first of them."""
    settings, catalog = read_settings(), await fetch_list(count)
    for _ in range(2):
        steps = work.METER[work.STEPS]
        listed = counting.open_model_list(settings, catalog, DAY)
        page = listed.describe_all(listed.ids[:20])
        steps = work.METER[work.STEPS] - steps
    assert [entry.id for entry in page] == listed.ids[:20]
    return len(listed.ids), steps


async def test_the_work_of_a_page_does_not_depend_on_the_length_of_the_list() -> None:
    short, long = await count_page(40), await count_page(2_000)
    assert long[0] - short[0] == 1_960
    assert long[1] == short[1]


async def test_a_page_describes_its_own_models_only() -> None:
    catalog = await fetch_list(2_000)
    works = list[int]()
    for size in (20, 2_000):
        steps = work.METER[work.STEPS]
        listed = counting.open_model_list(read_settings(str(size)), catalog, DAY)
        listed.describe_all(listed.ids[:size])
        works.append(work.METER[work.STEPS] - steps)
    assert works[0] < works[1] / 2


@pytest.mark.parametrize("changes", ["a model", "the day", "the settings"])
async def test_the_list_is_that_of_the_latest_settings_catalog_and_day(changes: str) -> None:
    settings, catalog = read_settings(), await fetch_list(2)
    known = model_listing.open_model_list(settings, catalog, DAY)
    assert model_listing.open_model_list(settings, catalog, DAY) is known
    day = DAY
    if changes == "a model":
        facts = report(1, 9_000)
        catalog.replace_learned_models({(facts.server, facts.model): facts})
    elif changes == "the day":
        day = date(2026, 12, 1)
    else:
        settings = read_settings("sk-1")
    listed = model_listing.open_model_list(settings, catalog, day)
    assert listed is not known
    entry = listed.describe("claude-openai/model-1")
    assert entry is not None
    assert entry.max_input_tokens == (9_000 if changes == "a model" else 50_000)
