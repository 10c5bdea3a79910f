"""Users of an identity provider, and the roles that the settings give them in the dashboard."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.console.dashboard.permissions import Role
from anthropic_proxy.gateway.settings import OidcSettings

RETRY = "Sign in again."
CHECK_CLIENT = "An administrator should compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET with the identity provider."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."


class OidcError(Exception):
    """Exception: a sign-in with the identity provider failed or was rejected. Its message is shown to the user. It has
    the cause and usually a remedy, but no tokens.
    """

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the page: 403; 502 for a failure of the provider."""


class OidcUser(Struct, frozen=True, omit_defaults=True):
    issuer: str
    """Value of `OIDC_ISSUER` at the sign-in. The session ends if the setting has another value."""
    client_id: str
    subject: str
    email: str
    groups: tuple[str, ...] = ()
    """Groups of the user that the settings name, from the claim with the roles."""


def require_accepted_user(settings: OidcSettings, claims: Mapping[str, Any]) -> OidcUser:
    """Raises `OidcError` if the user has no accepted e-mail address or no role."""
    email = claims.get(settings.email_claim)
    if not isinstance(email, str) or email.count("@") != 1 or not (email.isascii() and email.isprintable()):
        raise OidcError(
            f"The identity provider sent no e-mail address (claim {settings.email_claim!r}). An administrator should "
            "allow the scope email for the client, or set OIDC_EMAIL_CLAIM."
        )
    if settings.email_claim == "email" and claims.get("email_verified") not in (True, "true"):
        raise OidcError(
            f"The identity provider has not verified the address {email}. Confirm it there, then try again. If the "
            "provider sends no claim email_verified, an administrator should set OIDC_EMAIL_CLAIM to a claim that "
            "users cannot change."
        )
    used = {*settings.admins, *settings.viewers, *settings.members}
    groups = tuple(name for name in find_claim_texts(claims, settings.role_claim) if name in used and "@" not in name)
    user = OidcUser(settings.issuer, settings.client_id, str(claims["sub"]), email.lower(), groups)
    if not _has_domain(settings, user.email):
        raise OidcError(f"The domain of {email} is not accepted. OIDC_DOMAINS lists the accepted ones.")
    if resolve_role(settings, user) is None:
        raise OidcError(f"{email} has no role. An administrator should add the user or a group to OIDC_MEMBERS.")
    return user


def resolve_role(settings: OidcSettings, user: OidcUser) -> Role | None:
    """Return the role that the present settings give to `user`. None: the user may not sign in."""
    if (user.issuer, user.client_id) != (settings.issuer, settings.client_id) or not _has_domain(settings, user.email):
        return None
    if _is_listed(settings.admins, user):
        return "admin"
    if _is_listed(settings.viewers, user):
        return "viewer"
    return "member" if not settings.members or _is_listed(settings.members, user) else None


def find_claim_texts(claims: Mapping[str, Any], claim_path: str) -> Sequence[str]:
    """Dots in `claim_path` separate the names of nested objects. The list is empty if the claim is missing or has no
    text.
    """
    value: Any = claims.get(claim_path)
    if value is None:
        value = claims
        for name in claim_path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return (value,)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else ()


def _has_domain(settings: OidcSettings, email: str) -> bool:
    return not settings.domains or email.rpartition("@")[2] in settings.domains


def _is_listed(entries: Sequence[str], user: OidcUser) -> bool:
    """Upper and lower case of addresses are equal."""
    return any(entry.lower() == user.email if "@" in entry else entry in user.groups for entry in entries)
