"""Tokens of identity providers that services and CI jobs send as keys: JWTs by the tables `[token_issuers.NAME]`.

A token is checked without a request to its issuer, except for the public keys, which are cached. A token of an issuer
without a table causes no request.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from joserfc.jwk import KeySet
from msgspec import Struct

from anthropic_proxy.console.identity.people import OidcError, find_claim_texts
from anthropic_proxy.console.identity.signed_tokens import (
    LEEWAY_SECONDS,
    InvalidTokenError,
    PublishedKeys,
    check_signature,
    decode_key_set,
    request_json,
    require_characters,
)
from anthropic_proxy.engine.base64url import decode_base64url
from anthropic_proxy.gateway.settings import Settings, TokenIssuer
from anthropic_proxy.plugins import Gateway

MAX_TOKEN_CHARACTERS = 16_384
_MAX_KEY_ID_CHARACTERS = 256
_MAX_SHOWN_CHARACTERS = 100
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
"""Accepted types of a token (header `typ`). Others, such as those of a sign-out, have a signature of the same keys."""
_SIGN_IN_CLAIMS = ("nonce", "at_hash", "c_hash")
"""Claims of ID tokens, which an identity provider issues for the sign-in of a user, not as keys."""


class AcceptedToken(Struct, frozen=True):
    issuer: TokenIssuer
    owner: str
    groups: tuple[str, ...]
    ends_at: float
    """Time from which the token is rejected, in seconds since the epoch."""


class TokenIssuers:
    """`clock` returns seconds since the epoch."""

    def __init__(
        self, issuers: Sequence[TokenIssuer], gateway: Gateway[Settings], clock: Callable[[], float] = time.time
    ) -> None:
        self._issuers = issuers
        self._gateway = gateway
        self._clock = clock
        self._keys = {
            (table.issuer, table.jwks_uri): PublishedKeys(partial(self._load_keys, table.issuer, table.jwks_uri))
            for table in issuers
        }

    async def check(self, text: str) -> AcceptedToken:
        """Raises `InvalidTokenError`, and `OidcError` if the keys of the issuer cannot be read."""
        header, claims = decode_token(text)
        matched = [issuer for issuer in self._issuers if issuer.issuer == claims.get("iss")]
        if not matched:
            shown = str(claims.get("iss"))[:_MAX_SHOWN_CHARACTERS]
            raise InvalidTokenError(f"no table [token_issuers.NAME] has its issuer {shown!r}")
        _require_key_token(header, claims)
        published = self._keys[matched[0].issuer, matched[0].jwks_uri]
        await published.check(lambda keys: check_signature(text, keys, needs_key_id=True))
        ends_at = _require_times(claims, self._clock())
        named = claims.get("aud")
        audiences = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        problem = "it is for another audience (claim aud)"
        for issuer in matched:
            if not any(isinstance(audience, str) and audience in issuer.audiences for audience in audiences):
                continue
            if not (problem := _find_claim_problem(issuer, claims)):
                owners = _list_texts(claims, issuer.owner_claim)
                if len(owners) != 1 or not owners[0].strip():
                    raise InvalidTokenError(f"its claim {issuer.owner_claim} names no owner")
                groups = tuple(find_claim_texts(claims, issuer.group_claim)) if issuer.group_claim else ()
                return AcceptedToken(issuer, owners[0], groups, ends_at)
        raise InvalidTokenError(problem)

    async def _load_keys(self, issuer: str, jwks_uri: str) -> KeySet:
        if not jwks_uri:
            document = await self._request(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            jwks_uri = str(document.get("jwks_uri"))
            if document.get("issuer") != issuer:
                raise OidcError(f"The discovery document of {issuer} is of another issuer.", status=502)
            scheme = issuer.partition(":")[0]
            if jwks_uri.partition("://")[0] not in ("https", scheme):
                raise OidcError(f"The keys of {issuer} are at a URL without TLS.", status=502)
        return decode_key_set(await self._request(jwks_uri), remedy="")

    async def _request(self, url: str) -> Mapping[str, Any]:
        status, document = await request_json(self._gateway, "GET", url)
        if status != 200 or not isinstance(document, dict):
            raise OidcError(f"The issuer answered {url.partition('?')[0]} with HTTP {status}.", status=502)
        return document


def decode_token(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims, which are not yet checked. Raises `InvalidTokenError`."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise InvalidTokenError(f"it has {len(text):,} characters; {MAX_TOKEN_CHARACTERS:,} are allowed")
    parts = text.split(".")
    if len(parts) != 3:
        raise InvalidTokenError("it is not a signed token")
    try:
        decoded = map(decode_base64url, parts[:2])
        header, claims = (json.loads(data, object_pairs_hook=_require_unique) for data in decoded)
    except (ValueError, RecursionError):
        raise InvalidTokenError("its header or its claims are no JSON, or have a member twice") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise InvalidTokenError("its header or its claims are no JSON object")
    require_characters(header, claims)
    return header, claims


def _require_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A member that occurs twice has two meanings, so it is refused."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _require_key_token(header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    kind = header.get("typ", "JWT")
    key_id = header.get("kid")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise InvalidTokenError(
            f"its type is {str(kind)[:_MAX_SHOWN_CHARACTERS]!r}, which is not accepted (header typ)"
        )
    if "crit" in header or "cty" in header:
        raise InvalidTokenError("it demands an extension, or contains another token (header crit or cty)")
    if key_id is not None and not (isinstance(key_id, str) and 0 < len(key_id) <= _MAX_KEY_ID_CHARACTERS):
        raise InvalidTokenError("the name of its key is not valid (header kid)")
    if sign_in_claims := [name for name in _SIGN_IN_CLAIMS if name in claims]:
        raise InvalidTokenError(f"it is the ID token of a sign-in (claim {sign_in_claims[0]})")


def _require_times(claims: Mapping[str, Any], now: float) -> float:
    """Return the time from which the token is rejected."""
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
            raise InvalidTokenError(f"the claim {name} is not a time")
    if "exp" not in times:
        raise InvalidTokenError("the claim exp is missing")
    if now >= times["exp"] + LEEWAY_SECONDS:
        raise InvalidTokenError("it has expired")
    if times.get("nbf", 0) > now + LEEWAY_SECONDS:
        raise InvalidTokenError("it is not valid yet (claim nbf): compare the clocks of both servers")
    if times.get("iat", 0) > now + LEEWAY_SECONDS:
        raise InvalidTokenError("it is of the future (claim iat): compare the clocks of both servers")
    return float(times["exp"] + LEEWAY_SECONDS)


def _find_claim_problem(issuer: TokenIssuer, claims: Mapping[str, Any]) -> str:
    """ "": the required claims have accepted values."""
    for name, patterns in issuer.required_claims.items():
        texts = _list_texts(claims, name)
        if not any(fnmatchcase(text, pattern) for text in texts for pattern in patterns):
            shown = repr(", ".join(texts)[:_MAX_SHOWN_CHARACTERS]) if texts else "missing"
            return f"its claim {name} is {shown}, which [token_issuers.{issuer.name}] does not accept"
    return ""


def _list_texts(claims: Mapping[str, Any], name: str) -> Sequence[str]:
    value = claims.get(name)
    if isinstance(value, bool | int):
        return (str(value).lower(),)
    return find_claim_texts(claims, name)
