"""A user whom the identity provider has described becomes a person: the one step of each sign-in and refresh."""

from collections.abc import Callable, Mapping
from typing import Any

from anthropic_proxy.console.identity.people import OidcUser, UserRefused, list_named_groups
from anthropic_proxy.console.keys.administration import KeyAdministration, KeyOutcome
from anthropic_proxy.console.keys.table_rules import list_person_fields
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings


def admit_person(
    administration: KeyAdministration,
    settings: Settings,
    user: OidcUser,
    require_access: Callable[[Settings, OidcUser], object],
    *,
    stated_at: float,
    complete: Callable[[OidcUser], OidcUser] | None = None,
    dry_run: bool = False,
) -> KeyOutcome:
    """Create or change the key of the person by the table of its group. Without a table, its rules are those that an
    administrator has set. `require_access`: `require_group` or `require_role`. `stated_at`, `complete`: as those of
    `admit_user`. Raises `UserRefused`.
    """

    def find_fields(named: OidcUser) -> Mapping[str, Any]:
        require_access(settings, named)
        return list_person_fields(settings, named)

    try:
        return administration.admit_user(
            user,
            find_fields,
            stated_at=stated_at,
            complete=complete,
            named_groups=list_named_groups(settings),
            dry_run=dry_run,
        )
    except InvalidRequest as error:
        raise UserRefused(error.message_without_remedy, remedy=error.remedy, wish=error.wish) from None
