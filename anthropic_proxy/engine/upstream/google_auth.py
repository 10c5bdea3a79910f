"""Access tokens for Google Cloud (Vertex AI), requested by the library google-auth."""

import math
from datetime import UTC
from typing import Any

from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import clean_error_text, describe_os_error
from anthropic_proxy.engine.upstream.access_tokens import RENEWAL_TIMEOUT_SECONDS, AccessToken
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import AuthenticationFailed, MissingExtra, UpstreamUnreachable

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class GoogleCredentials:
    """Loader of tokens. `file` None: google-auth searches by its own rules."""

    library = "google-auth"
    rejection_statuses = (401,)

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

    def discard_loaded(self) -> None:
        """The loaded credentials stay: they request a new token at each renewal."""

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
