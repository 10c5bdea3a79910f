"""Requests to an identity provider by OpenID Connect (authorization code flow with PKCE, state and nonce).

This module needs Authlib, an optional library, and is loaded with the first sign-in.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple
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
from anthropic_proxy.console.identity.client_keys import ASSERTION_TYPE, load_client_key
from anthropic_proxy.console.identity.offline_access import OFFLINE_SCOPE, OfflineAccess, find_offline_access
from anthropic_proxy.console.identity.people import (
    CHECK_CLIENT,
    CHECK_ISSUER,
    RETRY,
    OidcError,
    find_claim,
    find_claim_texts,
)
from anthropic_proxy.console.identity.signed_tokens import (
    LEEWAY_SECONDS,
    CachedDocument,
    HttpSender,
    InvalidTokenError,
    PublishedKeys,
    UnknownKeyError,
    check_signature,
    decode_key_set,
    request_json,
)
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import OidcSettings

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
_FAILURES = (408, 425, 429)
"""Statuses below 500 of a provider that answers later."""
_NOT_ABOUT_PEOPLE = (
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "server_error",
    "temporarily_unavailable",
    "slow_down",
)
"""Errors of the token endpoint about this client, or about the provider itself (RFC 6749, sections 4.1.2.1 and 5.2; RFC
8628, section 3.5)."""
_FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}


class _Metadata(Struct, frozen=True):
    """Values of the provider's discovery document (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False
    scopes_supported: tuple[str, ...] = ()


class ProviderReply(NamedTuple):
    """What the identity provider says about a user."""

    claims: Mapping[str, Any]
    """Empty: it only says that the user still has access."""
    refresh_token: str
    """Token for the next question. "": the provider gave none."""
    asked_at: float
    """Time before the request, in seconds since the epoch."""


class RenewedTokens(NamedTuple):
    """The answer to a refresh token."""

    tokens: Mapping[str, Any]
    refresh_token: str
    """Token for the next question: a new one, or the earlier one."""
    asked_at: float
    """Time before the request, in seconds since the epoch."""


class GrantRejected(OidcError):
    """Exception: the provider does not accept a code or a refresh token, or answers with the facts of another user. So
    the user has no access.
    """


class UnclearRefusal(OidcError):
    """Exception: the provider refuses a refresh or the user info, and does not say whether the reason is this person or
    concerns everybody. Canaille answers `invalid_request` for an account that is locked or deleted, and so does any
    provider for a request that it requires in another form.
    """


