"""ID tokens as real identity providers send them: who signs in, and what each refusal says."""

import json

from joserfc import jwt
from joserfc.jwk import RSAKey

from anthropic_proxy.console.identity.oidc_client import verify_id_token
from anthropic_proxy.console.identity.people import OidcError, accept_user, require_group, require_role, resolve_role
from anthropic_proxy.console.identity.signed_tokens import decode_key_set
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.golden_texts import Check

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
PRIVATE = RSAKey.import_key({name: value for name, value in KEY.as_dict(private=True).items() if name != "use"})


def test_id_tokens_of_real_providers(golden: Check) -> None:
    def show(case: str) -> str:
        settings_line, claims_line = case.split("\n")
        given, claims = json.loads(settings_line), json.loads(claims_line)
        groups = tuple(SignInGroup(name=name) for name in given.pop("tables", []))
        settings = Settings(
            virtual_keys=True,
            oidc=OidcSettings(client_id=claims["aud"], **given),
            sign_in=SignInSettings(secrets=(Secret("a" * 32),), groups=groups),
        )
        verified = verify_id_token(
            jwt.encode({"alg": "RS256", "kid": "one"}, claims, PRIVATE),
            decode_key_set({"keys": [KEY.as_dict(private=False)]}),
            issuer=given["issuer"],
            client_id=claims["aud"],
            nonce="n-1",
            access_token="",
            now=claims["iat"] + 1,
        )
        try:
            user = accept_user(settings, verified)
        except OidcError as error:
            return f"refused: {error.message}"
        try:
            table = require_group(settings, user).name
            access = f"table {table}" if groups else "everybody"
        except OidcError as error:
            access = error.message
        try:
            role = resolve_role(settings, require_role(settings, user))
        except OidcError as error:
            role = error.message
        named = ", ".join(user.groups) or "none"
        return f"{user.email}: groups {named}; Claude Code: {access}; dashboard: {role}"

    golden("id_tokens", show)
