"""Access tokens of signed-in persons: JWTs that the proxy signs with `SIGN_IN_SECRET`.

The table of sign-ins decides whether a token is accepted. The token only proves which sign-in it belongs to.
"""

import base64
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, product
from typing import Any, Literal

from joserfc import jwe, jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode
from msgspec import Struct, structs

from anthropic_proxy.console.identity.people import OidcError, OidcUser, is_of_issuer, require_group, resolve_role
from anthropic_proxy.console.keys.descriptions import is_jwt
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable, SignInEntry
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.errors import AuthenticationFailed, PermissionDenied
from anthropic_proxy.gateway.settings import MAX_SIGN_IN_SECRETS, Settings, SignInSettings
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
_RANDOM_BYTES = 32
_TIME_BYTES = 5
_SEAL_BYTES = (17, *[18] * (MAX_SIGN_IN_SECRETS - 1))
"""Lengths of the seals of a text, by the order of the secrets. With them, the length of a sealed text is a multiple of
three, so that no bit of its Base64 is without meaning."""
_MAX_SEALED_CHARACTERS = (_RANDOM_BYTES + _TIME_BYTES + sum(_SEAL_BYTES)) // 3 * 4
_SIGNATURE_BYTES = (32,) * MAX_SIGN_IN_SECRETS
_IDENTIFYING_CHARACTERS = _RANDOM_BYTES // 3 * 4
"""Number of characters at the beginning of a sealed text that only the random bytes decide."""


class _Token(Struct, frozen=True):
    sign_in: str
    begins_at: float
    ends_at: float


class TokenKeys:
    """Keys that are derived from `SIGN_IN_SECRET`.

    What they sign, seal and encrypt has a proof by each secret, and one known secret is enough to accept it. So
    instances that have a secret in common accept all of each other, in whatever order they read changed settings.
    """

    def __init__(self, settings: SignInSettings) -> None:
        texts = [secret.reveal().encode() for secret in settings.secrets]
        self._signing = [OctKey.import_key(hmac.digest(text, b"access token", "sha256")) for text in texts]
        self._encrypting = [OctKey.import_key(hmac.digest(text, b"provider token", "sha256")) for text in texts]
        self._sealing = [hmac.digest(text, b"sealed text", "sha256") for text in texts]

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a JWT. With several secrets, the last part of it has their signatures one behind the other."""
        tokens = [jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, dict(claims), key) for key in self._signing]
        if len(tokens) == 1:
            return tokens[0]
        signed, *_ = tokens[0].rpartition(".")
        signatures = b"".join(urlsafe_b64decode(token.rpartition(".")[2].encode()) for token in tokens)
        return f"{signed}.{urlsafe_b64encode(signatures).decode()}"

    def find_signed_claims(self, text: str) -> Mapping[str, Any] | None:
        """None: no secret has signed the token."""
        signed, _, signatures = text.rpartition(".")
        try:
            data = urlsafe_b64decode(signatures.encode())
        except ValueError:
            return None
        for part, key in product(_split(data, _SIGNATURE_BYTES), self._signing):
            try:
                token = f"{signed}.{urlsafe_b64encode(part).decode()}"
                return jwt.decode(token, key, algorithms=[_ALGORITHM]).claims
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
        return None

    def seal(self, purpose: Purpose, ends_at: float) -> str:
        """Return a new random text, whose purpose and end are proved without a look into the database."""
        content = secrets.token_bytes(_RANDOM_BYTES) + math.ceil(ends_at).to_bytes(_TIME_BYTES, "big")
        seals = (_seal(key, purpose, content)[:size] for key, size in zip(self._sealing, _SEAL_BYTES, strict=False))
        return base64.urlsafe_b64encode(content + b"".join(seals)).decode()

    def find_sealed(self, text: str, purpose: Purpose, now: float) -> str | None:
        """Return what identifies the text, whatever seals are in it. None: it has another purpose, it has ended, or no
        secret has sealed it.
        """
        # Python reads `+` and `/` too, with which one text would have several spellings
        if len(text) > _MAX_SEALED_CHARACTERS or "+" in text or "/" in text:
            return None
        try:
            data = base64.b64decode(text, altchars=b"-_", validate=True)
        except ValueError:
            return None
        content = data[: _RANDOM_BYTES + _TIME_BYTES]
        seals = data[_RANDOM_BYTES + _TIME_BYTES :]
        is_own = any(
            hmac.compare_digest(seal, _seal(key, purpose, content)[: len(seal)])
            for seal, key in product(_split(seals, _SEAL_BYTES), self._sealing)
        )
        if not is_own or now >= int.from_bytes(content[_RANDOM_BYTES:], "big"):
            return None
        return text[:_IDENTIFYING_CHARACTERS]

    def encrypt(self, text: str, user: OidcUser) -> str:
        """Encrypt a refresh token of the identity provider once with each secret, so that it can be used for this user
        only.
        """
        header = {**_ENCRYPTION, "kid": user.subject}
        return " ".join(jwe.encrypt_compact(header, text.encode(), key) for key in self._encrypting)

    def decrypt(self, text: str, user: OidcUser) -> str | None:
        """None: it was encrypted with other secrets, or for another user."""
        for part, key in product(text.split(), self._encrypting):
            try:
                decrypted = jwe.decrypt_compact(part, key, algorithms=[*_ENCRYPTION.values()])
            except (JoseError, ValueError, TypeError):
                continue
            if not decrypted.plaintext or decrypted.headers().get("kid") != user.subject:
                return None
            return decrypted.plaintext.decode()
        return None


def _seal(key: bytes, purpose: Purpose, content: bytes) -> bytes:
    return hmac.digest(key, f"{purpose}\0".encode() + content, "sha256")


def _split(data: bytes, sizes: Sequence[int]) -> Sequence[bytes]:
    """Return the first parts of these sizes that make up the data. Empty: it has another number of bytes."""
    parts = [data[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True) if end <= len(data)]
    return parts if sum(map(len, parts)) == len(data) else ()


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
        text = credential.decode("ascii")
        now = self._clock()
        algorithm = jws.extract_compact(credential).protected.get("alg")
        if algorithm != _ALGORITHM:
            raise _invalid(f"its signature has the algorithm {str(algorithm)[:20]!r}, which is not accepted")
        if keys.find_signed_claims(text) is None:
            raise _invalid("its signature does not match SIGN_IN_SECRET")
        if claims.get("iss") != settings.dashboard_url:
            raise _invalid("it is of another proxy (claim iss)")
        begin = claims.get("iat")
        end = claims.get("exp")
        if not isinstance(begin, int) or not isinstance(end, int):
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
                raise KeysUnavailable(self._table.condition)
            self._sought[token.sign_in] = None
            entry = self._table.find_sign_in(token.sign_in)
        if not self._table.is_loaded:
            raise KeysUnavailable(self._table.condition)
        if entry is not None and entry.end.ending == "unreadable":
            raise entry.end.build_error()
        if entry is None or self._clock() >= entry.ends_at:
            raise await self._build_end(token.sign_in, is_known=entry is not None)
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

    async def _build_end(self, sign_in: str, *, is_known: bool) -> AuthenticationFailed:
        """The reason is read once for each sign-in that has ended. `is_known`: the table has the end. Otherwise the
        sign-in may be one that could not be read yet. Raises `KeysUnavailable` then.
        """
        reason = self._end_reasons.get(sign_in)
        if reason is None:
            reason = await self._table.read_end_reason(sign_in)
            if not is_known and (reason is None or self._table.condition != "ok"):
                raise KeysUnavailable(self._table.condition)
            if reason is not None:
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
