"""Keys and teams whose budgets in dollars reject a model in use, because its price is unknown."""

from collections.abc import Iterable, Sequence
from contextlib import closing

from anthropic_proxy.console.keys.queries import list_keys, list_teams
from anthropic_proxy.console.keys.rights import is_of_person
from anthropic_proxy.console.keys.virtual_keys import Team, VirtualKey
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, open_for_reading
from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.problems import find_price_problems
from anthropic_proxy.gateway.settings import Settings


def find_unpriced(settings: Settings, keys: Iterable[VirtualKey], teams: Iterable[Team]) -> Sequence[Problem]:
    """Return one problem for the keys and teams with the same models. The budgets of tables are problems of these."""
    valid = [key for key in keys if key.revoked_at is None and not _is_of_table(key)]
    rules = {f"the key {key.label}": key.rules for key in sorted(valid, key=lambda key: key.label)}
    rules |= {f"the team {team.name}": team.rules for team in teams}
    return find_price_problems(settings, Catalog(), rules)


def read_unpriced(settings: Settings) -> Sequence[Problem]:
    """Return the problems of all keys and teams. Empty without virtual keys, or if the database cannot be read."""
    try:
        if not settings.virtual_keys:
            return ()
        with closing(open_for_reading(settings)) as connection:
            return find_unpriced(settings, list_keys(connection), list_teams(connection))
    except (*LEDGER_FAILURES, ImportError):
        return ()


def _is_of_table(key: VirtualKey) -> bool:
    return is_of_person(key) and "budgets" not in key.exceptions