class OidcClient:
    def __init__(self, settings: OidcSettings, sender: HttpSender, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._sender = sender
        self._clock = clock
        self._metadata = CachedDocument(self._load_metadata)
        self._keys = PublishedKeys(self._load_keys)

    async def build_authorization_url(self, attempt: SignInAttempt, redirect_uri: str) -> str:
        """A sign-in to the dashboard needs no refresh token."""
        metadata = await self._metadata.find_or_request()
        offline = await self.find_offline_access() if attempt.purpose == "device" else OfflineAccess("", {})
        scopes = [*(name for name in self.settings.scopes if name != OFFLINE_SCOPE), *filter(None, [offline.scope])]
        chosen = {**offline.parameters, **self.settings.authorization}
        proof = {"nonce": attempt.nonce, "code_challenge": create_s256_code_challenge(attempt.verifier)}
        url: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            self.settings.client_id,
            "code",
            redirect_uri,
            scopes,
            attempt.state,
            **{name: value for name, value in chosen.items() if value},
            **proof,
            code_challenge_method="S256",
        )
        return url

    async def find_offline_access(self) -> OfflineAccess:
        """Raises `OidcError`."""
        metadata = await self._metadata.find_or_request()
        return find_offline_access(self.settings, metadata.scopes_supported)

    async def examine(self) -> bool:
        """Return True if a device asks for a refresh token. Raises `OidcError` if nobody can sign in: the provider does
        not answer, has no usable keys, or accepts no algorithm of the private key.
        """
        await self._keys.find_or_request()
        await self._prove_by_key(await self._metadata.find_or_request())
        return await self.find_offline_access() != OfflineAccess("", {}) or bool(self.settings.authorization)

    async def require_issuer(self, presented: str | None) -> None:
        """Raise `OidcError` if another identity provider sent the response (RFC 9207).

        None, a response without issuer, is accepted unless the provider's configuration announces this parameter.
        """
        metadata = await self._metadata.find_or_request()
        if presented is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if presented != metadata.issuer:
            raise OidcError(f"The response is of another identity provider (parameter iss). {RETRY}")

    async def find_authorization_origin(self) -> str:
        """Return scheme, host and port of the provider's page for users. Raises `OidcError`."""
        metadata = await self._metadata.find_or_request()
        url = urlsplit(metadata.authorization_endpoint)
        return f"{url.scheme}://{url.netloc}"

    async def request_claims(self, code: str, attempt: SignInAttempt, redirect_uri: str) -> ProviderReply:
        """Raises `OidcError` if the sign-in is rejected."""
        asked_at = self._clock()
        tokens = await self._request_tokens(
            "authorization_code", redirect_uri=redirect_uri, code=code, code_verifier=attempt.verifier
        )
        id_token = tokens.get("id_token")
        access_token = _find_text(tokens, "access_token")
        if not isinstance(id_token, str):
            raise OidcError("The identity provider sent no ID token.", remedy=CHECK_CLIENT)
        claims = await self._check(id_token, attempt.nonce, access_token)
        claims = await self._add_user_info(claims, str(claims["sub"]), access_token)
        return ProviderReply(claims, _find_refresh_token(tokens), asked_at)

    async def renew_tokens(self, refresh_token: str) -> RenewedTokens:
        """Ask whether the user of the token still has access. Raises `GrantRejected` if not (OpenID Connect Core 1.0,
        section 12.2), `UnclearRefusal`, and `OidcError` if the provider gives no answer about the user.

        The provider may accept the earlier token no more.
        """
        asked_at = self._clock()
        tokens = await self._request_tokens("refresh_token", refresh_token=refresh_token)
        return RenewedTokens(tokens, _find_refresh_token(tokens) or refresh_token, asked_at)

    async def describe_user(self, renewed: RenewedTokens, subject: str) -> ProviderReply:
        """Return what the answer and the user info say about the user `subject`. Raises `GrantRejected` if they are of
        another user (section 5.3.2), and others as `renew_tokens`.
        """
        claims = await self._find_claims(renewed.tokens, subject)
        return ProviderReply(claims, renewed.refresh_token, renewed.asked_at)

    async def _find_claims(self, tokens: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
        """Return what the answer to a refresh and the user info say about the user `subject`."""
        access_token = _find_text(tokens, "access_token")
        id_token = _find_text(tokens, "id_token")
        if not access_token and not id_token:
            raise OidcError("The identity provider has sent no token.", remedy=CHECK_CLIENT, status=502)
        claims: Mapping[str, Any] = {}
        if id_token:
            claims = await self._check(id_token, None, access_token)
            if str(claims["sub"]) != subject:
                raise GrantRejected(f"The identity provider sent an ID token of another user. {RETRY}")
        return await self._add_user_info(claims, subject, access_token)

    async def _add_user_info(self, claims: Mapping[str, Any], subject: str, access_token: str) -> Mapping[str, Any]:
        """Add what the ID token lacks: also groups inside an object that it has. Raises `OidcError`."""
        metadata = await self._metadata.find_or_request()
        claims = {name: value for name, value in claims.items() if value is not None}
        needed = {self.settings.email_claim, *(["email_verified"] if self.settings.email_claim == "email" else [])}
        paths = [path for path in (self.settings.role_claim, self.settings.cost_center_claim) if path]
        is_complete = needed <= claims.keys() and all(find_claim_texts(claims, path) for path in paths)
        if not access_token or not metadata.userinfo_endpoint or is_complete:
            return claims
        fields = {"authorization": f"Bearer {access_token}", "accept": "application/json"}
        user_info = await self._request_json(metadata.userinfo_endpoint, fields, refusals=(401, 403))
        if user_info.get("sub") != subject:
            raise GrantRejected(f"The user info of the identity provider is of another user than the ID token. {RETRY}")
        if claims.get("email", user_info.get("email")) != user_info.get("email"):  # another address was verified
            user_info = {name: value for name, value in user_info.items() if name != "email_verified"}
        found = {path: find_claim(user_info, path) for path in paths if find_claim(claims, path) is None}
        return {**user_info, **claims, **{path: value for path, value in found.items() if value is not None}}

    async def _request_tokens(
        self, grant: Literal["authorization_code", "refresh_token"], **parameters: str
    ) -> Mapping[str, Any]:
        """Raises `OidcError`."""
        metadata = await self._metadata.find_or_request()
        body = prepare_token_request(grant, **parameters, **await self._prove_by_key(metadata))
        _, headers, body = self._authenticate(metadata).prepare("POST", metadata.token_endpoint, dict(_FORM), body)
        url = str(metadata.token_endpoint)
        status, document = await request_json(self._sender, "POST", url, headers, body.encode(), remedy=RETRY)
        name = document.get("error") if isinstance(document, dict) else None
        if status >= 500 or status in _FAILURES or not isinstance(name, str):  # or 200 with an error, as of GitHub
            return _require_success(url, status, document)
        if name == "invalid_grant":  # RFC 6749, section 5.2
            raise GrantRejected(_REJECTED_GRANTS[grant])
        if grant == "authorization_code" or status == 401 or name in _NOT_ABOUT_PEOPLE:
            raise OidcError(
                f"The identity provider rejected the request for tokens: {_clean(name)}.", remedy=CHECK_CLIENT
            )
        shown = _describe_error(name, document.get("error_description"), parameters.values())
        raise UnclearRefusal(f"The identity provider refuses to renew the sign-in: {shown}. {RETRY}")

    async def _prove_by_key(self, metadata: _Metadata) -> Mapping[str, str]:
        """Return the parameters with which a private key proves who the proxy is. {}: there is no private key. Raises
        `OidcError`.
        """
        try:
            key = await asyncio.to_thread(load_client_key, self.settings)
        except ConfigurationError as error:
            raise OidcError(
                "The proxy cannot prove to the identity provider who it is.", remedy=error.message, status=502
            ) from None
        if key is None:
            return {}
        supported = metadata.token_endpoint_auth_signing_alg_values_supported
        assertion = key.sign(self.settings.client_id, metadata.token_endpoint, supported, self._clock())
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}

    def _authenticate(self, metadata: _Metadata) -> ClientAuth:
        secret = self.settings.client_secret
        methods = metadata.token_endpoint_auth_methods_supported
        client_id = self.settings.client_id
        if secret is None:
            return ClientAuth(client_id, "", "none")
        if "client_secret_post" in methods and "client_secret_basic" not in methods:
            return ClientAuth(client_id, secret.reveal(), "client_secret_post")
        return ClientAuth(quote(client_id, safe=""), quote(secret.reveal(), safe=""), "client_secret_basic")

    async def _check(self, id_token: str, nonce: str | None, access_token: str) -> Mapping[str, Any]:
        """Raises `OidcError` for an invalid token."""
        metadata = await self._metadata.find_or_request()
        verify = partial(verify_id_token, id_token, issuer=metadata.issuer, client_id=self.settings.client_id)
        try:
            return await self._keys.check(partial(verify, nonce=nonce, access_token=access_token, now=self._clock()))
        except UnknownKeyError:
            raise _invalid("its key is not one of the provider", "Sign in again in a minute.") from None
        except InvalidTokenError as error:
            raise _invalid(error.reason) from None

    async def _load_metadata(self) -> _Metadata:
        url = get_well_known_url(self.settings.issuer, external=True)
        document = await self._request_json(url)
        try:
            metadata = msgspec.convert(document, type=_Metadata)
            if metadata.issuer.rstrip("/") != self.settings.issuer:
                raise OidcError(
                    f"The identity provider has the issuer {metadata.issuer[:_MAX_SHOWN_CHARACTERS]!r}, and "
                    f"OIDC_ISSUER is {self.settings.issuer!r}.",
                    remedy=CHECK_ISSUER,
                    status=502,
                )
            scheme = urlsplit(self.settings.issuer).scheme
            required = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
            for address in (*required, *filter(None, [metadata.userinfo_endpoint])):
                _require_url(address)
                if urlsplit(address).scheme not in ("https", scheme):
                    raise OidcError(
                        f"The identity provider has a URL without TLS: {address}.", remedy=CHECK_ISSUER, status=502
                    )
        except ValueError as error:  # of msgspec, or of a URL
            raise OidcError(f"The document {url} is not valid: {error}.", remedy=CHECK_ISSUER, status=502) from None
        return metadata

    async def _load_keys(self) -> KeySet:
        metadata = await self._metadata.find_or_request()
        return decode_key_set(await self._request_json(metadata.jwks_uri))

    async def _request_json(
        self, url: str, headers: Mapping[str, str] | None = None, *, refusals: Collection[int] = ()
    ) -> Mapping[str, Any]:
        """`refusals`: statuses with which the provider refuses a person. Raises `OidcError`."""
        status, document = await request_json(self._sender, "GET", url, headers, remedy=RETRY)
        return _require_success(url, status, document, refusals)


