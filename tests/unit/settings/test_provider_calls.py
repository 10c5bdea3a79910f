"""Messages about the fields of `[providers.NAME]` that change calls, in full: field, value, allowed values, line."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from tests.support.recorded_texts import Compare

OPENAI = "[providers.openai]\n"


INVALID = [
    OPENAI + "[providers.openai.headers]\nHost = 'a'\n",
    OPENAI + "headers = { authorization = { env = 'A' } }\n",
    OPENAI + "key_header = 'api-key'\nheaders = { Api-Key = { env = 'A' } }\n",
    OPENAI + "headers = { x-portkey-api-key = 'abc' }\n",
    OPENAI + 'headers = { "a b" = "x" }\n',
    OPENAI + 'headers = { x = "a\\r\\nb: c" }\n',
    OPENAI + 'headers = { X = "a", x = "b" }\n',
    OPENAI + "headers = { x = { env = 'A', client = 'b' } }\n",
    OPENAI + "headers = { x = { client = 'Cookie' } }\n",
    OPENAI + "headers = { x = { env = 'NOT_SET' } }\n",
    OPENAI + "headers = { x = { env = 'TWO_LINES' } }\n",
    OPENAI + "headers = { x = { env = 'sk-proj-0123' } }\n",
    OPENAI + "body = { stream = false }\n",
    OPENAI + "body = { x = [ { a = nan } ] }\n",
    OPENAI + "key_header = 'Content-Length'\n",
    OPENAI + "header = { x = 'a' }\n",
    OPENAI + "base_url = 'http://a'\nheaders = { x = 'a' }\n",
    "[providers.vllm]\nheaders = { x = 'a' }\n",
    "[providers.google]\nheaders = { x = 'a' }\n[providers.gemini]\nheaders = { x = 'b' }\n",
    OPENAI + "proxy = 'http://a:b@h'\n",
    OPENAI + "proxy = 'ftp://h'\n",
    OPENAI + "proxy = 5\n",
    OPENAI + "proxy = { env = 'SECRET' }\n",
    OPENAI + "ca_file = 'none.pem'\n",
    OPENAI + "ca_file = 'anthropic-proxy.toml'\n",
    OPENAI + "client_certificate = { key_file = 'a' }\n",
    OPENAI + "client_certificate = { file = 'a.pem', key_file = 'b.key' }\n",
    OPENAI + "client_certificate = { file = 'a.pem' }\n",
    OPENAI + "client_certificate = { file = 'a.pem', key_file = 'locked.key' }\n",
    OPENAI + "requests_per_minute = 0\n",
    "[providers.litellm]\nheaders = { x = 'a' }\n",
]


def write_certificates(folder: Path) -> None:
    authority = trustme.CA()
    first, second = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    first.cert_chain_pems[0].write_to_path(folder / "a.pem")
    second.private_key_pem.write_to_path(folder / "b.key")
    key = serialization.load_pem_private_key(first.private_key_pem.bytes(), None)
    form, password = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    (folder / "locked.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, password))


def load(folder: Path, text: str) -> Settings:
    (folder / CONFIG_FILE).write_text(text)
    environ = {"TWO_LINES": "a\nb", "SECRET": "the-secret-of-the-gateway"}
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"))


def test_an_invalid_field_is_an_error_with_its_line(recorded: Compare, tmp_path: Path) -> None:
    texts = {}
    for text in INVALID:
        if "client_certificate" in text:
            write_certificates(tmp_path)
        with pytest.raises(ConfigurationError) as caught:
            load(tmp_path, text)
        (texts[text],) = caught.value.messages
    recorded(texts)


def test_a_changed_value_is_a_change_of_the_table(tmp_path: Path) -> None:
    first = load(tmp_path, OPENAI + "headers = { x = 'a' }\n")
    second = load(tmp_path, OPENAI + "headers = { x = 'b' }\n")
    assert first.raw_values["providers.openai"] != second.raw_values["providers.openai"]
    assert [row.name for row in first.configured_providers] == []
