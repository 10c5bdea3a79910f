"""Services and CI jobs whose key is a token of an identity provider (`[token_issuers.NAME]`).

Each owner at an issuer is a virtual key without a secret, so that limits, budgets, ledger and audit log are those of
keys.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.console.identity.signed_tokens import InvalidTokenError
from anthropic_proxy.console.identity.token_issuers import AcceptedToken, TokenIssuers
from anthropic_proxy.console.keys.administration import KeyCommand, has_fields, open_administration
from anthropic_proxy.console.keys.descriptions import hash_key, is_jwt
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.table_rules import list_table_fields
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, classify_database_error
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.errors import AuthenticationFailed, InvalidRequest, ProxyBusy
from anthropic_proxy.gateway.settings import Settings, TokenIssuer
from anthropic_proxy.gateway.settings.key_rules import MAX_NAME_CHARACTERS
from anthropic_proxy.plugins import Client, Gateway

MAX_OWNERS = 1_000
"""Maximum number of owners at one issuer, each with a row of the database."""
_MAX_CACHED_TOKENS = 10_000
_WAIT_SECONDS = 5.0
"""Time after which the token of a new or changed service is refused, if others are stored meanwhile."""


class _Known(Struct, frozen=True):
    key_id: str
    groups: tuple[str, ...]
    ends_at: float


class ServiceTokens:
    """Finds the client of a token. `clock` returns seconds since the epoch."""

    def __init__(self, table: KeyTable, gateway: Gateway[Settings], clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._gateway = gateway
        self._clock = clock
        self._issuers: TokenIssuers | None = None
        self._tables: tuple[TokenIssuer, ...] = ()
        self._storing = asyncio.Lock()
        self._known = BoundedDict[str, _Known](_MAX_CACHED_TOKENS)
        """Hash of a checked token → its key."""

    async def identify(self, presented: Sequence[bytes]) -> Client | None:
        """Return the client of the first token among the credentials. None: there is none.

        Raises `AuthenticationFailed` for a token that is not accepted, `IssuerUnavailable` and `KeysUnavailable`.
        """
        settings = self._gateway.settings
        if settings.token_issuers != self._tables or self._issuers is None:
            self._tables = settings.token_issuers
            self._known.clear()
            self._issuers = TokenIssuers(self._tables, self._gateway, self._clock)
        token = next(filter(is_jwt, presented), None)
        if token is None or not self._tables:
            return None
        known = self._known.get(token_hash := hash_key(token))
        if known is None:
            try:
                accepted = await self._issuers.check(token.decode("latin-1"))
            except InvalidTokenError as error:
                raise _reject(error.reason) from None
            except OidcError as error:
                raise IssuerUnavailable(error.message) from None
            stored = await self._find_key(accepted, settings)
            known = self._known[token_hash] = _Known(stored.id, accepted.groups, accepted.ends_at)
        if self._clock() >= known.ends_at:
            raise _reject("it has expired")
        end = self._table.find_key_end(known.key_id)
        if end is None:
            raise KeysUnavailable(self._table.condition)
        if self._clock() >= end.at:
            raise end.build_error(code="issuer-token")
        return structs.replace(self._table.build_client(end.key), groups=known.groups)

    async def _find_key(self, accepted: AcceptedToken, settings: Settings) -> VirtualKey:
        """Return the key of the owner, which is created or changed if the table of the issuer says so."""
        issuer = accepted.issuer
        label = f"{accepted.issuer.name}/{accepted.owner}"
        if len(label) > MAX_NAME_CHARACTERS:
            raise _reject(
                f"its owner {accepted.owner[:MAX_NAME_CHARACTERS]!r} is too long: {label[:20]!r} … has {len(label)} "
                f"characters, and a label at most {MAX_NAME_CHARACTERS}. Choose another owner_claim"
            )
        services = {key.label: key for key in self._table.list_keys(f"{issuer.name}/")}
        known = services.get(label)
        if known is None and len(services) >= MAX_OWNERS:
            raise _reject(
                f"[token_issuers.{issuer.name}] has {MAX_OWNERS:,} owners already. Choose another owner_claim"
            )
        fields = {"owner": accepted.owner, **list_table_fields(issuer)}
        now = self._clock()
        # nothing is written, so that a new token of a service waits for no lock of the database
        if known is not None and (known.find_status(now) in ("revoked", "expired") or has_fields(known, fields, now)):
            return known

        def store() -> VirtualKey:
            actor = f"token issuer ({issuer.name})"
            with open_administration(settings, actor, self._clock) as administration:
                return administration.execute(KeyCommand(action="person", target=label, fields=fields)).key

        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._storing.acquire()
        except TimeoutError:
            raise KeysUnavailable(self._table.condition) from None
        try:
            key = await run_in_own_thread("service tokens", store)
        except InvalidRequest as error:
            raise _reject(f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}") from None
        except LEDGER_FAILURES as error:
            raise KeysUnavailable(classify_database_error(error)) from None
        finally:
            self._storing.release()
        end = self._table.find_key_end(key.id)
        if end is None or end.key != key:
            await self._table.refresh()
        return key


class IssuerUnavailable(ProxyBusy):
    """Error: the public keys of an identity provider cannot be read. The client may retry."""

    code = "issuer-unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The token cannot be checked. {reason}", retry_after=5)


def _reject(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"The token is not accepted: {reason}.", code="issuer-token", should_retry=False)
