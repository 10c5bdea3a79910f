"""`OidcError`: a sign-in with an identity provider (OpenID Connect) that fails or is rejected.

The constants are remedies, the last sentences of its messages.
"""

RETRY = "Sign in again."
CHECK_CLIENT = "An administrator should compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET with the identity provider."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."


class OidcError(Exception):
    """Failed or rejected sign-in with the identity provider.

    The message is a text for the user with cause and remedy, without tokens.
    """

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the page: 403; 502 for a failure of the provider."""
