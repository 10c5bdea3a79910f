"""Exception for a sign-in with an identity provider (OpenID Connect) that fails or is rejected.

Each constant is a sentence with a remedy, which is appended to messages of `OidcError`.
"""

RETRY = "Sign in again."
CHECK_CLIENT = "An administrator should compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET with the identity provider."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."


class OidcError(Exception):
    """Exception: a sign-in with the identity provider failed or was rejected.

    Its message is shown to the user. It has the cause and usually a remedy, but no tokens.
    """

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the page: 403; 502 for a failure of the provider."""