_REJECTED_GRANTS: Mapping[Literal["authorization_code", "refresh_token"], str] = {
    "authorization_code": "The identity provider does not accept the code: it was used before, or it has expired. "
    + RETRY,
    "refresh_token": "The identity provider does not accept the refresh token: the person has no access any more, or "
    "has to sign in again.",
}


def _require_success(url: str, status: int, document: object, refusals: Collection[int] = ()) -> Mapping[str, Any]:
    """Raises `OidcError`."""
    if status == 200 and isinstance(document, dict):
        return document
    place = url.partition("?")[0]
    kind = UnclearRefusal if status in refusals else OidcError
    raise kind(f"The identity provider answered {place} with HTTP {status}.", remedy=CHECK_ISSUER, status=502)


def _describe_error(name: str, description: object, sent: Collection[str]) -> str:
    """`description`: any value. It is left out if it has one of the texts `sent`, which are secret."""
    if not isinstance(description, str) or not _clean(description) or any(text in description for text in sent):
        return _clean(name)
    return f"{_clean(name)} ({_clean(description)})"


def _clean(text: str) -> str:
    """Return the beginning of a text of the provider, on one line."""
    printable = "".join(character if character.isprintable() else " " for character in text[:_MAX_SHOWN_CHARACTERS])
    return " ".join(printable.split())


def _find_refresh_token(tokens: Mapping[str, Any]) -> str:
    """Raises `OidcError` for one that is too long for the database, of which all instances read each sign-in."""
    refresh_token = _find_text(tokens, "refresh_token")
    if len(refresh_token) > _MAX_REFRESH_CHARACTERS:
        raise OidcError(
            f"The identity provider sent a refresh token with {len(refresh_token):,} characters; "
            f"{_MAX_REFRESH_CHARACTERS:,} are allowed.",
            remedy=CHECK_ISSUER,
            status=502,
        )
    return refresh_token


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
    """`nonce`: None for the token of a refresh, which has none. Raises `InvalidTokenError` for an invalid token."""
    if nonce == "":
        raise InvalidTokenError(_CLAIM_TEXTS["nonce"])
    token = check_signature(id_token, keys, needs_key_id=len(keys.keys) > 1)
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
        raise InvalidTokenError(reason) from None
    return dict(claims)


def _invalid(reason: str, remedy: str = RETRY) -> OidcError:
    return OidcError(f"The identity provider sent an ID token that is not valid: {reason}. {remedy}")
