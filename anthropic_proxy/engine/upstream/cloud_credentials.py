"""Access tokens of clouds: requested before the old one ends, by one thread at a time, and shared by all requests.

The libraries of the clouds block, so each renewal runs in a thread. Requests wait only if no valid token is left: the
renewal begins earlier, in the background. If the cloud does not reply within a time limit, the provider calls that wait
for the token fail, and the next one requests a token again. `TokenCache` does this for the `TokenLoader` of each
cloud: `GoogleCredentials` (library google-auth), `AwsCredentials` (botocore) and `EntraCredentials` (azure-identity).
"""

import asyncio
import logging
import math
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import clean_error_text, describe_os_error
from anthropic_proxy.engine.providers.hosts import find_region
from anthropic_proxy.engine.upstream.library_http import bound_aws_requests, new_requests_session
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import (
    AuthenticationFailed,
    InternalError,
    MissingExtra,
    ProxyError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from anthropic_proxy.secrets import Secret

RENEW_BEFORE_EXPIRY_SECONDS = 225.0
"""Time before expiry at which a token is renewed in the background (value of google-auth). Google's metadata server
returns the old token until five minutes before its expiry."""
EXPIRY_MARGIN_SECONDS = 15.0
"""Number of seconds before expiry from which a token is no longer sent, because it could expire before the server
checks it."""
MIN_RENEWAL_INTERVAL_SECONDS = 30.0
"""Minimum time between two background renewals, and between two replacements of a rejected token."""
FAILURE_SECONDS = 10.0
"""Time for which a failed log-in is the answer for all requests, before another one is tried. Libraries start a program
of the cloud for each attempt."""
RENEWAL_TIMEOUT_SECONDS = 30.0
"""Maximum time for one renewal. A shorter UPSTREAM_FIRST_BYTE_TIMEOUT replaces this value."""
MAX_SECRET_CHARACTERS = 65_536
"""Maximum length of a token or key. Servers accept less in a header."""
MAX_ABANDONED_THREADS = 16
"""Maximum number of abandoned threads. Above it, no renewal starts and requests fail. A thread ends when Google's
server replies or closes the connection."""


for _library in ("azure", "google", "msal"):
    # Error texts have their reasons. Without a handler, Python prints their warnings to standard error.
    logging.getLogger(_library).addHandler(logging.NullHandler())


class AccessToken(Struct, frozen=True):
    credential: Credential
    project_id: str | None
    """Google Cloud project of the credentials. None: unknown, or another cloud."""
    expires_at: float
    """In seconds since the epoch."""


_METADATA_HOST = "169.254.169.254"


class TokenLoader(ABC):
    """Source of the tokens of one cloud. It blocks, so threads call it: one at a time, besides abandoned ones.

    It keeps what it has loaded until that is rejected.
    """

    origin: str
    """Source of the credentials, for error messages: `Application Default Credentials`."""
    library: str
    """Name of the library that requests tokens: `google-auth`."""
    rejection_statuses: Collection[int]
    """HTTP statuses of a provider that has rejected a token, such as 401."""
    _loaded: Any = None
    """Credentials that renew themselves. None: to be read."""
    _may_be_elsewhere: bool
    """True if the library in the present call asks the metadata server of a cloud without a sign that it runs there."""
    _server_failures: dict[str, str]
    """Temporary failures of token servers, by address, of the present call: errors of the libraries do not have the
    status."""

    _unusable: str | None = None
    """Failure of the server that answered last in the present call, if its status was a success or a redirect. Without
    a token, the answer is something else, such as the log-in page of a network."""

    @abstractmethod
    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without the library.

        The message of `AuthenticationFailed` follows the name of the provider, and an API key instead follows its
        remedy.
        """

    @property
    def _server_failure(self) -> str | None:
        return next(reversed(self._server_failures.values()), None)

    def _begin_calls(self, *, may_be_elsewhere: bool = False) -> None:
        self._may_be_elsewhere, self._server_failures, self._unusable = may_be_elsewhere, {}, None

    def _note_call(self, url: str, status: int | None, content_type: str = "") -> None:
        """`status` None: the server has not answered yet."""
        address = url.partition("?")[0]
        host = urlsplit(url).hostname
        # outside a cloud, nothing is there, or a network proxy answers
        is_json = content_type.startswith("application/json")
        is_elsewhere = host == _METADATA_HOST and self._may_be_elsewhere and not is_json
        is_temporary = status is None or status == 429 or status >= 500
        answer = "did not answer" if status is None else f"answered with status {status}"
        if is_temporary and not is_elsewhere:
            self._server_failures[address] = f"{host} {answer}"
        else:  # libraries also ask for metadata, whose success says nothing about the token
            self._server_failures.pop(address, None)
        is_unusable = status is not None and 200 <= status < 400 and not is_elsewhere
        redirects = status is not None and status >= 300
        told = f"with status {status}, and redirects are not followed" if redirects else "without a token"
        self._unusable = f"{host} answered {told}" if is_unusable else None

    def _require_token(self, token: object) -> None:
        if not isinstance(token, str) or not token.strip():
            raise _build_unreachable("the answer of the token server has no token", self.origin)

    def discard_loaded(self) -> bool:
        """Read files and variables of the credentials again at the next request, because they were rejected.

        False: no earlier request has loaded them, so the next one finds the same.
        """
        loaded, self._loaded = self._loaded, None
        return loaded is not None


class TokenCache:
    """`seconds` is the maximum time for one renewal."""

    def __init__(
        self,
        loader: TokenLoader,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = RENEWAL_TIMEOUT_SECONDS,
    ) -> None:
        self._loader = loader
        self._clock = clock
        self._seconds = seconds
        self._abandoned = 0
        """Number of threads that still run an abandoned renewal (a renewal that exceeded its time limit)."""
        self._token: AccessToken | None = None
        self._ends_at = -math.inf
        """Time by `clock` at which the token expires. Nobody sets this clock, other than that of the machine."""
        self._renewal: asyncio.Task[AccessToken] | None = None
        self._renewal_started_at = 0.0
        """Loop time of the begin of the latest renewal."""
        self._hangs = False
        """True if the latest renewal had no answer within its time limit."""
        self._renew_after = -math.inf
        """Clock time from which a token that is still valid is renewed in the background."""
        self._invalidated_at = -math.inf
        self._unchanged = ""
        """Rejected keys that were read from a file, which may have others since. "": a server issues tokens, and each
        time another one, so that only time limits the attempts."""
        self._failure: AuthenticationFailed | MissingExtra | None = None
        """Failure of the last log-in. None: it succeeded, or failed for a reason that may have ended."""
        self._failed_until = -math.inf

    @property
    def rejection_statuses(self) -> Collection[int]:
        return self._loader.rejection_statuses

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, `UpstreamTimeout` or `MissingExtra`."""
        token, now = self._token, self._clock()
        if token is None or now >= self._ends_at - EXPIRY_MARGIN_SECONDS:
            if self._failure is not None and now < self._failed_until:
                raise self._failure.with_traceback(None)
            renewal = self._renew()
            if max_seconds is not None and self._hangs:
                max_seconds = 0.0
            # neither the end of the wait nor a disconnect of the client cancels the renewal, which serves later calls
            try:
                async with asyncio.timeout_at(None if max_seconds is None else self._renewal_started_at + max_seconds):
                    token = await asyncio.shield(renewal)
            except TimeoutError:
                text = f"no access token yet, so the next target is called ({self._loader.origin})"
                raise UpstreamTimeout(text, code="token-timeout") from None
        elif now >= self._ends_at - RENEW_BEFORE_EXPIRY_SECONDS and now >= self._renew_after:
            self._renew()
        return token.credential, token.project_id

    def invalidate_token(self, credential: Credential) -> bool:
        """Discard the access token that the provider has rejected. False: the same or another token was discarded
        within `MIN_RENEWAL_INTERVAL_SECONDS`, so a retry has no other one. Other keys of a file are discarded at once.
        """
        if self._token is None or self._token.credential.value != credential.value:
            return True
        is_early = self._clock() < self._invalidated_at + MIN_RENEWAL_INTERVAL_SECONDS
        if is_early and self._unchanged in ("", credential.value):
            return False
        self._invalidated_at = self._clock()
        self._token = None
        self._unchanged = "" if self._loader.discard_loaded() else credential.value
        return True

    def _renew(self) -> asyncio.Task[AccessToken]:
        def end(renewal: asyncio.Task[AccessToken]) -> None:
            self._renewal = None
            self._renew_after = self._clock() + MIN_RENEWAL_INTERVAL_SECONDS
            if renewal.cancelled():
                return
            failure = renewal.exception()
            self._failure = failure if isinstance(failure, AuthenticationFailed | MissingExtra) else None
            self._hangs = isinstance(failure, UpstreamTimeout)
            self._failed_until = self._clock() + FAILURE_SECONDS
            if failure is None:
                self._token = renewal.result()
                self._ends_at = self._clock() + self._token.expires_at - time.time()

        if self._renewal is None:
            self._renewal_started_at = asyncio.get_running_loop().time()
            self._renewal = asyncio.create_task(self._load_token())
            self._renewal.add_done_callback(end)
        return self._renewal

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
                try:
                    loaded_token = self._loader.request_token()
                except AuthenticationFailed:
                    if not self._loader.discard_loaded():
                        raise
                    loaded_token = self._loader.request_token()
                _require_usable(loaded_token.credential, origin)
                token = loaded_token
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


def _require_usable(credential: Credential, origin: str) -> None:
    """Raise `UpstreamUnreachable` for a token or key that is none. Errors are searched for parts of it."""
    for secret in credential.secrets:
        if len(secret) > MAX_SECRET_CHARACTERS:
            raise _build_unreachable(
                f"a token or key has {len(secret):,} characters; at most {MAX_SECRET_CHARACTERS:,} are accepted", origin
            )
        if not (secret.isascii() and secret.isprintable()):
            raise _build_unreachable("a token or key has a character other than printable ASCII", origin)


_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class GoogleCredentials(TokenLoader):
    """Loader of tokens. `file` None: google-auth searches by its own rules."""

    library = "google-auth"
    rejection_statuses = (401,)

    def __init__(self, file: str | None, *, needs_project: bool, connect_timeout: float) -> None:
        self._file = file
        self._needs_project = needs_project
        self._limits = (connect_timeout, RENEWAL_TIMEOUT_SECONDS)
        self.origin = "GOOGLE_APPLICATION_CREDENTIALS" if file else "Application Default Credentials"

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without google-auth."""
        try:
            from google.auth import exceptions  # noqa: PLC0415  # not in the default path
            from google.auth.transport import requests  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("A token of Google Cloud needs google-auth", "vertex") from None
        request = _with_limits(requests.Request, self._limits, new_requests_session("access_token"), self._note_call)
        self._begin_calls()
        try:
            found = self._loaded or self._load(request)
            credentials, project = found
            credentials.refresh(request)
        except exceptions.GoogleAuthError as error:
            if isinstance(error, exceptions.TransportError) or error.retryable:
                raise _build_unreachable(_describe_google(error), self.origin) from error
            # the search for credentials calls the metadata server, which exists only in Google Cloud
            failure = self._server_failure or self._unusable
            if failure and not isinstance(error, exceptions.DefaultCredentialsError):
                raise _build_unreachable(f"{failure}.", self.origin) from error
            raise self._build_error(error) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            # an invalid credentials file, or an answer of another form
            if self._unusable:
                raise _build_unreachable(f"{self._unusable}.", self.origin) from error
            raise self._build_error(error) from error
        if project is None and self._needs_project and self._server_failure:  # google-auth ignores this failure
            raise _build_unreachable(f"{self._server_failure}.", self.origin)
        self._require_token(credentials.token)
        self._loaded = found
        quota_project = credentials.quota_project_id
        extra_headers = {"x-goog-user-project": quota_project} if quota_project else {}
        credential = Credential("authorization", f"Bearer {credentials.token}", self.origin, extra_headers)
        expiry = credentials.expiry  # naive, in UTC
        expires_at = math.inf if expiry is None else float(expiry.replace(tzinfo=UTC).timestamp())
        return AccessToken(credential, project, expires_at)

    def _load(self, request: Any) -> tuple[Any, str | None]:
        import google.auth  # noqa: PLC0415
        from google.auth import credentials as credentials_library  # noqa: PLC0415

        library: Any = google.auth  # its functions have no types
        scopes: Any = credentials_library
        if self._file is None:
            unscoped, project = library.default(request=request)
        else:
            read_bounded_file(self._file)  # the library itself has no limit
            unscoped, project = library.load_credentials_from_file(self._file, request=request)
        credentials = scopes.with_scopes_if_required(unscoped, [_SCOPE])
        if project is None and self._needs_project and hasattr(credentials, "get_project_id"):
            project = credentials.get_project_id(request)
        return credentials, project

    def _build_error(self, error: Exception) -> AuthenticationFailed:
        return AuthenticationFailed(
            f"has no access token: {_describe_google(error)} The credentials come from {self.origin}.",
            remedy="Set GOOGLE_APPLICATION_CREDENTIALS, or log in with: gcloud auth application-default login",
            should_retry=False,
            code="vertex-token",
        )


def _build_unreachable(problem: str, origin: str) -> UpstreamUnreachable:
    return UpstreamUnreachable(f"no access token: {problem} ({origin})", code="no-token-server")


def _with_limits(base: Any, limits: tuple[float, float], session: Any, note_call: Callable[..., None]) -> Any:
    """`limits`: seconds for connecting and for waiting for data. The default of google-auth is two minutes."""

    class Request(base):  # type: ignore[misc]  # known only when google-auth is loaded
        def __call__(self, url: str, *arguments: Any, timeout: Any = None, **others: Any) -> Any:
            note_call(url, None)
            response = super().__call__(url, *arguments, timeout=timeout or limits, **others)
            note_call(url, response.status, response.headers.get("content-type", ""))
            return response

    return Request(session)


def _describe_google(error: Exception) -> str:
    """Return the first argument of an exception of google-auth. Its other arguments can contain complete responses."""
    if isinstance(error, TypeError | KeyError | AttributeError | ArithmeticError | RecursionError):
        return "the credentials, or an answer of their server, have an unexpected form."
    while error.args and isinstance(error.args[0], Exception):  # of a connection that has failed
        error = error.args[0]
    text = clean_error_text(str(error.args[0])) if error.args else describe_os_error(error)
    return f"{describe_os_error(error) if isinstance(error, OSError) else text}."


MAX_AGE_SECONDS = 600.0
"""Time after which the credentials are read again, because another program may have changed a file with them. botocore
renews temporary credentials about ten minutes before their end."""
_CONTAINER_REFUSAL = compile_later(r"Received non 200 response 4(?!29)\d\d from container metadata")
"""Text of botocore if the server of a container refuses the credentials."""
_TEMPORARY_CODES = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"})
"""Error codes of AWS STS that come with status 400 and that AWS documents as worth a retry."""
_SIGNATURE_HEADERS = ("authorization", "x-amz-date", "x-amz-security-token")


class AwsCredentials(TokenLoader):
    """Loader of the keys that sign requests to Amazon Bedrock (AWS Signature Version 4).

    botocore finds them: variables, profiles, single sign-on, web identity, containers and the metadata server of a
    machine. Finding them blocks; a signature is only computed, for each request. `variables` has the content of
    `.env`, which botocore itself does not read.
    """

    library = "botocore"
    rejection_statuses = (401, 403)  # an expired or unknown key is a 403
    origin = "the credentials of AWS"

    def __init__(self, region: str | None, variables: Mapping[str, Secret]) -> None:
        self._region = region
        self._variables = variables
        self._failed_renewal = ""
        """Failure of the metadata server of this machine, whose credentials have ended. botocore then finds none: it
        takes each failure of the server for a sign that there is none."""

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without botocore."""
        try:
            # not in the default path; `sign_request` needs the first two loaded
            from botocore import (  # type: ignore[import-untyped]  # noqa: PLC0415
                auth,  # noqa: F401
                awsrequest,  # noqa: F401
                credentials,
                exceptions,
                parsers,
                session,
            )
        except ImportError:
            raise MissingExtra("A signature for AWS needs botocore", "bedrock") from None
        try:
            found = self._loaded or self._load(session.Session)
            keys = None if found is None else found.get_frozen_credentials()
        except exceptions.ClientError as error:
            text = clean_error_text(str(error))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            if status in {408, 429} or status >= 500 or code in _TEMPORARY_CODES:
                raise _build_unreachable(text, self.origin) from error
            raise _build_aws_error(text) from error
        except exceptions.CredentialRetrievalError as error:
            text = clean_error_text(str(error))
            source = error.kwargs.get("provider")
            of_container = isinstance(error.__context__, exceptions.MetadataRetrievalError)
            if source == "Ec2InstanceMetadata" or (of_container and not _CONTAINER_REFUSAL.search(text)):
                raise _build_unreachable(text, self.origin) from error
            if source == "iam-role":
                self._failed_renewal = text
            raise _build_aws_error(text) from error
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.MetadataRetrievalError,
            parsers.ResponseParserError,
        ) as error:
            raise _build_unreachable(clean_error_text(str(error)), self.origin) from error
        except (exceptions.BotoCoreError, ValueError, RuntimeError) as error:
            raise _build_aws_error(clean_error_text(str(error))) from error
        except (KeyError, TypeError, OverflowError) as error:
            raise _build_unreachable("an answer of their server has an unexpected form", self.origin) from error
        if keys is not None and not all(isinstance(part, str | None) for part in keys):
            raise _build_unreachable("an answer of their server has an unexpected form", self.origin)
        if keys is None or not (keys.access_key and keys.secret_key):
            if self._failed_renewal:
                raise _build_unreachable(self._failed_renewal, self.origin)
            raise _build_aws_error("none were found")
        self._failed_renewal = ""
        self._loaded = found if isinstance(found, credentials.RefreshableCredentials) else None
        return self._build_token(keys)

    def _build_token(self, keys: Any) -> AccessToken:
        ends_at = getattr(self._loaded, "_expiry_time", None)
        expires_at = time.time() + MAX_AGE_SECONDS
        if ends_at is not None:
            expires_at = min(expires_at, ends_at.timestamp())
        credential = Credential(
            "authorization",
            keys.secret_key,
            self.origin,
            sign=partial(sign_request, keys, self._region),
            further_secrets=(keys.token,) if keys.token else (),
        )
        return AccessToken(credential, None, expires_at)

    def _load(self, new_session: Any) -> Any:
        given = {name: secret.reveal() for name, secret in self._variables.items()}
        session: Any = new_session(profile=given.get("AWS_PROFILE"))
        for variable, name in (("AWS_CONFIG_FILE", "config_file"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials_file")):
            if variable in given:
                session.set_config_variable(name, given[variable])
        if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
            session.set_credentials(
                given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given.get("AWS_SESSION_TOKEN")
            )
        if self._region and session.get_config_variable("region") is None:  # botocore does not read AWS_REGION
            session.set_config_variable("region", self._region)
        if (accepted := ssl.get_default_verify_paths().cafile) and session.get_config_variable("ca_bundle") is None:
            session.set_config_variable("ca_bundle", accepted)
        bound_aws_requests(session)
        return session.get_credentials()


_PLATFORM_ON_AWS = "aws-external-anthropic"
"""Name of the service in signatures, and first part of the host."""


def sign_request(
    keys: Any, region: str | None, *, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Mapping[str, str]:
    """Return the headers with the signature of a request.

    Only headers that AWS requires are signed, because a proxy on the way may change others. `region` is used if the
    address names none.
    """
    from botocore import auth, awsrequest  # noqa: PLC0415

    address, named_region = urlsplit(url), find_region(url)
    # the host of a VPC endpoint: vpce-0abc.bedrock-mantle.us-east-1.vpce.amazonaws.com
    is_mantle = "bedrock-mantle" in (address.hostname or "").split(".")
    # another host, of a gateway: as the client `AnthropicBedrockMantle` of the SDK `anthropic` 2.10.0
    is_mantle = is_mantle or (named_region is None and "/anthropic/v1/" in address.path)
    service = "bedrock-mantle" if is_mantle else "bedrock"
    if (address.hostname or "").startswith(f"{_PLATFORM_ON_AWS}."):
        service = _PLATFORM_ON_AWS
    signed = {name: value for name, value in headers.items() if name == "content-type" or name.startswith("x-amz")}
    request: Any = awsrequest.AWSRequest(method=method, url=url, headers=signed, data=body)
    auth.SigV4Auth(keys, service, named_region or region).add_auth(request)
    found = {name.lower(): value for name, value in request.headers.items()}
    return {name: found[name] for name in _SIGNATURE_HEADERS if name in found}


def _build_aws_error(problem: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"has no credentials of AWS: {problem}.",
        remedy="Set AWS_PROFILE, or log in with: aws sso login",
        code="cloud-credentials",
        should_retry=False,
    )


FOUNDRY_SCOPE = "https://ai.azure.com/.default"
"""Scope of Claude in Microsoft Foundry. Source: foundry.md of the Python SDK `anthropic` 2.10.0."""
OPENAI_SCOPES: Mapping[str, tuple[str, str | None]] = {
    "azure_openai": ("https://cognitiveservices.azure.com/.default", None),
    "azure_openai_us": ("https://cognitiveservices.azure.us/.default", "login.microsoftonline.us"),
    "azure_openai_cn": ("https://cognitiveservices.azure.cn/.default", "login.chinacloudapi.cn"),
}
"""`Provider.key_source` → scope of Azure OpenAI, and host that issues the tokens (None: `AZURE_AUTHORITY_HOST`, or the
public cloud), with and without an API version in the address. Sources: openai-python examples/azure_ad.py (read
2026-11-23; the page "Azure OpenAI v1 API" of learn.microsoft.com has `FOUNDRY_SCOPE`); `AzureOpenAIAudience` of
azure-sdk-for-net, `KnownFormRecognizerAudience` of azure-sdk-for-js, `AzureAuthorityHosts` of azure-identity (read
2026-11-26)."""
_OF_APPLICATION = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


class EntraCredentials(TokenLoader):
    """Loader of tokens for one scope. `authority`: host that issues them. None: that of azure-identity.

    `variables` has the content of `.env`, which azure-identity itself does not read.
    """

    library = "azure-identity"
    rejection_statuses = (401,)
    origin = "Microsoft Entra ID"

    def __init__(self, variables: Mapping[str, Secret], scope: str, authority: str | None = None) -> None:
        self._variables = variables
        self._scope = scope
        self._authority = {} if authority is None else {"authority": authority}

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without azure-identity."""
        try:
            from azure.core import exceptions  # noqa: PLC0415  # not in the default path
            from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415
            from azure.identity import ClientSecretCredential, DefaultAzureCredential  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("Microsoft Entra ID needs azure-identity", "azure") from None

        def note_response(received: Any) -> None:
            response = received.http_response
            self._note_call(received.http_request.url, response.status_code, response.headers.get("content-type", ""))

        self._begin_calls(may_be_elsewhere=self._loaded is None)  # one of many ways to log in, until it has succeeded
        try:
            found = self._loaded
            if found is None:
                given = [self._variables[name].reveal() for name in _OF_APPLICATION if name in self._variables]
                is_complete = len(given) == len(_OF_APPLICATION)
                session = new_requests_session("access_token")
                accepted = session.merge_environment_settings("https://", {}, None, None, None)["verify"]
                new = partial(ClientSecretCredential, *given) if is_complete else DefaultAzureCredential
                found = new(
                    **self._authority,
                    transport=RequestsTransport(session=session, session_owner=False),
                    connection_verify=accepted,
                    raw_request_hook=lambda sent: self._note_call(sent.http_request.url, None),
                    raw_response_hook=note_response,
                )
            token = found.get_token(self._scope)
        except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as error:
            raise _build_unreachable(_describe_azure(error), self.origin) from error
        except (exceptions.AzureError, ValueError) as error:
            if failure := self._server_failure or self._unusable:
                raise _build_unreachable(f"{failure}.", self.origin) from error
            raise AuthenticationFailed(
                f"has no access token: {_describe_azure(error)}",
                remedy="Log in with: az login",
                code="cloud-credentials",
                should_retry=False,
            ) from error
        self._require_token(token.token)
        self._loaded = found
        credential = Credential("authorization", f"Bearer {token.token}", self.origin)
        return AccessToken(credential, None, float(token.expires_on))


_NOT_SET_UP = compile_later(r"unavailable|not found|not installed|required|requires|could not be found")


def _describe_azure(error: Exception) -> str:
    """Return the first line of an exception, or the failures of the credentials that are set up on this machine.

    The lines after the first list all credentials that were tried, most of which are not set up.
    """
    first, *lines = str(error).split("\n")
    failures = [line.strip() for line in lines if line.startswith("\t") and not _NOT_SET_UP.search(line)]
    text = clean_error_text("; ".join(failures) or first).rstrip(".:")
    return f"{text or type(error).__name__}."
