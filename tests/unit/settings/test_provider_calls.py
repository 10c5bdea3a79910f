"""Messages about the fields of `[providers.NAME]` that change calls, in full: field, value, allowed values, line."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings

OPENAI = "[providers.openai]\n"
FRAMING = (
    "accept-encoding, connection, content-encoding, content-length, content-type, expect, {}keep-alive, "
    "proxy-authenticate, proxy-authorization, proxy-connection, te, traceparent, tracestate, trailer, "
    "transfer-encoding or upgrade"
)

INVALID = [
    (
        OPENAI + "[providers.openai.headers]\nHost = 'a'\n",
        'providers.openai.headers.Host names the header "host", which the proxy sets itself, as it does with '
        f"{FRAMING.format('')}. It is in anthropic-proxy.toml, line 3.",
    ),
    (
        OPENAI + "headers = { authorization = { env = 'A' } }\n",
        "providers.openai.headers.authorization cannot be set, because this header may contain the API key. Use "
        'api_key, or name another header for the key:  key_header = "x-api-key". '
        "It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "key_header = 'api-key'\nheaders = { Api-Key = { env = 'A' } }\n",
        "providers.openai.headers.Api-Key is also key_header, so it gets the API key. Remove one of the two. "
        "It is in anthropic-proxy.toml, line 3.",
    ),
    (
        OPENAI + "headers = { x-portkey-api-key = 'abc' }\n",
        "providers.openai.headers.x-portkey-api-key is a text, but this file must not contain keys. "
        "It is in anthropic-proxy.toml, line 2. Put the value into .env as OPENAI_X_PORTKEY_API_KEY=… and write  "
        '{ env = "OPENAI_X_PORTKEY_API_KEY" }',
    ),
    (
        OPENAI + 'headers = { "a b" = "x" }\n',
        'providers.openai.headers."a b" is "a b". Use the name of a header: letters, digits and hyphens. '
        "Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + 'headers = { x = "a\\r\\nb: c" }\n',
        'providers.openai.headers.x is "a\\r\\nb: c". Use a text of visible ASCII characters in one line. '
        "Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + 'headers = { X = "a", x = "b" }\n',
        "providers.openai.headers.x is set twice: upper and lower case are equal in names of headers. "
        "It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "headers = { x = { env = 'A', client = 'b' } }\n",
        'providers.openai.headers.x is invalid. Use a text, { env = "NAME" } or { client = "name-of-a-header" }. '
        "Its value is not shown, because it may be a key. It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "headers = { x = { client = 'Cookie' } }\n",
        'providers.openai.headers.x.client is "cookie", which may contain a key of the client or belongs to its '
        "connection. Name another header. It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "headers = { x = { env = 'NOT_SET' } }\n",
        "NOT_SET is not set, but it is the value of providers.openai.headers.x in anthropic-proxy.toml, line 2. "
        "Set it in .env or in the environment.",
    ),
    (
        OPENAI + "headers = { x = { env = 'TWO_LINES' } }\n",
        "TWO_LINES cannot be the value of providers.openai.headers.x in anthropic-proxy.toml, line 2: it contains a "
        "line break or a letter outside ASCII. Set in the environment.",
    ),
    (
        OPENAI + "headers = { x = { env = 'sk-proj-0123' } }\n",
        "The field env of providers.openai.headers.x in anthropic-proxy.toml, line 2, is not the name of a variable. "
        "Its text is not shown, because it may be a key. Put the value into .env as NAME=… and write  "
        '{ env = "NAME" }',
    ),
    (
        OPENAI + "body = { stream = false }\n",
        "providers.openai.body.stream cannot be set: the proxy writes this field from the request of the client, as it "
        "does with contents, input, instructions, messages, model, n, stream_options, system, systemInstruction, "
        "system_instruction or tools. It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "body = { x = [ { a = nan } ] }\n",
        'providers.openai.body.x.a is "nan". Use a text, a finite number, true, false, a list or a table, because '
        "JSON has no other values. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "key_header = 'Content-Length'\n",
        'providers.openai.key_header names the header "content-length", which the proxy sets itself, as it does with '
        "accept-encoding, connection, content-encoding, content-type, expect, host, keep-alive, proxy-authenticate, "
        "proxy-authorization, proxy-connection, te, traceparent, tracestate, trailer, transfer-encoding or upgrade. "
        "It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "header = { x = 'a' }\n",
        "providers.openai.header is not a setting. It is in anthropic-proxy.toml, line 2. Did you mean headers",
    ),
    (
        OPENAI + "base_url = 'http://a'\nheaders = { x = 'a' }\n",
        "[providers.openai] cannot be used: openai/ is the prefix of a built-in provider, OpenAI. "
        "It is in anthropic-proxy.toml, line 1. Use another name, for example [providers.my-openai]",
    ),
    (
        "[providers.vllm]\nheaders = { x = 'a' }\n",
        "providers.vllm.base_url is missing. Set it in anthropic-proxy.toml, line 1.",
    ),
    (
        "[providers.google]\nheaders = { x = 'a' }\n[providers.gemini]\nheaders = { x = 'b' }\n",
        "[providers.gemini] repeats [providers.google]: both names mean the same provider. "
        "It is in anthropic-proxy.toml, line 3.",
    ),
    (
        OPENAI + "proxy = 'http://a:b@h'\n",
        "providers.openai.proxy contains a user or password, but this file must not contain keys. It is in "
        "anthropic-proxy.toml, line 2. Put the address into .env as OPENAI_PROXY=… and write  "
        'proxy = { env = "OPENAI_PROXY" }',
    ),
    (
        OPENAI + "proxy = 'ftp://h'\n",
        'providers.openai.proxy is "ftp://h". Use http://host:port, https://…, socks5://…, socks5h://…, '
        '{ env = "NAME" } or "none". Set in anthropic-proxy.toml, line 2.',
    ),
    (
        OPENAI + "proxy = 5\n",
        "providers.openai.proxy is invalid. Use http://host:port, https://…, socks5://…, socks5h://…, "
        '{ env = "NAME" } or "none". Its value is not shown, because it may be a key. '
        "It is in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "proxy = { env = 'SECRET' }\n",
        "SECRET is not the address of a proxy, but it is the value of providers.openai.proxy in "
        "anthropic-proxy.toml, line 2. Its text is not shown, because it may contain a password. Use "
        "http://user:password@host:port, https://…, socks5://… or socks5h://….",
    ),
    (
        OPENAI + "ca_file = 'none.pem'\n",
        'providers.openai.ca_file is "none.pem". The file none.pem cannot be read: no such file. Use the path of a '
        "PEM file. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "ca_file = 'anthropic-proxy.toml'\n",
        'providers.openai.ca_file is "anthropic-proxy.toml". The file contains no certificate in PEM form: '
        "-----BEGIN CERTIFICATE-----. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "client_certificate = { key_file = 'a' }\n",
        "providers.openai.client_certificate.file is missing. Set it in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "client_certificate = { file = 'a.pem', key_file = 'b.key' }\n",
        'providers.openai.client_certificate.key_file is "b.key". The certificate and its private key do not belong '
        "together. Use file and key_file of one pair. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "client_certificate = { file = 'a.pem' }\n",
        'providers.openai.client_certificate.file is "a.pem". The certificate and its private key were not found in '
        "PEM form. Use file and key_file of one pair. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "client_certificate = { file = 'a.pem', key_file = 'locked.key' }\n",
        'providers.openai.client_certificate.key_file is "locked.key". The private key has a password. Use a file with '
        "a key without a password. Set in anthropic-proxy.toml, line 2.",
    ),
    (
        OPENAI + "requests_per_minute = 0\n",
        'providers.openai.requests_per_minute is "0". Use a whole number from 1 to 100000. '
        "Set in anthropic-proxy.toml, line 2.",
    ),
    (
        "[providers.litellm]\nheaders = { x = 'a' }\n",
        "[providers.litellm] has no effect: the proxy itself sends no HTTP requests to LiteLLM. "
        "It is in anthropic-proxy.toml, line 1.",
    ),
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


@pytest.mark.parametrize(("text", "message"), INVALID, ids=[message[:60] for _, message in INVALID])
def test_an_invalid_field_is_an_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    if "client_certificate" in text:
        write_certificates(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert [each.replace(f"{tmp_path}/", "") for each in caught.value.messages] == [message]


def test_a_changed_value_is_a_change_of_the_table(tmp_path: Path) -> None:
    first = load(tmp_path, OPENAI + "headers = { x = 'a' }\n")
    second = load(tmp_path, OPENAI + "headers = { x = 'b' }\n")
    assert first.raw_values["providers.openai"] != second.raw_values["providers.openai"]
    assert [row.name for row in first.configured_providers] == []
