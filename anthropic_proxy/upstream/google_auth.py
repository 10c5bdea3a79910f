"""Access tokens for Google Cloud: Application Default Credentials, read and refreshed by google-auth.

google-auth blocks while it reads files, signs and asks its servers, so it works in a thread. It and the HTTP client
that it brings are loaded by the first request that needs a token.
"""

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

from msgspec import Struct

from anthropic_proxy.errors import AuthenticationFailed, ProxyError, UpstreamUnreachable
from anthropic_proxy.wire.contract import Credential

RENEW_BEFORE_SECONDS = 225.0
"""How long before its end a token is renewed. google-auth's own figure: the metadata server gives a new one only from
five minutes before the end, so an earlier renewal would get the old one again."""
WAIT_BEFORE_SECONDS = 15.0
"""How long before its end a token is no longer used: a request may be on its way that long."""
REST_SECONDS = 30.0
"""How long after a renewal, or after a token was refused, the same is not done again at once."""
TOKEN_SERVER_SECONDS = 30.0
"""Silence that is allowed to a token server."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_INSTALL = "vertex needs google-auth, which is not installed. Install it with: pip install 'anthropic-proxy[vertex]'"
_LONGEST_WORDS = 300


class Token(Struct, frozen=True):
    """A token, and how long it holds."""

    credential: Credential
    project: str | None
    """The project that the credentials belong to, where they say so."""
    expires_at: float
    """Seconds since the epoch."""


class GoogleTokens:
    """One token for all requests: renewed once for all who wait, and before it ends while nobody waits.

    `clock` gives seconds since the epoch.
    """

    def __init__(self, credentials: "GoogleCredentials", *, clock: Callable[[], float] = time.time) -> None:
        self._credentials = credentials
        self._clock = clock
        self._token: Token | None = None
        self._renewal: asyncio.Task[Token] | None = None
        self._renew_from = -math.inf
        """When a token that still holds may be renewed again."""
        self._dropped_at = -math.inf

    async def find(self) -> tuple[Credential, str | None]:
        """Return the header, and the project that the credentials belong to where they say so.

        Raises `AuthenticationFailed` where there are no credentials or they are refused, `UpstreamUnreachable` where
        their server does not answer.
        """
        token, now = self._token, self._clock()
        if token is None or now >= token.expires_at - WAIT_BEFORE_SECONDS:
            token = await asyncio.shield(self._renew())  # who leaves does not end the waiting of others
        elif now >= token.expires_at - RENEW_BEFORE_SECONDS and now >= self._renew_from:
            self._renew()
        return token.credential, token.project

    def drop(self, credential: Credential) -> bool:
        """Forget a token that was refused; say whether another may do.

        False soon after another one was refused: then it is not the token's age.
        """
        if self._token is None or self._token.credential.value != credential.value:
            return True
        if self._clock() < self._dropped_at + REST_SECONDS:
            return False
        self._dropped_at = self._clock()
        self._token = None
        return True

    def _renew(self) -> "asyncio.Task[Token]":
        if self._renewal is None:
            self._renewal = asyncio.create_task(asyncio.to_thread(self._credentials.load_token))
            self._renewal.add_done_callback(self._end_renewal)
        return self._renewal

    def _end_renewal(self, renewal: "asyncio.Task[Token]") -> None:
        self._renewal = None
        self._renew_from = self._clock() + REST_SECONDS
        if not renewal.cancelled() and renewal.exception() is None:
            self._token = renewal.result()


class GoogleCredentials:
    """What google-auth finds; every method blocks.

    `file`: a file of credentials; None: google-auth looks where it always does, down to the metadata server.
    `needs_project`: whether nobody else says the project.
    """

    def __init__(self, file: str | None, *, needs_project: bool, connect_timeout: float) -> None:
        self._file = file
        self._needs_project = needs_project
        self._limits = (connect_timeout, TOKEN_SERVER_SECONDS)
        self._origin = "GOOGLE_APPLICATION_CREDENTIALS" if file else "Application Default Credentials"
        self._loaded: tuple[Any, str | None] | None = None

    def load_token(self) -> Token:
        """Return a fresh token. Raises as `GoogleTokens.find` does."""
        try:
            from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415  # not in the default path
            from google.auth.transport import requests  # noqa: PLC0415
        except ImportError:
            raise AuthenticationFailed(_INSTALL, should_retry=False) from None
        request = _with_limits(requests.Request, self._limits)
        try:
            if self._loaded is None:
                self._loaded = self._load(request)
            credentials, project = self._loaded
            credentials.refresh(request)
        except GoogleAuthError as error:
            raise self._failure(error) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # a file that holds something else
            raise self._refusal(error) from error
        return Token(self._credential(credentials), project, _end_of(credentials))

    def _load(self, request: Any) -> tuple[Any, str | None]:
        import google.auth  # noqa: PLC0415
        import google.auth.credentials  # noqa: PLC0415

        library: Any = google.auth  # its functions have no types
        if self._file is None:
            found, project = library.default(request=request)
        else:
            found, project = library.load_credentials_from_file(self._file, request=request)
        credentials = library.credentials.with_scopes_if_required(found, [_SCOPE])
        if project is None and self._needs_project and hasattr(credentials, "get_project_id"):
            project = credentials.get_project_id(request)
        return credentials, project

    def _credential(self, credentials: Any) -> Credential:
        payer = credentials.quota_project_id
        further = {"x-goog-user-project": payer} if payer else {}
        return Credential("authorization", f"Bearer {credentials.token}", self._origin, further)

    def _failure(self, error: Any) -> ProxyError:
        from google.auth.exceptions import TransportError  # noqa: PLC0415

        if isinstance(error, TransportError) or error.retryable:
            return UpstreamUnreachable(f"no access token: {_words(error)} ({self._origin})")
        return self._refusal(error)

    def _refusal(self, error: Exception) -> AuthenticationFailed:
        return AuthenticationFailed(
            f"vertex has no access token: {_words(error)} The credentials come from {self._origin}. "
            "Set GOOGLE_APPLICATION_CREDENTIALS, or log in with: gcloud auth application-default login",
            should_retry=False,
        )


def _with_limits(base: Any, limits: tuple[float, float]) -> Any:
    """Return google-auth's own transport, which waits two minutes where it is not told otherwise."""

    class Request(base):  # type: ignore[misc]  # known only when google-auth is loaded
        def __call__(self, *arguments: Any, timeout: Any = None, **others: Any) -> Any:
            return super().__call__(*arguments, timeout=timeout or limits, **others)

    return Request()


def _end_of(credentials: Any) -> float:
    expiry = credentials.expiry  # naive, in UTC
    return math.inf if expiry is None else float(expiry.replace(tzinfo=UTC).timestamp())


def _words(error: Exception) -> str:
    """Return the first of an exception's arguments: google-auth puts whole answers into the others."""
    said = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
    return said[:_LONGEST_WORDS].rstrip(".") + "."
