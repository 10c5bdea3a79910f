"""JWTs of identity providers: their signature by a published key, and the documents that publish the keys."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from joserfc import jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import Key, KeySet

from anthropic_proxy.console.identity.people import CHECK_ISSUER, OidcError
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.plugins import HttpReply

CACHE_SECONDS = 3_600.0
"""Time in seconds for which the discovery document and the keys of the identity provider are cached."""
MIN_DOUBT_SECONDS = 60.0
"""Minimum time in seconds between two requests that tokens with other keys cause. So false tokens cause no load."""
RETRY_SECONDS = 5.0
"""Minimum time after a failed request for the discovery document or the keys."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Accepted algorithms of the signature. All have a public key: with `HS256`, an attacker could sign a token with the
public key as secret."""
LEEWAY_SECONDS = 60
"""Accepted difference in seconds between the clocks of the identity provider and the proxy."""
_KEY_TYPES = ("RSA", "EC", "OKP")
_MAX_KEYS = 100
_MAX_CHARACTERS = {"n": 1_400, "e": 12}
"""Number of a key → its maximum number of characters: 8,192 bits in base64. Larger ones make each check slow."""
MAX_ID_TOKEN_CHARACTERS = 131_072
ValueT = TypeVar("ValueT")


class HttpSender(Protocol):
    """What sends requests to other servers: `Gateway`, or `HttpCalls` of a command."""

    async def send_http(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        purpose: OperatorPurpose = "plugin",
    ) -> HttpReply:
        """The contract is that of `plugins.Gateway.send_http`."""


class InvalidTokenError(Exception):
    """Exception: a token is not accepted. `reason` is a part of a sentence, without the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeyMismatch(InvalidTokenError):
    """Exception: no known key of the provider proves the signature. The provider may have changed its keys, also one
    under its old name.
    """


class UnknownKeyError(KeyMismatch):
    """Exception: the token names a key that is not known."""

    def __init__(self) -> None:
        super().__init__("its key is not one of the issuer (header kid)")


class CachedDocument(Generic[ValueT]):
    """Cache for one document of the identity provider, such as its keys. `ticks`: a clock that nobody sets."""

    def __init__(self, load: Callable[[], Awaitable[ValueT]], ticks: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._ticks = ticks
        self._value: ValueT | None = None
        self._loaded_at = self._failed_at = self._doubted_at = float("-inf")
        self._failure = OidcError("")
        self._lock = asyncio.Lock()

    async def find_or_request(self) -> ValueT:
        """Return the cached document, or request it again if it is older than `CACHE_SECONDS`. If the request fails,
        the old document is returned. Raises `OidcError` if there is no old document.
        """
        if self._value is not None and (self._lock.locked() or self._is_fresh()):  # nobody waits for a slow provider
            return self._value
        async with self._lock:
            if self._value is None or not self._is_fresh():
                await self._request()
            if self._value is None:
                failure = self._failure
                raise OidcError(failure.cause, remedy=failure.remedy, wish=failure.wish, status=failure.status)
            return self._value

    async def find_newer(self, known: ValueT) -> ValueT:
        """Return the document as it is now, because `known` may have changed. It is requested for this reason at most
        once in `MIN_DOUBT_SECONDS`; else, or if the request fails, the result is `known`.
        """
        async with self._lock:
            if self._value is known and self._ticks() >= self._doubted_at + MIN_DOUBT_SECONDS:
                self._doubted_at = self._ticks()
                await self._request()
            return known if self._value is None else self._value

    async def _request(self) -> None:
        if self._ticks() < self._failed_at + RETRY_SECONDS:
            return
        try:
            self._value = await self._load()
            self._loaded_at = self._ticks()
        except OidcError as error:
            self._failure = error
            self._failed_at = self._ticks()

    def _is_fresh(self) -> bool:
        return self._ticks() < self._loaded_at + CACHE_SECONDS


class PublishedKeys(CachedDocument[KeySet]):
    async def check(self, check: Callable[[KeySet], ValueT]) -> ValueT:
        """Return the result of `check`. If it raises `KeyMismatch`, the keys are requested again, at most once in
        `MIN_DOUBT_SECONDS`, and checked once more. Raises `OidcError` if there are no keys.
        """
        keys = await self.find_or_request()
        try:
            return check(keys)
        except KeyMismatch:
            newer = await self.find_newer(keys)
            if newer is keys:
                raise
            return check(newer)


def decode_key_set(document: Mapping[str, Any], remedy: str = CHECK_ISSUER) -> KeySet:
    """Return the usable public keys of an identity provider. Raises `OidcError` if it has none."""
    listed = document.get("keys")
    usable: list[Key] = []
    for key in listed[:_MAX_KEYS] if isinstance(listed, list) else []:
        if not isinstance(key, dict) or key.get("kty") not in _KEY_TYPES or key.get("use", "sig") != "sig":
            continue
        if all(len(str(key.get(name, ""))) <= most for name, most in _MAX_CHARACTERS.items()):
            # RFC 7517, section 5: ignore unknown keys
            with suppress(JoseError, ValueError, TypeError, KeyError, RecursionError):
                usable += KeySet.import_key_set({"keys": [key]}).keys
    if not usable:
        raise OidcError("The identity provider has no usable keys for signatures.", remedy=remedy, status=502)
    return KeySet(usable)


def require_characters(*values: Mapping[str, Any]) -> None:
    """Raise `InvalidTokenError` if a text has half of a surrogate pair.

    It cannot be stored, and a replacement would make one person of two.
    """
    try:
        texts = json.dumps(values).encode()
    except RecursionError:
        raise InvalidTokenError("it is nested too deeply") from None
    if replace_lone_surrogates(texts)[1]:
        raise InvalidTokenError("a text in it has half of a surrogate pair, which is no character")


def check_signature(text: str, keys: KeySet, *, needs_key_id: bool) -> jwt.Token:
    """Return the token whose signature is by one of `keys`. Raises `InvalidTokenError`, and `KeyMismatch` if other keys
    might prove the signature.
    """
    if len(text) > MAX_ID_TOKEN_CHARACTERS:
        raise InvalidTokenError(f"it has {len(text):,} characters; {MAX_ID_TOKEN_CHARACTERS:,} are allowed")
    try:
        header = dict(jws.extract_compact(text.encode()).protected)
    except (JoseError, ValueError, RecursionError):
        raise InvalidTokenError("it is not a signed token") from None
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise InvalidTokenError(f"its signature has the algorithm {str(algorithm)[:20]!r}, which is not accepted")
    if header.get("kid") is None and needs_key_id:
        raise KeyMismatch("it does not name its key")
    try:
        token = jwt.decode(text, keys, algorithms=[algorithm])
    except InvalidKeyIdError:
        raise UnknownKeyError from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise KeyMismatch("its signature does not match a key of the provider") from None
    require_characters(token.claims)
    return token


async def request_json(
    sender: HttpSender,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    remedy: str = "",
) -> tuple[int, Any]:
    """Return the HTTP status and the JSON value. None: the body is no JSON. Raises `OidcError`."""
    lower = {name.lower(): value for name, value in (headers or {"accept": "application/json"}).items()}
    try:
        reply = await sender.send_http(method, url, lower, body, purpose="identity_provider")
    except UpstreamError as error:
        raise OidcError(
            f"The identity provider cannot be reached: {error.message}. {remedy}".rstrip(), status=502
        ) from None
    try:
        return reply.status, decode_json(reply.body)
    except InvalidJson:
        return reply.status, None
