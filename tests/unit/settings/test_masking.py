"""Display of settings: no key and no password is shown."""

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.gateway.settings_listing import list_settings


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("OPENAI_API_KEY", "sk-0123456789abcdef, 'short'", "…cdef, …"),
        ("BIG_MODEL", "${MODEL}", "${MODEL}"),
        ("OPENAI_API_KEY", "${A}sk-0123456789abcdef", "…cdef"),
        ("REDIS_URL", "redis://:hunter2hunter2@cache:6379/0", "redis://…@cache:6379/0"),
        ("REDIS_URL", "redis://user:p@ss@cache/0", "redis://…@cache/0"),
        ("DATABASE_URL", "postgresql://h/db?sslmode=require&password=hunter2", "postgresql://h/db?sslmode=require&password=…"),
        ("OPENAI_BASE_URL", "https://token@host/v1?api-key=abc#x", "https://…@host/v1?api-key=…#x"),
        ("OPENAI_BASE_URL", "https://host/v1/@name", "https://host/v1/@name"),
        ("VIRTUAL_KEYS", "true", "true"),
    ],
)  # fmt: skip
def test_credentials_are_masked(name: str, text: str, shown: str) -> None:
    assert mask_setting(name, text) == shown


def test_the_list_of_settings_contains_no_credential() -> None:
    secret = "hunter2hunter2hunter2"
    environ = {
        "OPENAI_API_KEY": f"sk-{secret}x",
        "PROXY_API_KEY": f"{secret}y",
        "DATABASE_URL": f"postgresql://user:{secret}@host/db",
        "REDIS_URL": f"rediss://:{secret}@host",
        "HTTPS_PROXY": f"http://user:{secret}@host:8080",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://u:{secret}@host",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret}",
    }
    rows = list_settings(load_settings(environ, PROVIDERS))
    assert [row for row in rows if secret in row.value] == []
    assert {row.name for row in rows if row.source == "environment"} >= environ.keys()
