"""Facts that the doctor has observed: their file, and their effect on routes and limits."""

import json
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest

from anthropic_proxy.engine.platforms import files
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import (
    LEARNED_FILE_NAME,
    LEARNED_MAX_AGE_DAYS,
    Catalog,
    LearnedModel,
    load_learned_models,
    store_learned_models,
)
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.gateway.settings import load_settings
from tests.support.waiting import WAIT_SECONDS, wait_for

TODAY = date(2026, 11, 21)


class WaitForRelease:
    """Clock of a lock. Its time does not advance, and its pause ends when the test has released the lock."""

    def __init__(self) -> None:
        self.is_waiting, self.is_released = threading.Event(), threading.Event()

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.is_waiting.set()
        self.is_released.wait(WAIT_SECONDS)


def learned(model: str = "my-model", days: int = 0, **facts: object) -> LearnedModel:
    observed_on = TODAY - timedelta(days=days)
    return LearnedModel(server="openai localhost", model=model, observed_on=observed_on, evidence="e", **facts)  # type: ignore[arg-type]


def test_later_facts_about_a_model_replace_earlier_ones(tmp_path: Path) -> None:
    store_learned_models(tmp_path, [learned("a", 3, context_window=10), learned("b", 3)], TODAY)
    store_learned_models(tmp_path, [learned("a", context_window=20)], TODAY)
    found, warnings = load_learned_models(tmp_path, TODAY)
    assert {name: one.context_window for (_, name), one in found.items()} == {"a": 20, "b": None}
    assert (list(warnings), [path.name for path in tmp_path.glob(f"*{LEARNED_FILE_NAME}*")]) == (
        [],
        [LEARNED_FILE_NAME],
    )


def test_old_facts_are_ignored_with_a_warning(tmp_path: Path) -> None:
    file = store_learned_models(tmp_path, [learned("old", LEARNED_MAX_AGE_DAYS), learned("new")], TODAY)
    found, warnings = load_learned_models(tmp_path, TODAY + timedelta(days=1))
    assert [model for _, model in found] == ["new"]
    assert list(warnings) == [
        f"{file} has facts about 1 model, which is ignored because they are older than 90 days. "
        "Run  anthropic-proxy doctor  to write it again."
    ]


def test_an_invalid_file_is_ignored_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / LEARNED_FILE_NAME
    file.write_text('{"version": 1, "models": [{"model": 3}]}')
    assert load_learned_models(tmp_path, TODAY) == (
        {},
        (
            f"{file} is not valid and is ignored (Expected `str`, got `int` - at `$.models[0].model`). "
            "Run  anthropic-proxy doctor  to write it again.",
        ),
    )
    file.write_text(json.dumps({"version": 2, "models": []}))
    assert load_learned_models(tmp_path, TODAY)[1] == (
        f"{file} has the version 2 and is ignored. Run  anthropic-proxy doctor  to write it again.",
    )
    assert load_learned_models(tmp_path / "absent", TODAY) == load_learned_models(None, TODAY) == ({}, ())


def test_observed_values_replace_those_of_the_table() -> None:
    table = ModelCapabilities(context_window=128_000, max_output=16_384, accepts_images=True, known=True)
    facts = learned(context_window=32_768, accepts_images=False, efforts=("low",)).apply(table)
    assert (facts.context_window, facts.max_output, facts.efforts) == (32_768, 16_384, ("low",))
    assert (facts.accepts_images, facts.rejects_images) == (False, True)


def test_an_unknown_model_becomes_known_by_its_window() -> None:
    facts = learned(context_window=32_768).apply(ModelCapabilities())
    assert (facts.known, facts.max_output, facts.accepts_images) == (True, None, True)
    assert learned(max_output=500).apply(ModelCapabilities()).max_output_from_error == 500


@pytest.mark.parametrize(
    ("variable", "place", "model"),
    [
        ("AWS_REGION", "eu-west-1", "bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("VERTEX_LOCATION", "europe-west1", "vertex/gemini-2.5-pro"),
        ("ANTHROPIC_FOUNDRY_RESOURCE", "team", "foundry/claude-sonnet-4-5"),
    ],
)
def test_facts_about_models_of_a_cloud_apply_in_their_region_or_resource(variable: str, place: str, model: str) -> None:
    settings = load_settings({variable: place, "VERTEX_PROJECT": "p"}, PROVIDERS, env_file=None)
    catalog = Catalog()
    (target,) = build_plan(RoutingQuery(model), settings, catalog).targets
    facts = LearnedModel(
        server=target.upstream, model=target.model, observed_on=TODAY, evidence="e", context_window=32_768
    )
    catalog.replace_learned_models({(facts.server, facts.model): facts})
    (target,) = build_plan(RoutingQuery(model), settings, catalog).targets
    assert target.capabilities.context_window == 32_768


def test_simultaneous_runs_keep_the_facts_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WaitForRelease()
    monkeypatch.setattr(files, "time", clock)
    run = threading.Thread(target=store_learned_models, args=(tmp_path, [learned("a")], TODAY))
    other_file = store_learned_models(tmp_path / "other", [learned("b")], TODAY)
    try:
        with files.locked_folder(tmp_path):
            run.start()
            wait_for(lambda: clock.is_waiting.is_set() or not run.is_alive())
            other_file.replace(tmp_path / LEARNED_FILE_NAME)
    finally:
        clock.is_released.set()
        run.join()
    found, _ = load_learned_models(tmp_path, TODAY)
    assert sorted(model for _, model in found) == ["a", "b"]
