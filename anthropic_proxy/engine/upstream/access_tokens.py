"""Access tokens of clouds: requested before the old one ends, by one thread at a time, and shared by all requests.

The libraries of the clouds block, so each renewal runs in a thread. Requests wait only if no valid token is left: the
renewal begins earlier, in the background. If the cloud does not reply within a time limit, the provider calls that wait
for the token fail, and the next one requests a token again. `google_auth.py`, `aws_auth.py` and `azure_auth.py` have
the loader of each cloud.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import InternalError, ProxyError, UpstreamTimeout

RENEW_BEFORE_EXPIRY_SECONDS = 225.0
"""Time before expiry at which a token is renewed in the background (value of google-auth). Google's metadata server
returns the old token until five minutes before its expiry."""
EXPIRY_MARGIN_SECONDS = 15.0
"""Number of seconds before expiry from which a token is no longer sent, because it could expire before the server
checks it."""
MIN_RENEWAL_INTERVAL_SECONDS = 30.0
"""Minimum time between two background renewals, and between two replacements of a rejected token."""
RENEWAL_TIMEOUT_SECONDS = 30.0
"""Maximum time for one renewal. A shorter UPSTREAM_FIRST_BYTE_TIMEOUT replaces this value."""
MAX_ABANDONED_THREADS = 16
"""Maximum number of abandoned threads. Above it, no renewal starts and requests fail. A thread ends when Google's
server replies or closes the connection."""


class AccessToken(Struct, frozen=True):
    credential: Credential
    project_id: str | None
    """Google Cloud project of the credentials. None: unknown, or another cloud."""
    expires_at: float
    """In seconds since the epoch."""


class TokenLoader(Protocol):
    """Source of the tokens of one cloud. It blocks, so threads call it: one at a time, besides abandoned ones."""

    @property
    def origin(self) -> str:
        """Source of the credentials, for error messages: `Application Default Credentials`."""
        ...

    @property
    def library(self) -> str:
        """Name of the library that requests tokens: `google-auth`."""
        ...

    @property
    def rejection_statuses(self) -> Collection[int]:
        """HTTP statuses of a provider that has rejected a token, such as 401."""
        ...

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without the library."""
        ...

    def discard_loaded(self) -> None:
        """Read files and variables of the credentials again at the next request, because a token was rejected."""
        ...


class TokenCache:
    """`seconds` is the maximum time for one renewal."""

    def __init__(
        self,
        loader: TokenLoader,
        *,
        clock: Callable[[], float] = time.time,
        seconds: float = RENEWAL_TIMEOUT_SECONDS,
    ) -> None:
        self._loader = loader
        self._clock = clock
        self._seconds = seconds
        self._abandoned = 0
        """Number of threads that still run an abandoned renewal (a renewal that exceeded its time limit)."""
        self._token: AccessToken | None = None
        self._renewal: asyncio.Task[AccessToken] | None = None
        self._renew_after = -math.inf
        """Clock time from which a token that is still valid is renewed in the background."""
        self._invalidated_at = -math.inf

    @property
    def rejection_statuses(self) -> Collection[int]:
        return self._loader.rejection_statuses

    async def acquire_token(self) -> tuple[Credential, str | None]:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, `UpstreamTimeout` or `MissingExtra`."""
        token, now = self._token, self._clock()
        if token is None or now >= token.expires_at - EXPIRY_MARGIN_SECONDS:
            token = await asyncio.shield(self._renew())  # a disconnect of one client does not cancel the renewal
        elif now >= token.expires_at - RENEW_BEFORE_EXPIRY_SECONDS and now >= self._renew_after:
            self._renew()
        return token.credential, token.project_id

    def invalidate_token(self, credential: Credential) -> bool:
        """Discard the access token that the provider has rejected. False: another token was discarded within
        `MIN_RENEWAL_INTERVAL_SECONDS`, so a retry has no other one.
        """
        if self._token is None or self._token.credential.value != credential.value:
            return True
        if self._clock() < self._invalidated_at + MIN_RENEWAL_INTERVAL_SECONDS:
            return False
        self._invalidated_at = self._clock()
        self._token = None
        self._loader.discard_loaded()
        return True

    def _renew(self) -> asyncio.Task[AccessToken]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._load_token())
            self._renewal.add_done_callback(self._end_renewal)
        return self._renewal

    def _end_renewal(self, renewal: asyncio.Task[AccessToken]) -> None:
        self._renewal = None
        self._renew_after = self._clock() + MIN_RENEWAL_INTERVAL_SECONDS
        if not renewal.cancelled() and renewal.exception() is None:
            self._token = renewal.result()

    async def _load_token(self) -> AccessToken:
        origin = self._loader.origin
        if self._abandoned >= MAX_ABANDONED_THREADS:
            raise UpstreamTimeout(
                f"no access token: {self._abandoned} earlier requests for one still hang ({origin})",
                code="token-timeout",
            )
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[AccessToken] = loop.create_future()

        def end(token: AccessToken | None, failure: ProxyError) -> None:
            if loaded.done():
                self._abandoned -= 1
            elif token is None:
                loaded.set_exception(failure)
            else:
                loaded.set_result(token)

        def work() -> None:
            token: AccessToken | None = None
            failure: ProxyError = InternalError(
                f"{self._loader.library} failed in the proxy; the traceback is in its log."
            )
            try:
                token = self._loader.request_token()
            except ProxyError as error:
                failure = error
            finally:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(end, token, failure)

        threading.Thread(target=work, name=self._loader.library, daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                return await loaded
        except TimeoutError:
            raise UpstreamTimeout(
                f"no access token: its server did not answer within {self._seconds:g} s ({origin})",
                code="token-timeout",
            ) from None
        finally:
            self._abandoned += loaded.cancelled()
