"""Requests to an identity provider by OpenID Connect (authorization code flow with PKCE, state and nonce).

This module needs Authlib, an optional library, and is loaded with the first sign-in.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from authlib.oidc.discovery import get_well_known_url  # type: ignore[import-untyped]
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError
from joserfc.jwk import KeySet
from msgspec import Struct

from anthropic_proxy.console.identity.attempts import SignInAttempt
from anthropic_proxy.console.identity.people import CHECK_CLIENT, CHECK_ISSUER, RETRY, OidcError, find_claim_texts
from anthropic_proxy.console.identity.signed_tokens import (
    CACHE_SECONDS,
    LEEWAY_SECONDS,
    CachedDocument,
    InvalidTokenError,
    PublishedKeys,
    UnknownKeyError,
    check_signature,
    decode_key_set,
    request_json,
)
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.gateway.settings import OidcSettings
from anthropic_proxy.plugins import Gateway

_CLAIM_TEXTS = {
    "iss": "it is of another issuer",
    "aud": "it is for another client (claim aud)",
    "azp": "it is for another client (claim azp)",
    "nonce": "its nonce is not that of this sign-in",
    "exp": "it has expired",
    "nbf": "it is not valid yet: compare the clocks of both servers",
    "iat": "it is of the future: compare the clocks of both servers",
    "at_hash": "it does not belong to the access token",
}
_MAX_SHOWN_CHARACTERS = 200
_HOST = compile_anchored(r"[\w.:\[\]-]+", re.ASCII)
"""Pattern of host and port, which the security policy of a page contains."""
_MAX_REFRESH_CHARACTERS = 16_384
_OFFLINE = "offline_access"
"""Scope for a refresh token (OpenID Connect Core 1.0, section 11)."""
_FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}


class _Metadata(Struct, frozen=True):
    """Values of the provider's discovery document (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False
    scopes_supported: tuple[str, ...] = ()


class ProviderReply(NamedTuple):
    """What the identity provider says about a user."""

    claims: Mapping[str, Any]
    """Empty: it only says that the user still has access."""
    refresh_token: str
    """Token for the next question. "": the provider gave none."""


class GrantRejected(OidcError):
    """Exception: the provider does not accept a code or a refresh token, or answers with the facts of another user. So
    the user has no access.
    """


