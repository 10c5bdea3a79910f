"""A budget in dollars needs the prices of the models in use: who sets or reads one is told before the first refusal."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.unpriced import read_unpriced
from anthropic_proxy.engine.advice import list_texts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from tests.support.command_line import run_command
from tests.support.virtual_keys import Keys, admit, change_team, revoke_key

VARIABLES = {
    "OPENAI_API_KEY": "sk-0123456789",
    "BIG_MODEL": "openai/no-such-model",
    "SMALL_MODEL": "openai/gpt-4.1-mini",
    "VIRTUAL_KEYS": "true",
}
TEXT = (
    "The limits of {} have a budget in dollars, and openai/no-such-model has no known price, so that such requests are "
    'rejected. Add to anthropic-proxy.toml:  [prices."openai/no-such-model"]  with input and output'
)
DOLLARS = Rules(budgets=(decode_budget("5USD/day"),))


def load(database: Settings, **variables: str) -> Settings:
    loaded = load_settings({**VARIABLES, **variables}, PROVIDERS, env_file=None)
    return structs.replace(loaded, data_directory=database.data_directory, database_url=database.database_url)


async def test_keys_and_teams_are_named_at_the_start_and_after_a_change(database: Settings) -> None:
    settings = load(database)
    keys = Keys(settings)
    for label in ("ada", "ben", "cem", "dan"):
        await keys.create(label, rules=DOLLARS)
    revoke_key(keys.administration, "dan")
    for label, budget in {"soft": "5USD/day soft", "other": "5USD/day for gpt-*", "tokens": "5tokens/day"}.items():
        await keys.create(label, rules=Rules(budgets=(decode_budget(budget),)))
    admit(keys.connection, "eve@example.org", **structs.asdict(DOLLARS))
    change_team(keys.administration, "build", {"budgets": DOLLARS.budgets})
    everyone = TEXT.format("the key ada, the key ben, the key cem and 1 more")
    assert list_texts(read_unpriced(settings)) == [everyone]
    started = Keys(settings)
    await started.table.refresh()
    await started.table.refresh()
    assert started.warnings == [everyone]
    revoke_key(keys.administration, "cem")
    await started.table.refresh()
    assert started.warnings[1:] == [TEXT.format("the key ada, the key ben and the team build")]


async def test_new_settings_are_examined_with_the_same_keys(database: Settings) -> None:
    unpriced, priced, warnings = load(database), load(database, BIG_MODEL="openai/gpt-4.1"), list[str]()
    await Keys(unpriced).create("ada", rules=DOLLARS)
    current = [priced]
    table = KeyTable(priced, warnings.append, lambda: current[0])
    for settings in (priced, unpriced, unpriced, priced, unpriced):
        current[0] = settings
        assert await table.refresh()
    assert warnings == [TEXT.format("the key ada")] * 2


async def test_a_defect_of_the_prices_is_no_outage_of_the_database(database: Settings) -> None:
    settings, warnings = load(database), list[str]()
    await Keys(settings).create("ada", rules=DOLLARS)
    current = [structs.replace(settings, prices=None)]
    table = KeyTable(settings, warnings.append, lambda: current[0])
    assert await table.refresh()
    assert await table.refresh()
    (warning,) = warnings
    assert warning.startswith("The prices for the budgets of keys and teams cannot be examined: ")
    current[0] = settings
    assert await table.refresh()
    assert warnings[1:] == [TEXT.format("the key ada")]


@pytest.mark.parametrize("variables", [{"BIG_MODEL": "openai/gpt-4.1"}, {"VIRTUAL_KEYS": "false"}])
async def test_nothing_is_wrong_with_known_prices_or_without_keys(
    database: Settings, variables: Mapping[str, str]
) -> None:
    settings = load(database, **variables)
    await Keys(settings).create("ada", rules=DOLLARS)
    assert not read_unpriced(settings)


def test_a_database_that_cannot_be_read_is_no_problem_of_prices(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in place of the directory")
    assert not read_unpriced(structs.replace(load(Settings()), data_directory=tmp_path / "data"))


def test_the_commands_tell_who_sets_such_a_budget(tmp_path: Path) -> None:
    for words, subject in (
        (("create", "ci", "--budget", "5USD/day"), "the key ci"),
        (("change", "ci", "--budget", "6USD/day"), "the key ci"),
        (("team", "build", "--budget", "5USD/day"), "the team build"),
    ):
        done = run_command("keys", *words, directory=tmp_path, settings=VARIABLES)
        assert done.returncode == 0
        assert done.stderr.splitlines()[-1] == f"  ! {TEXT.format(subject)}"
