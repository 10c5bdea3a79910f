"""A sign-in that has begun goes on at each instance that has a secret in common with the first one."""

from collections.abc import Sequence

import pytest
from msgspec import structs

from anthropic_proxy.console.identity.attempts import (
    SignInAttempt,
    decode_attempt,
    encode_attempt,
    is_signed,
    sign_text,
)
from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInSettings
from anthropic_proxy.secrets import Secret

ATTEMPT = SignInAttempt(purpose="device", target="hash")
NO_ATTEMPT = (
    "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. Sign in again."
)


def build(letters: Sequence[str], client_secret: str = "first", **changes: str) -> Settings:
    """`letters`: of the secrets of SIGN_IN_SECRET. Empty: it is not set."""
    secrets = tuple(Secret(letter * 32) for letter in letters)
    oidc = {"issuer": "https://login.example.org", "client_id": "proxy", **changes}
    return Settings(
        dashboard_url="https://proxy.example.org",
        oidc=OidcSettings(**oidc, client_secret=Secret(client_secret)),
        sign_in=SignInSettings(secrets=secrets) if secrets else None,
    )


@pytest.mark.parametrize(("began", "ends"), [("a", "ba"), ("ba", "a"), ("ab", "cb"), ("abcdefgh", "h")])
def test_one_secret_in_common_is_enough(began: str, ends: str) -> None:
    cookie = encode_attempt(ATTEMPT, build(began))
    assert decode_attempt(cookie, ATTEMPT.state, build(ends)) == ATTEMPT
    token = sign_text("approval", "text", build(began))
    assert is_signed("approval", "text", token, build(ends))
    assert not is_signed("approval", "other", token, build(ends))
    assert not is_signed("sign-in", "text", token, build(ends))


@pytest.mark.parametrize(
    ("began", "ends"),
    [
        (build("a"), build("b")),
        (build("a"), build("a", client_id="other")),
        (build("a"), build("a", issuer="https://other.example.org")),
        (build("a"), structs.replace(build("a"), dashboard_url="https://other-proxy.example.org")),
        (build("a"), build("")),
        (build(""), build("", "second")),
    ],
)
def test_a_sign_in_of_other_settings_is_refused(began: Settings, ends: Settings) -> None:
    cookie = encode_attempt(ATTEMPT, began)
    for false in (cookie, cookie.partition(".")[2], "." + cookie, "~~~~" + cookie, ""):
        with pytest.raises(OidcError) as refused:
            decode_attempt(false, ATTEMPT.state, ends)
        assert refused.value.message == NO_ATTEMPT


def test_a_replaced_secret_of_the_client_ends_no_sign_in_that_has_begun() -> None:
    cookie = encode_attempt(ATTEMPT, build("a", "first"))
    assert decode_attempt(cookie, ATTEMPT.state, build("a", "second")) == ATTEMPT
