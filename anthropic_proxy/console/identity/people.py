"""Users of an identity provider: which are accepted, and what the settings give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.errors import join_with_or, replace_remedy
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup
from anthropic_proxy.gateway.settings.key_rules import is_name
from anthropic_proxy.gateway.settings.sign_in_tables import EVERYBODY

RETRY = "Sign in again."
CHECK_CLIENT = "An administrator should compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET with the identity provider."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."
_GOOGLE = "https://accounts.google.com"
_GOOGLE_DOMAINS = ("gmail.com", "googlemail.com")
_MAX_EMAIL_CHARACTERS = 254
"""RFC 5321, section 4.5.3.1.3."""
_MAX_NAME_CHARACTERS = 128
_MAX_SUBJECT_CHARACTERS = 255
"""OpenID Connect Core 1.0, section 2."""


class OidcError(Exception):
    """Exception: a sign-in with the identity provider failed or was rejected. No text has a token.

    The user reads `describe_to_people`; the log and administrators read `message`.
    """

    def __init__(self, cause: str, *, remedy: str = "", wish: str = "", status: int = 403) -> None:
        """`remedy`, `wish`: as those of `ProxyError`."""
        self.cause = cause
        self.remedy = remedy
        self.wish = wish
        self.message = f"{cause} {remedy}" if remedy else cause
        super().__init__(self.message)
        self.status = status
        """HTTP status of the page: 403; 502 for a failure of the provider, 503 for one of the database."""

    @property
    def passes(self) -> bool:
        """True: the user may be accepted a moment later."""
        return self.status >= 500

    def describe_to_people(self, contact: str) -> str:
        """`contact`: that of `[sign_in]`."""
        return replace_remedy(self.message, self.remedy, self.wish, contact)


class UserRefused(OidcError):
    """Exception: the settings do not accept this user of the identity provider."""


class OidcUser(Struct, frozen=True, omit_defaults=True):
    issuer: str
    """Value of `OIDC_ISSUER` at the sign-in. The session ends if the setting has another value."""
    client_id: str
    subject: str
    email: str
    groups: tuple[str, ...] = ()
    """Groups of the user that the settings name, from the claim with the roles."""
    name: str = ""
    """Name of the user. "": the identity provider sent none."""
    has_group_claim: bool = True
    """False: the identity provider sent no claim with groups or roles."""
    label: str = ""
    """Name of the person in the settings and in lists: `ann@example.org (2)`. "": the address, which is the name of the
    first person with it."""
    cost_center: str = ""
    """Cost center by the claim or by SCIM. "": none."""

    @property
    def unique_name(self) -> str:
        return self.label or self.email


def accept_user(settings: Settings, claims: Mapping[str, Any], known: OidcUser | None = None) -> OidcUser:
    """Return the user that `claims` describe. `known`: the same user as at the last time; a refresh may state less than
    a sign-in. Raises `UserRefused` if the user has no accepted e-mail address.
    """
    provider = require_provider(settings)
    has_address = claims.get(provider.email_claim) is not None
    has_groups = find_claim(claims, provider.role_claim) is not None
    email = known.email if known is not None and not has_address else _accept_address(provider, claims)
    subject = _accept_subject(claims, email) if known is None else known.subject
    stated = find_claim_texts(claims, provider.role_claim)
    used = list_named_groups(settings)
    if (
        not stated
        and _has_too_many_groups(provider, claims)
        and any("@" not in group and group != EVERYBODY for group in used)
    ):
        raise UserRefused(
            f"The identity provider sent no groups of {email}, because the user has too many (claim _claim_names).",
            remedy="An administrator should let Microsoft Entra ID send only the groups that are assigned to the "
            'application, or use app roles with role_claim = "roles" of [sign_in].',
            wish="access",
        )
    groups = tuple(name for name in dict.fromkeys(stated) if name in used and "@" not in name)
    # many providers leave out an empty claim; an answer without an address only confirms the access
    if known is not None and not has_groups and (provider.absent_groups == "keep" or not has_address):
        groups = known.groups
        has_groups = known.has_group_claim
    name = claims.get("name")
    shown = name[:_MAX_NAME_CHARACTERS] if isinstance(name, str) and name.isprintable() else ""
    if known is not None and name is None:
        shown = known.name
    identity = (provider.issuer, provider.client_id, subject, email.lower())
    cost_center = _find_cost_center(provider, claims, known)
    user = OidcUser(*identity, groups, shown, has_group_claim=has_groups, cost_center=cost_center)
    if not _has_domain(provider, user.email):
        raise UserRefused(
            f"The domain of {email} is not accepted.",
            remedy="domains of [sign_in] lists the accepted ones.",
            wish="access",
        )
    return user


def states_facts(settings: Settings, claims: Mapping[str, Any]) -> bool:
    """Return False for an answer to a refresh that only confirms the access."""
    provider = require_provider(settings)
    paths = (provider.email_claim, provider.role_claim, "name", provider.cost_center_claim)
    return any(find_claim(claims, path) is not None for path in paths if path)


def _accept_address(provider: OidcSettings, claims: Mapping[str, Any]) -> str:
    """Raises `UserRefused`."""
    email = claims.get(provider.email_claim)
    if not isinstance(email, str) or not email:
        raise UserRefused(
            f"The identity provider sent no e-mail address (claim {provider.email_claim!r}).",
            remedy="An administrator should allow the scope email for the client, or set email_claim of [sign_in].",
        )
    if not is_address(email):
        raise UserRefused(
            f"The identity provider sent an e-mail address that is not accepted (claim {provider.email_claim!r}). "
            "Accepted ones have one @ and only printable ASCII characters, without spaces and parentheses.",
            remedy="An administrator should set email_claim of [sign_in] to a claim with such an address.",
        )
    if len(email) > _MAX_EMAIL_CHARACTERS:
        raise UserRefused(f"The identity provider sent an e-mail address with {len(email):,} characters.")
    if provider.email_claim == "email" and claims.get("email_verified") not in (True, "true"):
        raise UserRefused(
            f"The identity provider has not verified the address {email}. Confirm it there, then try again.",
            remedy="If the provider sends no claim email_verified, an administrator should set email_claim of "
            "[sign_in] to a claim that users cannot change.",
        )
    if provider.issuer == _GOOGLE and not claims.get("hd") and email.lower().rpartition("@")[2] not in _GOOGLE_DOMAINS:
        # developers.google.com/identity/gsi/web/guides/verify-google-id-token, read on 2026-11-27
        raise UserRefused(
            f"Google has not verified of late that {email} is yours, because the account belongs to no organization "
            "(claim hd). Sign in with the Google account of the organization."
        )
    return email


def _find_cost_center(provider: OidcSettings, claims: Mapping[str, Any], known: OidcUser | None) -> str:
    """A value that is no name is ignored, because a sign-in does not depend on it."""
    path = provider.cost_center_claim
    value = find_claim(claims, path) if path else None
    if value is None:  # a refresh may state less than a sign-in
        return known.cost_center if known is not None and path else ""
    text = str(value) if type(value) is int else next(iter(find_claim_texts(claims, path)), "")
    return text if is_name(text) else ""


def _accept_subject(claims: Mapping[str, Any], email: str) -> str:
    """Raises `UserRefused`."""
    subject = str(claims["sub"])
    if len(subject) > _MAX_SUBJECT_CHARACTERS:
        raise UserRefused(f"The identity provider sent an id of {email} with {len(subject):,} characters (claim sub).")
    if not (subject and subject.isprintable()):
        raise UserRefused(f"The identity provider sent an id of {email} that is no text (claim sub).")
    return subject


def _has_too_many_groups(provider: OidcSettings, claims: Mapping[str, Any]) -> bool:
    """The provider refers to another server for the claim (OpenID Connect Core 1.0, section 5.6.2). Microsoft Entra ID
    does so above 200 groups (learn.microsoft.com/entra/identity-platform, "Groups overage claim", read on 2026-11-27).
    """
    elsewhere = claims.get("_claim_names")
    path = provider.role_claim
    is_elsewhere = isinstance(elsewhere, dict) and path in elsewhere
    return is_elsewhere or (path == "groups" and claims.get("hasgroups") in (True, "true"))


def is_address(text: str) -> bool:
    """Return False also for a text like the name of another person, `ann@example.org (2)`."""
    is_plain = text.isascii() and text.isprintable() and not {*" ()"} & {*text}
    return is_plain and text.count("@") == 1 and all(text.split("@"))


def list_named_groups(settings: Settings) -> frozenset[str]:
    """Return the names of groups in the settings. Other groups of a user are not stored."""
    provider = require_provider(settings)
    tables = () if settings.sign_in is None else settings.sign_in.groups
    roles = (*provider.admins, *provider.viewers, *provider.team_admins, *provider.members)
    return frozenset((*roles, *(table.name for table in tables), *settings.managed_settings))


def _describe_missing_claim(settings: Settings, user: OidcUser) -> str:
    """ "": the provider sent the claim."""
    if user.has_group_claim or settings.oidc is None:
        return ""
    return (
        f" The identity provider sent no claim {settings.oidc.role_claim!r}: it may need a scope (scopes of "
        "[sign_in]), or have the groups in another claim (role_claim)."
    )


def require_provider(settings: Settings) -> OidcSettings:
    if settings.oidc is None:
        raise OidcError("This proxy has no identity provider. Sign in with a key.", status=404)
    return settings.oidc


def require_role(settings: Settings, user: OidcUser) -> OidcUser:
    """Raises `UserRefused` if the user has no role in the dashboard."""
    if resolve_role(settings, user) is None:
        raise UserRefused(
            f"{user.unique_name} has no role.",
            remedy="An administrator should add the user or a group to members of [sign_in]."
            f"{_describe_missing_claim(settings, user)}",
            wish="access",
        )
    return user


def resolve_role(settings: Settings, user: OidcUser) -> Role | None:
    """Return the role that the present settings give to `user`. None: the user may not sign in to the dashboard."""
    if (provider := settings.oidc) is None or not _is_of_provider(provider, user):
        return None
    if _is_listed(provider.admins, user):
        return "admin"
    if _is_listed(provider.viewers, user):
        return "viewer"
    if _is_listed(provider.team_admins, user):
        return "team admin"
    if (table := find_group(settings, user)) is not None and table.role is not None:
        return table.role
    return "member" if not provider.members or _is_listed(provider.members, user) else None


_NO_RULES = SignInGroup(name=EVERYBODY)


def require_group(settings: Settings, user: OidcUser) -> SignInGroup:
    """Return what the user may do from Claude Code. Raises `UserRefused` if the user may not use it."""
    if (table := find_group(settings, user)) is not None:
        return table
    if settings.sign_in is not None and settings.sign_in.groups:
        named = join_with_or([table.name for table in settings.sign_in.groups[:_MAX_LISTED_GROUPS]])
        raise UserRefused(
            f"{user.unique_name} may not use Claude Code, because none of the groups of the user gives access.",
            remedy=f"An administrator should add the user to a group with a table [sign_in.groups.NAME] ({named}), or "
            f"add a table.{_describe_missing_claim(settings, user)}",
            wish="access",
        )
    require_role(settings, user)
    return _NO_RULES


_MAX_LISTED_GROUPS = 5


def find_group(settings: Settings, user: OidcUser) -> SignInGroup | None:
    """Return the first table `[sign_in.groups.NAME]` that matches the user. None: none does, or there are none."""
    provider = settings.oidc
    if settings.sign_in is None or provider is None or not _is_of_provider(provider, user):
        return None
    tables = settings.sign_in.groups
    return next((table for table in tables if table.name == EVERYBODY or _is_listed([table.name], user)), None)


def find_claim_texts(claims: Mapping[str, Any], claim_path: str) -> Sequence[str]:
    """Dots in `claim_path` separate the names of nested objects, and may be parts of names. The list is empty if the
    claim is missing or has no text.
    """
    value = find_claim(claims, claim_path)
    if isinstance(value, str):
        return (value,)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else ()


def find_claim(claims: Mapping[str, Any], claim_path: str) -> Any:
    """None: the claim is missing, or null."""
    return _find_nested(claims, claim_path.split("."))


def _find_nested(value: Any, names: Sequence[str]) -> Any:
    """The longest name comes first: `https://example.org/roles`, then `realm_access` and `roles`."""
    if not names or not isinstance(value, Mapping):
        return None if names else value
    for number in range(len(names), 0, -1):
        name = ".".join(names[:number])
        if name in value and (claim := _find_nested(value[name], names[number:])) is not None:
            return claim
    return None


def is_same_user(first: OidcUser, second: OidcUser) -> bool:
    """Return True if a client of an identity provider has described both as one user."""
    return (first.issuer, first.client_id, first.subject) == (second.issuer, second.client_id, second.subject)


def is_of_issuer(provider: OidcSettings, user: OidcUser) -> bool:
    return (user.issuer, user.client_id) == (provider.issuer, provider.client_id)


def _is_of_provider(provider: OidcSettings, user: OidcUser) -> bool:
    return is_of_issuer(provider, user) and _has_domain(provider, user.email)


def _has_domain(settings: OidcSettings, email: str) -> bool:
    return not settings.domains or email.rpartition("@")[2] in settings.domains


def _is_listed(entries: Sequence[str], user: OidcUser) -> bool:
    """An entry with `@` is the name of a person: an address means the first person with it. Upper and lower case are
    equal.
    """
    name = user.unique_name
    return any(entry.lower() == name if "@" in entry else entry in user.groups for entry in entries)
