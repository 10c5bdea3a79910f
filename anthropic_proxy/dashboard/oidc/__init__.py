"""Sign-in with an identity provider by OpenID Connect (authorization code flow with PKCE, state and nonce).

`OidcClient` sends the requests to the provider, and `id_token` checks its ID tokens. Both need Authlib.
"""
