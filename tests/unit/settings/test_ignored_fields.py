"""Fields of `[sign_in]` without the setting that they need: a warning, because rules that somebody wrote do nothing."""

from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings

ISSUER = {"OIDC_ISSUER": "https://login.example.org", "OIDC_CLIENT_ID": "proxy", "OIDC_CLIENT_SECRET": "s" * 20}


@pytest.mark.parametrize(
    ("table", "environ", "expected"),
    [
        (
            'admins = ["platform"]\nmembers = ["all"]\ndays = 7\n',
            {},
            [
                "admins and members of [sign_in] (anthropic-proxy.toml, line 2) are ignored, because OIDC_ISSUER is "
                "not set.",
                "days of [sign_in] (anthropic-proxy.toml, line 4) is ignored, because SIGN_IN_SECRET is not set.",
            ],
        ),
        ('admins = ["platform"]\nkeys_per_person = 3\n', ISSUER, []),
        ('contact = "the platform team"\n', {}, []),
    ],
)
def test_fields_without_effect_are_named(
    table: str, environ: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(f"[sign_in]\n{table}", "utf-8")
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert [text.replace(f"{tmp_path}/", "") for text in settings.warnings] == expected


def test_an_old_name_without_effect_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OIDC_DOMAINS=example.org\n", "utf-8")
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    texts = [text.replace(f"{tmp_path}/", "") for text in settings.warnings]
    assert "domains of [sign_in] (.env, line 1) is ignored, because OIDC_ISSUER is not set." in texts


def test_a_token_of_scim_without_virtual_keys_is_named(tmp_path: Path) -> None:
    environ = {"SCIM_TOKEN": "scim-canary0123456789abcdef0123456789"}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert list(settings.warnings) == ["SCIM_TOKEN is ignored, because VIRTUAL_KEYS is not true."]