class OidcClient:
    def __init__(self, settings: OidcSettings, gateway: Gateway, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._gateway = gateway
        self._clock = clock
        self._metadata = CachedDocument(self._load_metadata)
        self._keys = PublishedKeys(self._load_keys)

    async def build_authorization_url(self, attempt: SignInAttempt, redirect_uri: str) -> str:
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        needs_refresh = attempt.purpose == "device" and _OFFLINE in metadata.scopes_supported
        scopes = list(dict.fromkeys([*self.settings.scopes, *([_OFFLINE] if needs_refresh else [])]))
        own = {"nonce": attempt.nonce, "code_challenge": create_s256_code_challenge(attempt.verifier)}
        request = (metadata.authorization_endpoint, self.settings.client_id, "code", redirect_uri, scopes)
        url: str = prepare_grant_uri(*request, attempt.state, **own, code_challenge_method="S256")
        return url

    async def require_issuer(self, presented: str | None) -> None:
        """Raise `OidcError` if another identity provider sent the response (RFC 9207).

        None, a response without issuer, is accepted unless the provider's configuration announces this parameter.
        """
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        if presented is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if presented != metadata.issuer:
            raise OidcError(f"The response is of another identity provider (parameter iss). {RETRY}")

    async def find_authorization_origin(self) -> str:
        """Return scheme, host and port of the provider's page for users. Raises `OidcError`."""
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        url = urlsplit(metadata.authorization_endpoint)
        return f"{url.scheme}://{url.netloc}"

    async def request_claims(self, code: str, attempt: SignInAttempt, redirect_uri: str) -> ProviderReply:
        """Raises `OidcError` if the sign-in is rejected."""
        tokens = await self._request_tokens(
            "authorization_code", redirect_uri=redirect_uri, code=code, code_verifier=attempt.verifier
        )
        id_token, access_token = tokens.get("id_token"), _find_text(tokens, "access_token")
        if not isinstance(id_token, str):
            raise OidcError(f"The identity provider sent no ID token. {CHECK_CLIENT}")
        claims = await self._check(id_token, attempt.nonce, access_token)
        claims = await self._add_user_info(claims, str(claims["sub"]), access_token)
        return ProviderReply(claims, _find_refresh_token(tokens))

    async def refresh_claims(self, refresh_token: str, subject: str) -> ProviderReply:
        """Ask whether the user `subject` still has access. Raises `GrantRejected` if not (OpenID Connect Core 1.0,
        sections 5.3.2 and 12.2), and `OidcError` if the provider gives no answer.
        """
        try:
            tokens = await self._request_tokens("refresh_token", refresh_token=refresh_token)
        except GrantRejected:
            raise GrantRejected(
                "The identity provider does not accept the refresh token: the person has no access any more, or has to "
                "sign in again."
            ) from None
        access_token, id_token = _find_text(tokens, "access_token"), _find_text(tokens, "id_token")
        claims: Mapping[str, Any] = {}
        if id_token:
            claims = await self._check(id_token, None, access_token)
            if str(claims["sub"]) != subject:
                raise GrantRejected(f"The identity provider sent an ID token of another user. {RETRY}")
        claims = await self._add_user_info(claims, subject, access_token)
        return ProviderReply(claims, _find_refresh_token(tokens) or refresh_token)

    async def _add_user_info(self, claims: Mapping[str, Any], subject: str, access_token: str) -> Mapping[str, Any]:
        """Add what the ID token lacks. Raises `OidcError`."""
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        needed = {self.settings.email_claim, *(["email_verified"] if self.settings.email_claim == "email" else [])}
        is_complete = needed <= claims.keys() and bool(find_claim_texts(claims, self.settings.role_claim))
        if not access_token or not metadata.userinfo_endpoint or is_complete:
            return claims
        fields = {"authorization": f"Bearer {access_token}", "accept": "application/json"}
        found = await self._request_json("GET", metadata.userinfo_endpoint, fields)
        if found.get("sub") != subject:
            raise GrantRejected(f"The user info of the identity provider is of another user than the ID token. {RETRY}")
        if claims.get("email", found.get("email")) != found.get("email"):  # another address was verified
            found = {name: value for name, value in found.items() if name != "email_verified"}
        return {**found, **claims}

    async def _request_tokens(self, grant: str, **parameters: str) -> Mapping[str, Any]:
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        secret, methods = self.settings.client_secret, metadata.token_endpoint_auth_methods_supported
        client_id, secret_text, method = self.settings.client_id, "", "none"
        if secret is not None:
            secret_text, method = secret.reveal(), "client_secret_post"
            if "client_secret_basic" in methods or method not in methods:
                client_id, secret_text = quote(client_id, safe=""), quote(secret_text, safe="")
                method = "client_secret_basic"
        body = prepare_token_request(grant, **parameters)
        authentication = ClientAuth(client_id, secret_text, method)
        _, headers, body = authentication.prepare("POST", metadata.token_endpoint, dict(_FORM), body)
        return await self._request_json("POST", metadata.token_endpoint, headers, body.encode())

    async def _check(self, id_token: str, nonce: str | None, access_token: str) -> Mapping[str, Any]:
        """The provider's keys are read again if the key of the token is unknown. Raises `OidcError` for an invalid
        token.
        """
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)

        verify = partial(verify_id_token, id_token, issuer=metadata.issuer, client_id=self.settings.client_id)
        try:
            return await self._keys.check(partial(verify, nonce=nonce, access_token=access_token, now=self._clock()))
        except UnknownKeyError:
            raise OidcError(
                "The identity provider sent an ID token that is not valid: its key is not one of the provider. "
                "Sign in again in a minute."
            ) from None

    async def _load_metadata(self) -> _Metadata:
        url = get_well_known_url(self.settings.issuer, external=True)
        document = await self._request_json("GET", url)
        try:
            metadata = msgspec.convert(document, type=_Metadata)
            if metadata.issuer.rstrip("/") != self.settings.issuer:
                raise OidcError(
                    f"The identity provider has the issuer {metadata.issuer[:_MAX_SHOWN_CHARACTERS]!r}, and "
                    f"OIDC_ISSUER is {self.settings.issuer!r}. {CHECK_ISSUER}",
                    status=502,
                )
            scheme = urlsplit(self.settings.issuer).scheme
            required = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
            for address in (*required, *filter(None, [metadata.userinfo_endpoint])):
                _require_url(address)
                if urlsplit(address).scheme not in ("https", scheme):
                    raise OidcError(
                        f"The identity provider has a URL without TLS: {address}. {CHECK_ISSUER}", status=502
                    )
        except ValueError as error:  # of msgspec, or of a URL
            raise OidcError(f"The document {url} is not valid: {error}. {CHECK_ISSUER}", status=502) from None
        return metadata

    async def _load_keys(self) -> KeySet:
        metadata = await self._metadata.find_or_request(CACHE_SECONDS)
        return decode_key_set(await self._request_json("GET", metadata.jwks_uri))

    async def _request_json(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Mapping[str, Any]:
        """Raises `OidcError` if the HTTP status is not 200."""
        status, document = await request_json(self._gateway, method, url, headers, body, remedy=RETRY)
        if status == 200 and isinstance(document, dict):
            return document
        place = url.partition("?")[0]
        name = document.get("error") if isinstance(document, dict) else None
        if method == "POST" and isinstance(name, str):
            if name == "invalid_grant":  # RFC 6749, section 5.2
                raise GrantRejected(
                    f"The identity provider does not accept the code: it was used before, or it has expired. {RETRY}"
                )
            raise OidcError(
                f"The identity provider rejected the request for tokens: {name[:_MAX_SHOWN_CHARACTERS]}. {CHECK_CLIENT}"
            )
        raise OidcError(f"The identity provider answered {place} with HTTP {status}. {CHECK_ISSUER}", status=502)


def _find_refresh_token(tokens: Mapping[str, Any]) -> str:
    """Raises `OidcError` for one that is too long for the database, of which all instances read each sign-in."""
    found = _find_text(tokens, "refresh_token")
    if len(found) > _MAX_REFRESH_CHARACTERS:
        raise OidcError(
            f"The identity provider sent a refresh token with {len(found):,} characters; {_MAX_REFRESH_CHARACTERS:,} "
            f"are allowed. {CHECK_ISSUER}",
            status=502,
        )
    return found


def _require_url(address: str) -> None:
    """Raise `ValueError` for a text that could add to a header of the response."""
    if not (address.isascii() and address.isprintable() and _HOST.fullmatch(urlsplit(address).netloc)):
        raise ValueError(f"{address[:_MAX_SHOWN_CHARACTERS]!r} is no URL")


def _find_text(tokens: Mapping[str, Any], name: str) -> str:
    value = tokens.get(name)
    return value if isinstance(value, str) else ""


def verify_id_token(
    id_token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str | None, access_token: str, now: float
) -> Mapping[str, Any]:
    """`nonce`: None for the token of a refresh, which has none. Raises `OidcError` for an invalid token, and
    `UnknownKeyError` if its key is not among `keys`.
    """
    if nonce == "":
        raise _invalid("its nonce is not that of this sign-in")
    try:
        token = check_signature(id_token, keys, needs_key_id=len(keys.keys) > 1)
    except InvalidTokenError as error:
        raise _invalid(error.reason) from None
    options = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
    parameters = {"client_id": client_id, "access_token": access_token, **({"nonce": nonce} if nonce else {})}
    claims = CodeIDToken(dict(token.claims), token.header, options, parameters)
    try:
        claims.validate(now=int(now), leeway=LEEWAY_SECONDS)
    except JoseError as error:
        name = str(error.claim) if isinstance(error, ClaimError) else ""
        reason = _CLAIM_TEXTS.get(name, "a claim has an invalid value")
        if isinstance(error, MissingClaimError):
            reason = f"the claim {name} is missing"
        elif name == "exp" and not isinstance(error, ExpiredTokenError):
            reason = "the claim exp is not a time"
        raise _invalid(reason) from None
    return dict(claims)


def _invalid(reason: str) -> OidcError:
    return OidcError(f"The identity provider sent an ID token that is not valid: {reason}. {RETRY}")
