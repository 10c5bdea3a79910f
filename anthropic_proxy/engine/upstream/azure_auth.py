"""Access tokens of Microsoft Entra ID (Azure), requested by the library azure-identity."""

from collections.abc import Mapping
from typing import Any

from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.upstream.access_tokens import AccessToken
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import AuthenticationFailed, MissingExtra, UpstreamUnreachable
from anthropic_proxy.secrets import Secret

FOUNDRY_SCOPE = "https://ai.azure.com/.default"
"""Scope of Claude in Microsoft Foundry. Source: foundry.md of the Python SDK `anthropic` 2.10.0."""
OPENAI_SCOPE = "https://cognitiveservices.azure.com/.default"
"""Scope of Azure OpenAI, with and without an API version in the address. Source: openai-python
examples/azure_ad.py (read 2026-11-23). The page "Azure OpenAI v1 API" of learn.microsoft.com has `FOUNDRY_SCOPE`."""
_OF_APPLICATION = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


class EntraCredentials:
    """Loader of tokens for one scope.

    `variables` are those of `.env`, which azure-identity itself does not read. Error texts name the `service`, and the
    `key_setting` that makes tokens unnecessary.
    """

    library = "azure-identity"
    rejection_statuses = (401,)
    origin = "Microsoft Entra ID"

    def __init__(self, variables: Mapping[str, Secret], scope: str, *, service: str, key_setting: str) -> None:
        self._variables = variables
        self._scope = scope
        self._service = service
        self._key_setting = key_setting
        self._loaded: Any = None
        """Credential with the tokens that it has requested. None: to be created."""

    def request_token(self) -> AccessToken:
        """Raises `AuthenticationFailed`, `UpstreamUnreachable`, or `MissingExtra` without azure-identity."""
        try:
            from azure.core import exceptions  # noqa: PLC0415  # not in the default path
            from azure.identity import ClientSecretCredential, DefaultAzureCredential  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("Microsoft Entra ID needs azure-identity", "azure") from None
        try:
            if self._loaded is None:
                given = [self._variables[name].reveal() for name in _OF_APPLICATION if name in self._variables]
                is_complete = len(given) == len(_OF_APPLICATION)
                self._loaded = ClientSecretCredential(*given) if is_complete else DefaultAzureCredential()
            token = self._loaded.get_token(self._scope)
        except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as error:
            raise UpstreamUnreachable(
                f"no access token: {_describe(error)} ({self.origin})", code="no-token-server"
            ) from error
        except (exceptions.AzureError, ValueError) as error:
            raise AuthenticationFailed(
                f"{self._service} has no access token: {_describe(error)} "
                f"Set {self._key_setting}, or log in with: az login",
                code="cloud-credentials",
                should_retry=False,
            ) from error
        credential = Credential("authorization", f"Bearer {token.token}", self.origin)
        return AccessToken(credential, None, float(token.expires_on))

    def discard_loaded(self) -> None:
        self._loaded = None


def _describe(error: Exception) -> str:
    """Return the first line of an exception. The lines after it list all credentials that were tried."""
    lines = clean_error_text(str(error).partition("\n")[0]).rstrip(".:")
    return f"{lines or type(error).__name__}."
