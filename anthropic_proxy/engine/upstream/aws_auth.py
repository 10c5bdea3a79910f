"""Signatures for Amazon Bedrock (AWS Signature Version 4), made by the library botocore.

botocore finds the credentials: variables, profiles, single sign-on, web identity, containers and the metadata server of
a machine. Finding them blocks, so `TokenCache` asks for them in a thread. A signature is only computed, for each
request.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.upstream.access_tokens import AccessToken
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import AuthenticationFailed, MissingExtra, UpstreamUnreachable
from anthropic_proxy.secrets import Secret

MAX_AGE_SECONDS = 600.0
"""Time after which the credentials are read again, because another program may have changed a file with them. botocore
renews temporary credentials about ten minutes before their end."""
_SIGNATURE_HEADERS = ("authorization", "x-amz-date", "x-amz-security-token")


class AwsCredentials:
    """Loader of credentials. `variables` are those of `.env`, which botocore itself does not read."""

    library = "botocore"
    rejection_statuses = (401, 403)  # an expired or unknown key is a 403
    origin = "the credentials of AWS"

    def __init__(self, region: str | None, variables: Mapping[str, Secret]) -> None:
        self._region = region
        self._variables = variables
        self._loaded: Any = None
        """Credentials that renew themselves. None: to be read."""

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without botocore."""
        try:
            import botocore.auth  # type: ignore[import-untyped]  # noqa: PLC0415  # `sign_request` needs it loaded
            import botocore.awsrequest  # type: ignore[import-untyped]  # noqa: F401, PLC0415
            from botocore import exceptions  # noqa: PLC0415  # not in the default path
            from botocore.credentials import RefreshableCredentials  # type: ignore[import-untyped]  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("Amazon Bedrock needs botocore", "bedrock") from None
        try:
            found = self._loaded or self._load()
            keys = None if found is None else found.get_frozen_credentials()
        except exceptions.HTTPClientError as error:
            raise UpstreamUnreachable(
                f"no access token: {clean_error_text(str(error))} ({self.origin})", code="no-token-server"
            ) from error
        except (exceptions.BotoCoreError, exceptions.ClientError, ValueError) as error:
            raise _build_error(clean_error_text(str(error)).removesuffix(".")) from error
        if keys is None or not (keys.access_key and keys.secret_key):
            raise _build_error("none were found")
        renews = isinstance(found, RefreshableCredentials)
        self._loaded = found if renews else None
        ends_at = getattr(found, "_expiry_time", None) if renews else None
        expires_at = time.time() + MAX_AGE_SECONDS
        if ends_at is not None:
            expires_at = min(expires_at, ends_at.timestamp())
        credential = Credential(
            "authorization", keys.secret_key, self.origin, sign=partial(sign_request, keys, self._region)
        )
        return AccessToken(credential, None, expires_at)

    def discard_loaded(self) -> None:
        self._loaded = None

    def _load(self) -> Any:
        from botocore.session import Session  # type: ignore[import-untyped]  # noqa: PLC0415

        given = {name: secret.reveal() for name, secret in self._variables.items()}
        session: Any = Session(profile=given.get("AWS_PROFILE"))
        if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
            session.set_credentials(
                given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given.get("AWS_SESSION_TOKEN")
            )
        return session.get_credentials()


def sign_request(
    keys: Any, region: str | None, *, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Mapping[str, str]:
    """Return the headers with the signature of a request.

    Only the headers are signed that AWS requires. A proxy on the way may change others.
    """
    from botocore.auth import SigV4Auth  # noqa: PLC0415
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415

    service = "bedrock-mantle" if (urlsplit(url).hostname or "").startswith("bedrock-mantle.") else "bedrock"
    signed = {name: value for name, value in headers.items() if name == "content-type" or name.startswith("x-amz")}
    request: Any = AWSRequest(method=method, url=url, headers=signed, data=body)
    SigV4Auth(keys, service, region).add_auth(request)
    found = {name.lower(): value for name, value in request.headers.items()}
    return {name: found[name] for name in _SIGNATURE_HEADERS if name in found}


def _build_error(problem: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"bedrock has no credentials of AWS: {problem}. "
        "Set AWS_BEARER_TOKEN_BEDROCK, or AWS_PROFILE, or log in with: aws sso login",
        code="cloud-credentials",
        should_retry=False,
    )
