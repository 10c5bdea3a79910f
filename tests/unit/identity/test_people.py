"""ID tokens as real identity providers send them: who signs in, and what each refusal says."""

import json
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from anthropic_proxy.console.identity.oidc_client import verify_id_token
from anthropic_proxy.console.identity.people import OidcError, accept_user, require_group, require_role, resolve_role
from anthropic_proxy.console.identity.signed_tokens import decode_key_set
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.golden_texts import Check

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
PRIVATE = RSAKey.import_key({name: value for name, value in KEY.as_dict(private=True).items() if name != "use"})


def test_id_tokens_of_real_providers(golden: Check) -> None:
    def show(case: str) -> str:
        settings_line, claims_line = case.split("\n")
        given, claims = json.loads(settings_line), json.loads(claims_line)
        groups = tuple(SignInGroup(name=name) for name in given.pop("tables", []))
        settings = Settings(
            virtual_keys=True,
            oidc=OidcSettings(client_id=claims["aud"], **given),
            sign_in=SignInSettings(secrets=(Secret("a" * 32),), groups=groups),
        )
        verified = verify_id_token(
            jwt.encode({"alg": "RS256", "kid": "one"}, claims, PRIVATE),
            decode_key_set({"keys": [KEY.as_dict(private=False)]}),
            issuer=given["issuer"],
            client_id=claims["aud"],
            nonce="n-1",
            access_token="",
            now=claims["iat"] + 1,
        )
        try:
            user = accept_user(settings, verified)
        except OidcError as error:
            return f"refused: {error.message}"
        try:
            table = require_group(settings, user).name
            access = f"table {table}" if groups else "everybody"
        except OidcError as error:
            access = error.message
        try:
            role = resolve_role(settings, require_role(settings, user))
        except OidcError as error:
            role = error.message
        named = ", ".join(user.groups) or "none"
        return f"{user.email}: groups {named}; Claude Code: {access}; dashboard: {role}"

    golden("id_tokens", show)


ISSUER = "https://login.example.org"
SIGN_IN = {"sub": "248289761001", "email": "ann@example.org", "email_verified": True, "name": "Ann"}


def build_settings(**oidc: Any) -> Settings:
    groups = tuple(SignInGroup(name=name) for name in ("leads", "developers"))
    return Settings(
        virtual_keys=True,
        oidc=OidcSettings(**{"issuer": ISSUER, "client_id": "proxy", **oidc}),
        sign_in=SignInSettings(secrets=(Secret("a" * 32),), groups=groups),
    )


@pytest.mark.parametrize("absent", ["none", "keep"])
@pytest.mark.parametrize(
    ("stated", "none", "keep"),
    [
        ({"email": "ann@example.org", "email_verified": True}, (), ("developers",)),
        ({"email": "ann@example.org", "email_verified": True, "groups": None}, (), ("developers",)),
        ({"email": "ann@example.org", "email_verified": True, "groups": []}, (), ()),
        ({"email": "ann@example.org", "email_verified": True, "groups": ["leads"]}, ("leads",), ("leads",)),
        ({"groups": ["leads", "other"]}, ("leads",), ("leads",)),
        ({"groups": "leads"}, ("leads",), ("leads",)),
        ({"groups": []}, (), ()),
        ({"groups": ["other"]}, (), ()),
        ({"name": "Ann Lee"}, ("developers",), ("developers",)),
        ({}, ("developers",), ("developers",)),
    ],
    ids=str,
)
def test_groups_of_a_refresh(
    stated: dict[str, object], none: tuple[str, ...], keep: tuple[str, ...], absent: str
) -> None:
    settings = build_settings(absent_groups=absent)
    known = accept_user(settings, {**SIGN_IN, "groups": ["developers"]})
    renewed = accept_user(settings, stated, known)
    assert renewed.groups == (keep if absent == "keep" else none)
    assert (renewed.subject, renewed.email) == (known.subject, known.email)
    assert renewed.name == stated.get("name", "Ann")


