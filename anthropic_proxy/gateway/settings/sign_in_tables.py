"""Checks of the settings for the sign-in, `SIGN_IN_SECRET` and the table `[sign_in]` of the configuration file, and for
tokens of services, the tables `[token_issuers.NAME]`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ConfigurationError, InvalidRequest, join_with_and
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.fields import SignInGroup, SignInSettings, TokenIssuer
from anthropic_proxy.gateway.settings.file_format import KeyPath, RuleTable, SignInTable, TokenIssuerTable
from anthropic_proxy.gateway.settings.key_rules import (
    BUDGET_FORMS,
    Budget,
    Rules,
    decode_budget,
    require_name,
    require_valid_rules,
)
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import LOCAL_HOSTS, is_safe_address
from anthropic_proxy.secrets import Secret

EVERYBODY = "*"
"""Name of the table for all that no table before it names: in `[sign_in.groups]` and `[managed_settings]`."""
GATEWAY_AUDIENCE = "claude-gateway"
"""Audience by which Claude Code recognizes a token of a gateway."""
_GROUPS: KeyPath = ("sign_in", "groups")
_AUTHORIZATION: KeyPath = ("sign_in", "authorization")
_OWN_PARAMETERS = frozenset(
    {
        *("response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce"),
        *("code_challenge", "code_challenge_method", "request", "request_uri", "registration"),
        *("client_secret", "client_assertion", "client_assertion_type"),
    }
)
"""Parameters of the authorization request on which the sign-in of the proxy depends, or which would replace them."""
_PARAMETER_NAME = compile_anchored(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)
_MAX_PARAMETER_CHARACTERS = 2_000
"""Maximum number of characters of all these parameters: some browsers and servers refuse long addresses."""
_NEEDED = {"OIDC_ISSUER": "who somebody is", "DASHBOARD_URL": "the address that Claude Code and browsers use"}


def load_authorization(file: ConfigFile, sources: Sources) -> Mapping[str, str]:
    """Return the table `[sign_in.authorization]`. Errors are added to those of `sources`."""
    table = {} if file.tables.sign_in is None else file.tables.sign_in.authorization
    for name, value in table.items():
        path = (*_AUTHORIZATION, name)
        with sources.errors.collect():
            if name.lower() in _OWN_PARAMETERS:
                raise file.rejection(
                    path,
                    "is not allowed, because the sign-in sets this parameter itself, or depends on it.",
                    code="sign-in-settings",
                    hint="Set scopes of [sign_in]." if name.lower() == "scope" else "",
                )
            if not _PARAMETER_NAME.fullmatch(name):
                raise file.rejection(
                    path,
                    "is no name of a parameter.",
                    code="sign-in-settings",
                    hint="Use at most 100 letters, digits, dots, colons, hyphens and underscores of ASCII.",
                )
            if not value.isprintable():
                raise file.invalid_value_error(path, value, "Use printable characters.")
    with sources.errors.collect():
        if (length := sum(len(name) + len(value) for name, value in table.items())) > _MAX_PARAMETER_CHARACTERS:
            raise file.rejection(
                _AUTHORIZATION,
                f"has {length:,} characters; {_MAX_PARAMETER_CHARACTERS:,} are allowed.",
                code="sign-in-settings",
            )
    return table


def load_people_fields(file: ConfigFile, sources: Sources) -> dict[str, Any]:
    """Return field of `Settings` → value, of the table `[sign_in]` for everybody with a key. Errors are added to those
    of `sources`.
    """
    if (table := file.tables.sign_in) is None:
        return {}
    fields: dict[str, Any] = {"keys_per_person": table.keys_per_person}
    with sources.errors.collect():
        if table.contact is not None:
            fields["limit_contact"] = values.decode_contact(file.build_setting(("sign_in", "contact"), table.contact))
    return fields


def load_identity_fields(file: ConfigFile) -> dict[str, Any]:
    """Return field of `OidcSettings` → value, of the table `[sign_in]`."""
    table = file.tables.sign_in or SignInTable()
    return {
        "scopes": tuple(dict.fromkeys(["openid", *table.scopes])),
        "role_claim": table.role_claim,
        "absent_groups": table.absent_groups,
        "email_claim": table.email_claim,
        "cost_center_claim": table.cost_center_claim or "",
        "admins": tuple(dict.fromkeys(table.admins)),
        "viewers": tuple(dict.fromkeys(table.viewers)),
        "team_admins": tuple(dict.fromkeys(table.team_admins)),
        "members": tuple(dict.fromkeys(table.members)),
        "domains": tuple(dict.fromkeys(domain.lower().lstrip("@") for domain in table.domains)),
    }


_DEVICE_FIELDS = ("days", "token_minutes", "notice")


def warn_about_ignored_fields(file: ConfigFile, sources: Sources) -> None:
    """Add a warning about fields of `[sign_in]` that have no effect, because the setting that they need is not set."""
    if file.tables.sign_in is None:
        return
    for needed, names in (("OIDC_ISSUER", (*load_identity_fields(file),)), ("SIGN_IN_SECRET", _DEVICE_FIELDS)):
        ignored = [name for name in names if file.find_value(("sign_in", name)) is not None]
        if ignored and needed not in sources.origins and sources.is_readable:
            place = file.describe_origin_in_sentence(("sign_in", ignored[0]))
            file.warnings.append(
                f"{join_with_and(ignored)} of [sign_in] ({place}) {'is' if len(ignored) == 1 else 'are'} ignored, "
                f"because {needed} is not set."
            )


def load_sign_in(
    fields: Mapping[str, Any], file: ConfigFile, routes: Sequence[ConfiguredRoute], sources: Sources
) -> SignInSettings | None:
    """`fields`: those of `Settings` that were decoded before. None: `SIGN_IN_SECRET` is not set. Errors are added to
    those of `sources`, and warnings to `file.warnings`.
    """
    variables: Mapping[str, Any] = fields.get("sign_in", {})
    table = file.tables.sign_in
    if table is not None and (table.groups or table.authorization):
        sources.given["sign_in"] = Secret(f"{table.groups} {table.authorization}")
    groups: list[SignInGroup] = []
    for name, group in table.groups.items() if table is not None else ():
        path = (*_GROUPS, name)
        with sources.errors.collect():
            if groups and groups[-1].name == EVERYBODY:
                raise file.rejection(
                    path,
                    f'is never used, because [sign_in.groups."{EVERYBODY}"] before it matches everybody.',
                    code="sign-in-settings",
                    hint=f'Move [sign_in.groups."{EVERYBODY}"] to the end.',
                )
            rules = _build_rules(file, path, group, code="sign-in-settings")
            center = group.cost_center
            groups.append(SignInGroup(name=name, role=group.role, team=group.team, cost_center=center, rules=rules))
        place = (*path, "routes")
        file.warnings += [
            f"{format_key_path(place)} has {route!r}, which is no name of [[routes]].{file.locate(place)}"
            for route in group.routes
            if route not in {configured.name for configured in routes}
        ]
    if "SIGN_IN_SECRET" not in sources.origins:
        if table is not None and table.groups and sources.is_readable:
            file.warnings.append(
                f"[sign_in.groups] ({file.describe_origin_in_sentence(_GROUPS)}) is ignored, because SIGN_IN_SECRET "
                "is not set."
            )
        return None
    with sources.errors.collect():
        _require_neighbors(fields, sources)
    table = table or SignInTable()
    with sources.errors.collect():
        if table.notice is not None:
            values.decode_notice(file.build_setting(("sign_in", "notice"), table.notice))
    if "secrets" not in variables:
        return None
    return SignInSettings(
        secrets=variables["secrets"],
        days=table.days,
        token_minutes=table.token_minutes,
        notice=table.notice or "",
        groups=tuple(groups),
    )


def _require_neighbors(fields: Mapping[str, Any], sources: Sources) -> None:
    """Raise `ConfigurationError` if a setting is missing without which nobody can sign in."""
    if not sources.is_readable:  # the unreadable file may have it
        return
    missing = [name for name in _NEEDED if name not in sources.origins]
    if "VIRTUAL_KEYS" not in sources.origins or not fields.get("virtual_keys", True):
        missing.insert(0, "VIRTUAL_KEYS=true")
    if missing:
        raise ConfigurationError(
            f"SIGN_IN_SECRET is set, but not {join_with_and(missing)}. A person signs in from Claude Code at "
            "DASHBOARD_URL by the identity provider, and is a virtual key. Set "
            f"{'it' if len(missing) == 1 else 'them'} too, or remove SIGN_IN_SECRET.",
            code="sign-in-settings",
        )
    url = urlsplit(fields.get("dashboard_url", "https://unreadable"))
    if url.scheme != "https" and url.hostname not in LOCAL_HOSTS:
        raise ConfigurationError(
            f'DASHBOARD_URL is "{url.geturl()}", and SIGN_IN_SECRET is set. Claude Code signs in to an address with '
            "https:// only, except at localhost, 127.0.0.1 and [::1]. Use https://, or remove SIGN_IN_SECRET.",
            code="sign-in-settings",
        )


def load_token_issuers(fields: Mapping[str, Any], file: ConfigFile, sources: Sources) -> tuple[TokenIssuer, ...]:
    """`fields`: those of `Settings` that were decoded before. Errors are added to those of `sources`."""
    issuers: list[TokenIssuer] = []
    for name, table in file.tables.token_issuers.items():
        with sources.errors.collect():
            issuers.append(_build_token_issuer(file, ("token_issuers", name), table))
    if issuers:
        sources.given["token_issuers"] = Secret(str(file.tables.token_issuers))
    if issuers and sources.is_readable and not fields.get("virtual_keys", False):
        file.warnings.append("[token_issuers] is ignored, because VIRTUAL_KEYS is not true.")
    return tuple(issuers)


def _build_token_issuer(file: ConfigFile, path: KeyPath, table: TokenIssuerTable) -> TokenIssuer:
    """Raises `ConfigurationError`."""
    if "/" in path[-1]:
        raise file.rejection(
            path,
            "has a name with /, which separates name and owner in the label of a key.",
            code="token-issuer",
            hint="Use a hyphen.",
        )
    for name, address in (("issuer", table.issuer), ("jwks_uri", table.jwks_uri)):
        if address is not None and not is_safe_address(address):
            raise file.invalid_value_error(
                (*path, name), address, "Use an https:// URL; http:// is allowed at localhost, 127.0.0.1 and [::1]."
            )
    audiences = [table.audience] if isinstance(table.audience, str) else table.audience
    if not audiences or not all(audiences) or GATEWAY_AUDIENCE in audiences:
        raise file.rejection(
            (*path, "audience"),
            f"names no audience, or {GATEWAY_AUDIENCE!r}, which is that of the sign-in from Claude Code.",
            code="token-issuer",
            hint="Use a text for this proxy alone, such as its address.",
        )
    rules = _build_rules(file, path, table, code="token-issuer")
    return TokenIssuer(
        name=path[-1],
        issuer=table.issuer,
        audiences=frozenset(audiences),
        jwks_uri=table.jwks_uri or "",
        owner_claim=table.owner_claim,
        group_claim=table.group_claim or "",
        required_claims={
            claim: (values,) if isinstance(values, str) else tuple(values)
            for claim, values in table.required_claims.items()
        },
        team=table.team,
        cost_center=table.cost_center,
        rules=rules,
    )


def _build_rules(file: ConfigFile, path: KeyPath, table: RuleTable, *, code: str) -> Rules:
    """Raises `ConfigurationError` also for an invalid name of the table or the team."""
    budgets: list[Budget] = []
    for index, text in enumerate(table.budgets):
        try:
            budgets.append(decode_budget(text))
        except InvalidRequest:
            raise file.invalid_value_error((*path, f"budgets[{index}]"), text, f"{BUDGET_FORMS}.") from None
    given = {name: value for name, value in structs.asdict(table).items() if name in Rules.__struct_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    rules = Rules(**{**given, **lists, "budgets": tuple(budgets)})
    try:
        require_name("name", path[-1])
        require_name("team", table.team)
        require_name("cost center", table.cost_center)
        return require_valid_rules(rules)
    except InvalidRequest as error:
        raise ConfigurationError(f"[{format_key_path(path)}]: {error.message}{file.locate(path)}", code=code) from None
