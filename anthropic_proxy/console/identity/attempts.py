"""The way of a browser to the identity provider and back (authorization code flow with PKCE).

The browser has a cookie with random values until the provider's response arrives. The proxy accepts the response only
in the browser that has the cookie, and only once.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Literal
from urllib.parse import quote, unquote

from msgspec import Struct, field

from anthropic_proxy.console.identity.cookies import Cookie
from anthropic_proxy.console.identity.people import RETRY, OidcError, require_provider
from anthropic_proxy.gateway.settings import MAX_SIGN_IN_SECRETS, Settings

CALLBACK_PATH = "/dashboard/oidc/callback"
"""Path of the redirect URI, which is registered at the identity provider. Each kind of sign-in uses it."""
ATTEMPT_COOKIE = Cookie(name="anthropic_proxy_oidc", path="/dashboard/oidc", same_site="Lax")
"""The response of the provider comes from another site, so it would not have a cookie with `Strict`."""
ATTEMPT_SECONDS = 600
Purpose = Literal["dashboard", "device"]
"""What the browser signs in to: the dashboard, or a device on which Claude Code waits."""
_SEPARATOR = "~"
"""Stands between the signatures. It has no meaning in cookies."""
Signed = Literal["sign-in", "approval"]
"""Purpose of a signature: a sign-in that has begun, or the form that approves a device."""


class SignInAttempt(Struct, frozen=True, kw_only=True):
    """Random values of one sign-in, which prove that the provider's response belongs to it."""

    state: str = field(default_factory=partial(secrets.token_urlsafe, 24))
    """Random text in the request to the provider and in its response. It shows that the response belongs to this
    browser."""
    nonce: str = field(default_factory=partial(secrets.token_urlsafe, 24))
    """Random text that the ID token must contain. It shows that the token belongs to this sign-in."""
    verifier: str = field(default_factory=partial(secrets.token_urlsafe, 48))
    """Secret of PKCE, which the token request contains. The provider has received only its hash before."""
    purpose: Purpose = "dashboard"
    target: str = ""
    """Path of the page to show after the sign-in, or the hash of the device code."""


def encode_attempt(attempt: SignInAttempt, settings: Settings) -> str:
    """Return the value of the cookie of the attempt, with a signature."""
    target = quote(attempt.target, safe="")
    signed = ".".join((attempt.state, attempt.nonce, attempt.verifier, attempt.purpose, target))
    return f"{sign_text('sign-in', signed, settings)}.{signed}"


def decode_attempt(cookie: str, presented_state: str, settings: Settings) -> SignInAttempt:
    """Return the sign-in that this browser began. Raises `OidcError` if the response is of another one."""
    signature, _, signed = cookie.partition(".")
    if not is_signed("sign-in", signed, signature, settings):
        raise OidcError(
            "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. " + RETRY
        )
    state, nonce, verifier, purpose, target = signed.split(".", 4)
    if not hmac.compare_digest(state.encode(), presented_state.encode("utf-8", "replace")):
        raise OidcError(f"The response is not of the sign-in that this browser began last. {RETRY}")
    known_purpose: Purpose = "device" if purpose == "device" else "dashboard"
    return SignInAttempt(state=state, nonce=nonce, verifier=verifier, purpose=known_purpose, target=unquote(target))


def sign_text(purpose: Signed, text: str, settings: Settings) -> str:
    """Return what all workers and instances at this address accept. It has a signature by each secret, so it is enough
    if an instance knows one of them.
    """
    return _SEPARATOR.join(_list_signatures(purpose, text, settings))


def is_signed(purpose: Signed, text: str, signature: str, settings: Settings) -> bool:
    presented = signature.encode("utf-8", "replace").split(_SEPARATOR.encode(), MAX_SIGN_IN_SECRETS)
    accepted = [valid_signature.encode() for valid_signature in _list_signatures(purpose, text, settings)]
    return any(hmac.compare_digest(*pair) for pair in product(presented, accepted))


def _list_signatures(purpose: Signed, text: str, settings: Settings) -> Sequence[str]:
    """Return the signature of `text` by each secret. An invented cookie has none of them, so it causes no request to
    the provider. A client without a secret (PKCE only) has no such protection, unless `SIGN_IN_SECRET` is set.
    """
    provider = require_provider(settings)
    if settings.sign_in is not None:
        signing_secrets = [secret.reveal() for secret in settings.sign_in.secrets]
    else:
        signing_secrets = ["" if provider.client_secret is None else provider.client_secret.reveal()]
    place = (settings.dashboard_url, provider.issuer, provider.client_id)
    keys = ("\n".join((purpose, *place, secret)).encode() for secret in signing_secrets)
    return [hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest() for key in keys]