@pytest.mark.parametrize(
    ("claims", "first", "renewed"),
    [
        ({}, "", "4711"),
        ({"org": {"center": "Büro 7"}}, "Büro 7", "Büro 7"),
        ({"org": {"center": 4712}}, "4712", "4712"),
        ({"org": {"center": ["4713", "4714"]}}, "4713", "4713"),
        ({"org": {"center": None}}, "", "4711"),
        *(
            ({"org": {"center": value}}, "", "")
            for value in ("", " 4711", "47\n11", "4" * 65, "\ud800", True, 1.5, {"a": 1}, [], [None], 10**80)
        ),
    ],
    ids=str,
)
def test_a_cost_center_is_a_name_or_none(claims: dict[str, object], first: str, renewed: str) -> None:
    """A claim that cannot be one is no reason to refuse a person. A refresh that states none changes nothing."""
    settings = build_settings(cost_center_claim="org.center")
    assert accept_user(settings, {**SIGN_IN, **claims}).cost_center == first
    known = accept_user(settings, {**SIGN_IN, "org": {"center": "4711"}})
    assert accept_user(settings, {**SIGN_IN, **claims}, known).cost_center == renewed
    assert accept_user(build_settings(), {**SIGN_IN, **claims}, known).cost_center == ""


def test_a_refresh_without_an_address_obeys_the_accepted_domains() -> None:
    known = accept_user(build_settings(), {**SIGN_IN, "groups": ["developers"]})
    with pytest.raises(OidcError) as refused:
        accept_user(build_settings(domains=("example.net",)), {"groups": ["developers"]}, known)
    assert refused.value.message == (
        "The domain of ann@example.org is not accepted. domains of [sign_in] lists the accepted ones."
    )


@pytest.mark.parametrize("change", [{"domains": ("example.net",)}, {"client_id": "another"}, {"issuer": "https://b.c"}])
def test_settings_that_accept_a_user_no_more_end_its_role_and_its_access(change: dict[str, Any]) -> None:
    known = accept_user(build_settings(), {**SIGN_IN, "groups": ["leads"]})
    before, after = (build_settings(admins=("leads",), **fields) for fields in ({}, change))
    assert (resolve_role(before, known), require_group(before, known).name) == ("admin", "leads")
    assert resolve_role(after, known) is None
    with pytest.raises(OidcError) as refused:
        require_group(after, known)
    assert refused.value.message.startswith("ann@example.org may not use Claude Code, because none of the groups")


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("", "The identity provider sent an id of ann@example.org that is no text (claim sub)."),
        ("a\0b", "The identity provider sent an id of ann@example.org that is no text (claim sub)."),
        ("x" * 256, "The identity provider sent an id of ann@example.org with 256 characters (claim sub)."),
    ],
)
def test_a_user_without_a_usable_id_is_refused(subject: str, message: str) -> None:
    with pytest.raises(OidcError) as refused:
        accept_user(build_settings(), {**SIGN_IN, "sub": subject})
    assert refused.value.message == message


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.org (2)",
        "ann@example.org(2)",
        " ann@example.org",
        "ann@example.org ",
        "ann@exаmple.org",  # a letter of another alphabet
        "ＡＮＮ@example.org",
        "ann@example.org\u200b",
        "ann@example.org\x00",
        "ann@@example.org",
        "ann",
        "@example.org",
        "ann@",
    ],
)
def test_an_address_that_looks_like_another_one_is_refused(address: str) -> None:
    with pytest.raises(OidcError) as refused:
        accept_user(build_settings(), {**SIGN_IN, "email": address})
    assert refused.value.message == (
        "The identity provider sent an e-mail address that is not accepted (claim 'email'). Accepted ones have one @ "
        "and only printable ASCII characters, without spaces and parentheses. An administrator should set email_claim "
        "of [sign_in] to a claim with such an address."
    )


@pytest.mark.parametrize("address", ["", None, 7, ["ann@example.org"]])
def test_a_user_without_an_address_is_refused(address: object) -> None:
    with pytest.raises(OidcError) as refused:
        accept_user(build_settings(), {**SIGN_IN, "email": address})
    assert refused.value.message == (
        "The identity provider sent no e-mail address (claim 'email'). An administrator should allow the scope email "
        "for the client, or set email_claim of [sign_in]."
    )
