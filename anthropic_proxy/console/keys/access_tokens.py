"""Access tokens of signed-in persons: JWTs that the proxy signs with `SIGN_IN_SECRET`.

The table of sign-ins decides whether a token is accepted. The token only proves which sign-in it belongs to.
"""

import base64
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from joserfc import jwe, jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from msgspec import Struct, structs

from anthropic_proxy.console.identity.people import OidcError, OidcUser, is_of_issuer, require_group, resolve_role
from anthropic_proxy.console.keys.descriptions import is_jwt
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable, SignInEntry
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.errors import AuthenticationFailed, PermissionDenied
from anthropic_proxy.gateway.settings import Settings, SignInSettings
from anthropic_proxy.gateway.settings.sign_in_tables import GATEWAY_AUDIENCE
from anthropic_proxy.plugins import Client

_ALGORITHM = "HS256"
_LEEWAY_SECONDS = 60
"""Accepted difference in seconds between the clocks of the instances."""
_NEW_SECONDS = 60.0
"""Time for which a token may be of a sign-in that this instance has not read yet."""
_MAX_CACHED_TOKENS = 10_000
_ENCRYPTION = {"alg": "dir", "enc": "A256GCM"}
Purpose = Literal["device code", "refresh token"]
_RANDOM_BYTES, _TIME_BYTES, _SEAL_BYTES = 32, 5, 17
"""Parts of a sealed text. Their sum is a multiple of three, so that no bit of the text is without meaning."""
_SEALED_CHARACTERS = (_RANDOM_BYTES + _TIME_BYTES + _SEAL_BYTES) // 3 * 4


class _Token(Struct, frozen=True):
    sign_in: str
    begins_at: float
    ends_at: float


class TokenKeys:
    """Keys that are derived from `SIGN_IN_SECRET`. The first of several secrets signs and encrypts."""

    def __init__(self, settings: SignInSettings) -> None:
        texts = [secret.reveal().encode() for secret in settings.secrets]
        self._signing = [OctKey.import_key(hmac.digest(text, b"access token", "sha256")) for text in texts]
        self._encrypting = [OctKey.import_key(hmac.digest(text, b"provider token", "sha256")) for text in texts]
        self._sealing = [hmac.digest(text, b"sealed text", "sha256") for text in texts]

    def sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, dict(claims), self._signing[0])

    def find_signed_claims(self, text: str) -> Mapping[str, Any] | None:
        """None: no key has signed the token."""
        for key in self._signing:
            try:
                return jwt.decode(text, key, algorithms=[_ALGORITHM]).claims
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
        return None

    def seal(self, purpose: Purpose, ends_at: float) -> str:
        """Return a new random text, whose purpose and end are proved without a look into the database."""
        content = secrets.token_bytes(_RANDOM_BYTES) + math.ceil(ends_at).to_bytes(_TIME_BYTES, "big")
        return base64.urlsafe_b64encode(content + _seal(self._sealing[0], purpose, content)).decode()

    def is_sealed(self, text: str, purpose: Purpose, now: float) -> bool:
        """Return True if the text is of this purpose, and has not ended."""
        # Python reads `+` and `/` too, with which one text would have several spellings, each with limits of its own
        if len(text) != _SEALED_CHARACTERS or "+" in text or "/" in text:
            return False
        try:
            data = base64.b64decode(text, altchars=b"-_", validate=True)
        except ValueError:
            return False
        content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        is_own = any(hmac.compare_digest(seal, _seal(key, purpose, content)) for key in self._sealing)
        return is_own and now < int.from_bytes(content[_RANDOM_BYTES:], "big")

    def encrypt(self, text: str, user: OidcUser) -> str:
        """Encrypt a refresh token of the identity provider, so that it can be used for this user only."""
        return jwe.encrypt_compact({**_ENCRYPTION, "kid": user.subject}, text.encode(), self._encrypting[0])

    def decrypt(self, text: str, user: OidcUser) -> str | None:
        """None: it was encrypted with another secret, or for another user."""
        for key in self._encrypting:
            try:
                found = jwe.decrypt_compact(text, key, algorithms=[*_ENCRYPTION.values()])
            except (JoseError, ValueError, TypeError):
                continue
            return found.plaintext.decode() if found.plaintext and found.headers().get("kid") == user.subject else None
        return None


def _seal(key: bytes, purpose: Purpose, content: bytes) -> bytes:
    return hmac.digest(key, f"{purpose}\0".encode() + content, "sha256")[:_SEAL_BYTES]


def build_claims(user: OidcUser, sign_in: str, issuer: str, now: float, seconds: float) -> dict[str, Any]:
    """Claude Code reads `sub`, `email` and `groups` for its telemetry."""
    return {
        "iss": issuer,
        "aud": GATEWAY_AUDIENCE,
        "sub": user.subject,
        "email": user.email,
        "name": user.name,
        "groups": user.groups,
        "sid": sign_in,
        "iat": int(now),
        "exp": int(now + seconds),
    }


_ENDED = (
    "The sign-in has ended: it was ended on the device or by an administrator, or its time is over. Sign in again:  "
    "/login"
)


