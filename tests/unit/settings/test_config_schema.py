"""The JSON Schema of the configuration file accepts and rejects the same files as the proxy."""

import json
import re
import tomllib
from typing import Any

import pytest
from jsonschema import Draft7Validator

from anthropic_proxy.engine.providers import PROVIDERS
from tests.site.config_schema import build_file_schema
from tests.support.paths import ROOT

PAGES = ("configuration.md", "corporate-networks.md", "providers.md")
SCHEMA = build_file_schema(PROVIDERS)
BASE = '[providers.vllm]\nbase_url = "http://a/v1"\n'


def is_valid(text: str) -> bool:
    contents = json.loads(json.dumps(tomllib.loads(text), default=str))  # editors check dates as texts
    errors: list[Any] = list(Draft7Validator(SCHEMA).iter_errors(contents))
    return not errors


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)


def test_the_examples_of_the_documentation_are_valid() -> None:
    pages = [(ROOT / "docs/guide" / name).read_text("utf-8") for name in PAGES]
    examples = [example for page in pages for example in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert [example for example in examples if not is_valid(example)] == []


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (BASE, True),
        (BASE + 'api_key = { env = "A" }\n', True),
        (BASE + 'api_key = "sk-1"\n', False),
        (BASE + 'api_key = { env = "A", file = "b" }\n', False),
        (BASE + 'wire = "anthropic"\n', False),
        (BASE + 'wire = "ollama"\ndialect.think_form = "level"\n', True),
        (BASE + 'dialect.think_form = "level"\n', False),
        (BASE + 'dialect.effort_names = [["max", "high"]]\n', True),
        (BASE + 'dialect.effort_names = [["max"]]\n', False),
        (BASE + 'models = ["a"]\n', True),
        (BASE + 'models."a*" = { context_window = 1000, dialect = { sends_top_k = true } }\n', True),
        (BASE + 'models."a*" = { context_window = 0 }\n', False),
        (BASE + 'models."a*" = { dialect = { sends_top_k = 1 } }\n', False),
        ('[providers.VLLM]\nbase_url = "http://a"\n', False),
        ("[providers.vllm]\n", False),
        ("[providers.openai]\nheaders = { x = 'a', y = { env = 'A' }, z = { client = 'b' } }\n", True),
        ("[providers.gemini]\nkey_header = 'x-key'\nbody = { a = { b = 1 } }\n", True),
        ("[providers.openai]\nbase_url = 'http://a'\n", False),
        (BASE + "headers = { x = 1 }\n", False),
        (BASE + "headers = { x = { env = 'A', client = 'b' } }\n", False),
        ('[prices."a/b"]\ninput = 1\noutput = 2\n', True),
        ('[prices."a/b"]\ninput = 1\n', False),
        ('[prices."a/b"]\ninput = 1\noutput = -2\n', False),
        ('[prices."a/b"]\ninput = 1\noutput = 2\nearlier = [{ input = 1, output = 2 }]\n', False),
        ("[provider.vllm]\n", False),
        ('[search]\nservice = "exa"\napi_key = { env = "A" }\n', True),
        ('[search]\nservice = "bing"\n', False),
    ],
)
def test_it_distinguishes_valid_files(text: str, valid: bool) -> None:
    assert is_valid(text) is valid


def test_every_field_has_a_description_without_references_to_tests() -> None:
    for name, definition in SCHEMA["definitions"].items():
        for field, schema in definition["properties"].items():
            assert schema.get("description"), (name, field)
            assert "golden/" not in schema["description"], (name, field)
