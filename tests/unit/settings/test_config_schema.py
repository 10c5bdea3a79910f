"""The JSON Schema of the configuration file accepts and rejects the same files as the proxy."""

import json
import re
import tomllib
from typing import Any

from jsonschema import Draft7Validator

from anthropic_proxy.engine.providers import PROVIDERS
from tests.site.config_schema import build_file_schema
from tests.support.golden_texts import Check
from tests.support.paths import ROOT

PAGES = ("configuration.md", "corporate-networks.md", "providers.md")
SCHEMA = build_file_schema(PROVIDERS)


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


def test_golden_files(golden: Check) -> None:
    golden("config_schema", lambda given: str(is_valid(given)))


def test_every_field_has_a_description_without_references_to_tests() -> None:
    for name, definition in SCHEMA["definitions"].items():
        for field, schema in definition["properties"].items():
            assert schema.get("description"), (name, field)
            assert "golden/" not in schema["description"], (name, field)