class SignedInClients:
    """Finds the client of an access token. `clock` returns seconds since the epoch."""

    def __init__(
        self, table: KeyTable, current_settings: Callable[[], Settings], clock: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._current_settings = current_settings
        self._clock = clock
        self._settings: Settings | None = None
        """Settings of the values below."""
        self._keys: TokenKeys | None = None
        """None: `SIGN_IN_SECRET` is not set."""
        self._tokens = BoundedDict[bytes, _Token](_MAX_CACHED_TOKENS)
        """Tokens with a valid signature, so that it is checked once."""
        self._sought = BoundedDict[str, None](_MAX_CACHED_TOKENS)
        """Keys: ids of sign-ins for which the table was read again. Later ones are read by the regular query."""
        self._end_reasons = BoundedDict[str, str](_MAX_CACHED_TOKENS)
        """Id of a sign-in that has ended → why its person was refused."""
        self._allowed = BoundedDict[str, tuple[SignInEntry, Client]](_MAX_CACHED_TOKENS)
        """Id of a sign-in → entry whose person may use Claude Code by these settings, and its client."""

    async def identify(self, presented: Sequence[bytes]) -> Client | None:
        """Return the client of the first token among the credentials. None: there is none.

        Raises `AuthenticationFailed` for an invalid token, and `PermissionDenied` if the person has no group.
        """
        settings = self._current_settings()
        if settings is not self._settings:
            self._keys = None if settings.sign_in is None else TokenKeys(settings.sign_in)
            self._tokens.clear()
            self._allowed.clear()
            self._settings = settings
        if self._keys is None:
            return None
        for credential in presented:
            token = self._tokens.get(credential)
            if token is None and (claims := find_own_claims(credential)) is not None:
                token = self._read(credential, claims, settings, self._keys)
            if token is not None:
                return await self._find_client(token, settings)
        return None

    def _read(self, credential: bytes, claims: Mapping[str, Any], settings: Settings, keys: TokenKeys) -> _Token:
        text, now = credential.decode("ascii"), self._clock()
        algorithm = jws.extract_compact(credential).protected.get("alg")
        if algorithm != _ALGORITHM:
            raise _invalid(f"its signature has the algorithm {str(algorithm)[:20]!r}, which is not accepted")
        if keys.find_signed_claims(text) is None:
            raise _invalid("its signature does not match SIGN_IN_SECRET")
        if claims.get("iss") != settings.dashboard_url:
            raise _invalid("it is of another proxy (claim iss)")
        times = claims.get("iat"), claims.get("exp")
        begin, end = (value if isinstance(value, int) else None for value in times)
        if begin is None or end is None:
            raise _invalid("it has no time (claims iat and exp)")
        if begin > now + _LEEWAY_SECONDS:
            raise _invalid("it is of the future (claim iat): compare the clocks of the instances")
        if not isinstance(sign_in := claims.get("sid"), str):
            raise _invalid("it names no sign-in (claim sid)")
        token = self._tokens[credential] = _Token(sign_in, begin, end)
        return token

    async def _find_client(self, token: _Token, settings: Settings) -> Client:
        if self._clock() >= token.ends_at:
            raise AuthenticationFailed(
                "The access token has expired. Claude Code replaces it before a request. If it does not, sign in "
                "again:  /login",
                code="sign-in-token",
                should_retry=False,
            )
        entry = self._table.find_sign_in(token.sign_in)
        is_new = self._clock() < token.begins_at + _NEW_SECONDS
        if entry is None and is_new and token.sign_in not in self._sought:
            if not await self._table.refresh():  # another instance may just have created the sign-in
                raise KeysUnavailable
            self._sought[token.sign_in] = None
            entry = self._table.find_sign_in(token.sign_in)
        if not self._table.is_loaded:
            raise KeysUnavailable
        if entry is not None and entry.end.ending == "unreadable":
            raise entry.end.build_error()
        if entry is None or self._clock() >= entry.ends_at:
            raise await self._build_end(token.sign_in)
        if settings.oidc is not None and not is_of_issuer(settings.oidc, entry.user):
            raise AuthenticationFailed(
                "The identity provider of this proxy has been replaced. Sign in again:  /login",
                code="sign-in-ended",
                should_retry=False,
            )
        allowed, client = self._allowed.get(token.sign_in, (None, entry.client))
        if allowed is not entry:
            try:
                require_group(settings, entry.user)
            except OidcError as error:
                raise PermissionDenied(
                    error.cause, remedy=error.remedy, wish=error.wish, code="sign-in-group"
                ) from None
            # a program of the developer has the token, so it never has the role of an administrator or viewer
            is_team_admin = resolve_role(settings, entry.user) == "team admin"
            client = structs.replace(entry.client, role="team admin") if is_team_admin else entry.client
            self._allowed[token.sign_in] = entry, client
        return client

    async def _build_end(self, sign_in: str) -> AuthenticationFailed:
        """The reason is read once for each sign-in that has ended."""
        reason = self._end_reasons.get(sign_in)
        if reason is None and (reason := await self._table.read_end_reason(sign_in)) is not None:
            self._end_reasons[sign_in] = reason
        text = f"The sign-in has ended. {reason}" if reason else _ENDED
        return AuthenticationFailed(text, code="sign-in-ended", should_retry=False)


def find_own_claims(credential: bytes) -> Mapping[str, Any] | None:
    """Return the unchecked claims of a token that names this kind of gateway. None: it is another key or token."""
    if not is_jwt(credential):
        return None
    try:
        claims = decode_json(jws.extract_compact(credential).payload)
    except (JoseError, InvalidJson, ValueError, TypeError, RecursionError):
        return None
    return claims if isinstance(claims, dict) and claims.get("aud") == GATEWAY_AUDIENCE else None


def _invalid(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"The access token is not valid: {reason}. Sign in again:  /login", code="sign-in-token", should_retry=False
    )
