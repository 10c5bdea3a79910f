"""Access tokens for Google Cloud (Vertex AI), requested by the library google-auth.

`GoogleTokenCache` has one token for all requests to providers. google-auth blocks, so it runs in a thread. If Google
does not reply within a time limit, the provider calls that wait for the token fail, and the next one requests a token
again.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import clean_error_text, describe_os_error
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import (
    AuthenticationFailed,
    InternalError,
    MissingExtra,
    ProxyError,
    UpstreamTimeout,
    UpstreamUnreachable,
)

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
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class AccessToken(Struct, frozen=True):
    credential: Credential
    project_id: str | None
    """Google Cloud project of the credentials. None: unknown."""
    expires_at: float
    """In seconds since the epoch."""


class GoogleTokenCache:
    """`seconds` is the maximum time for one renewal."""

    def __init__(
        self,
        credentials: "GoogleCredentials",
        *,
        clock: Callable[[], float] = time.time,
        seconds: float = RENEWAL_TIMEOUT_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._seconds = seconds
        self._abandoned = 0
        """Number of threads that still run an abandoned renewal (a renewal that exceeded its time limit)."""
        self._token: AccessToken | None = None
        self._renewal: asyncio.Task[AccessToken] | None = None
        self._renew_after = -math.inf
        """Clock time from which a token that is still valid is renewed in the background."""
        self._invalidated_at = -math.inf

    async def acquire_token(self) -> tuple[Credential, str | None]:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, `UpstreamTimeout` or `MissingExtra` (google-auth)."""
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
        return True

    def _renew(self) -> "asyncio.Task[AccessToken]":
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._load_token())
            self._renewal.add_done_callback(self._end_renewal)
        return self._renewal

    def _end_renewal(self, renewal: "asyncio.Task[AccessToken]") -> None:
        self._renewal = None
        self._renew_after = self._clock() + MIN_RENEWAL_INTERVAL_SECONDS
        if not renewal.cancelled() and renewal.exception() is None:
            self._token = renewal.result()

    async def _load_token(self) -> AccessToken:
        origin = self._credentials.origin
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
            failure: ProxyError = InternalError("google-auth failed in the proxy; the traceback is in its log.")
            try:
                token = self._credentials.request_token()
            except ProxyError as error:
                failure = error
            finally:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(end, token, failure)

        threading.Thread(target=work, name="google-auth", daemon=True).start()
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


class GoogleCredentials:
    """Call the methods in a thread, because a request blocks. `file` None: google-auth searches by its own rules."""

    def __init__(self, file: str | None, *, needs_project: bool, connect_timeout: float) -> None:
        self._file = file
        self._needs_project = needs_project
        self._limits = (connect_timeout, RENEWAL_TIMEOUT_SECONDS)
        self.origin = "GOOGLE_APPLICATION_CREDENTIALS" if file else "Application Default Credentials"
        self._loaded: tuple[Any, str | None] | None = None

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without google-auth."""
        try:
            from google.auth import exceptions  # noqa: PLC0415  # not in the default path
            from google.auth.transport import requests  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("Vertex AI needs google-auth", "vertex") from None
        request = _with_limits(requests.Request, self._limits)
        try:
            if self._loaded is None:
                self._loaded = self._load(request)
            credentials, project = self._loaded
            credentials.refresh(request)
        except exceptions.GoogleAuthError as error:
            if isinstance(error, exceptions.TransportError) or error.retryable:
                raise UpstreamUnreachable(
                    f"no access token: {_describe(error)} ({self.origin})", code="no-token-server"
                ) from error
            raise self._build_error(error) from error
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ) as error:  # an invalid credentials file
            raise self._build_error(error) from error
        quota_project = credentials.quota_project_id
        extra_headers = {"x-goog-user-project": quota_project} if quota_project else {}
        credential = Credential("authorization", f"Bearer {credentials.token}", self.origin, extra_headers)
        expiry = credentials.expiry  # naive, in UTC
        expires_at = math.inf if expiry is None else float(expiry.replace(tzinfo=UTC).timestamp())
        return AccessToken(credential, project, expires_at)

    def _load(self, request: Any) -> tuple[Any, str | None]:
        import google.auth  # noqa: PLC0415
        import google.auth.credentials  # noqa: PLC0415

        library: Any = google.auth  # its functions have no types
        if self._file is None:
            unscoped, project = library.default(request=request)
        else:
            read_bounded_file(self._file)  # the library itself has no limit
            unscoped, project = library.load_credentials_from_file(self._file, request=request)
        credentials = library.credentials.with_scopes_if_required(unscoped, [_SCOPE])
        if project is None and self._needs_project and hasattr(credentials, "get_project_id"):
            project = credentials.get_project_id(request)
        return credentials, project

    def _build_error(self, error: Exception) -> AuthenticationFailed:
        return AuthenticationFailed(
            f"vertex has no access token: {_describe(error)} The credentials come from {self.origin}. "
            "Set GOOGLE_APPLICATION_CREDENTIALS, or log in with: gcloud auth application-default login",
            should_retry=False,
            code="vertex-token",
        )


def _with_limits(base: Any, limits: tuple[float, float]) -> Any:
    """`limits`: seconds for connecting and for waiting for data. The default of google-auth is two minutes."""

    class Request(base):  # type: ignore[misc]  # known only when google-auth is loaded
        def __call__(self, *arguments: Any, timeout: Any = None, **others: Any) -> Any:
            return super().__call__(*arguments, timeout=timeout or limits, **others)

    return Request()


def _describe(error: Exception) -> str:
    """Return the first argument of an exception of google-auth. Its other arguments can contain complete responses."""
    text = clean_error_text(str(error.args[0])) if error.args else describe_os_error(error)
    return f"{describe_os_error(error) if isinstance(error, OSError) else text}."
