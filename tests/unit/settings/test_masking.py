"""Display of settings: no key and no password is shown."""

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings_listing import list_settings


def test_the_list_of_settings_contains_no_credential() -> None:
    secret = "hunter2hunter2hunter2"
    environ = {
        "OPENAI_API_KEY": f"sk-{secret}x",
        "PROXY_API_KEY": f"{secret}y",
        "AWS_BEARER_TOKEN_BEDROCK": f"{secret}z",
        "DATABASE_URL": f"postgresql://user:{secret}@host/db",
        "REDIS_URL": f"rediss://:{secret}@host",
        "HTTPS_PROXY": f"http://user:{secret}@host:8080",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://u:{secret}@host",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret}",
    }
    rows = list_settings(load_settings(environ, PROVIDERS), Catalog())
    assert [row for row in rows if secret in row.value] == []
    assert {row.name for row in rows if row.source == "environment"} >= environ.keys()
