"""What settings are refused or warned about, in full: `golden_texts/settings`.

An input has lines `env` with variables of the environment as JSON (`9×5` stands for `99999`), a line `.env` with the
content of this file as a Python literal, and the rest is the configuration file. The files that inputs name exist.
Those of `settings/values` have in their results the fields of `Settings` that are not the defaults.
"""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.model_facts import FactsFile
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.secrets import Secret
from tests.support.golden_texts import Check, golden_files, mask
from tests.support.paths import ROOT

LOADED = ("env_file", "files", "raw_values", "warnings", "data_directory")
"""Fields that say where settings come from."""
ENVIRONMENT = {
    "settings/routes": {"OPENAI_API_KEY": "sk-test", "GEMINI_API_KEY": "AIza-test"},
    "settings/provider_calls": {"TWO_LINES": "a\nb", "SECRET": "the-secret-of-the-gateway"},
}


def write_certificates() -> None:
    authority = trustme.CA()
    first, second = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    first.cert_chain_pems[0].write_to_path("a.pem")
    second.private_key_pem.write_to_path("b.key")
    key = serialization.load_pem_private_key(first.private_key_pem.bytes(), None)
    form, password = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    Path("locked.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, password))


def plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, FactsFile):
        return value.origin
    if isinstance(value, Struct):
        defaults = dict(zip(value.__struct_fields__[::-1], value.__struct_defaults__[::-1], strict=False))
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {name: each for name, each in fields.items() if each and each != defaults.get(name)}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def show(given: str, environ: dict[str, str], *, values: bool = False) -> str:
    lines = given.split("\n")
    content = b""
    while lines and lines[0].startswith(("env ", ".env ")):
        word, _, rest = lines.pop(0).partition(" ")
        if word == "env":
            environ = environ | json.loads(rest)
        else:
            content = ast.literal_eval(rest)
    environ = {
        name: re.sub(r"^(.)×(\d+)$", lambda text: text[1] * int(text[2]), value) for name, value in environ.items()
    }
    Path(CONFIG_FILE).write_text("\n".join(lines), "utf-8")
    Path(".env").write_bytes(content)
    try:
        settings = load_settings(environ, PROVIDERS, env_file=".env", resolves_keys=True)
    except ConfigurationError as error:
        shown = [f"refused: {message}" for message in error.messages]
    else:
        shown = [f"warning: {text}" for text in settings.warnings]
        shown += [f"{name} has no key: {text}" for name, text in settings.key_problem_details.items()]
        if values:
            shown += [f"{name} = {value!r}" for name, value in plain(settings).items() if name not in LOADED]
    assert all(len(line) < 600 for line in shown)
    return mask("\n".join(shown) or "accepted", HOME=str(Path.cwd()), ROOT=str(ROOT))


@pytest.mark.parametrize("name", golden_files("settings"))
def test_settings(name: str, golden: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "settings/provider_calls":
        write_certificates()
    golden(name, lambda given: show(given, ENVIRONMENT.get(name, {}), values=name == "settings/values"))
