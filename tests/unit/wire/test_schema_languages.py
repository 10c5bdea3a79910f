"""A schema is written in the language of the model's vendor, and what it accepted is accepted afterwards."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from anthropic_proxy.engine.wires.gemini.schema import encode_parameter_schema
from anthropic_proxy.engine.wires.json_schema import SCHEMA_LANGUAGES, UNRESTRICTED_RULES, SchemaRules, clean_schema
from tests.support.fakes.gemini.schemas import check_json_schema
from tests.support.random_schemas import Schema, SchemaMaker
from tests.support.schema_languages import find_empty_texts, find_faults_for_moonshot, find_recursion

Fit = Callable[[Schema], tuple[Schema, list[str]]]
Faults = Callable[[Any], Iterator[str]]


def fit_for_google(schema: Schema) -> tuple[Schema, list[str]]:
    fitted = encode_parameter_schema(schema, as_openapi=False)
    assert fitted is not None
    return fitted, []


def fit_by(rules: SchemaRules) -> Fit:
    return lambda schema: clean_schema(schema, rules)


LANGUAGES: dict[str, tuple[Fit, Faults]] = {
    "plain": (fit_by(UNRESTRICTED_RULES), lambda schema: iter(())),
    "moonshot": (fit_by(SCHEMA_LANGUAGES["moonshot"]), find_faults_for_moonshot),
    "gemini": (fit_by(SCHEMA_LANGUAGES["gemini"]), find_empty_texts),
    "xai": (fit_by(SCHEMA_LANGUAGES["xai"]), find_recursion),
    "google": (fit_for_google, lambda schema: check_json_schema(schema, "root")),
}
SEEDS = pytest.mark.parametrize(
    "seeds", [range(150), pytest.param(range(150, 10_000), marks=pytest.mark.merge)], ids=str
)


def read_as_vendor(schema: Any) -> Any:
    """Return a schema with `anyOf` for `oneOf`, as Gemini and xAI read it, and `null` in an `enum` if `type` has it.

    Gemini's `enum` cannot hold `null`. A condition that is left out of one alternative lets `oneOf` exclude more.
    """
    if isinstance(schema, list):
        return [read_as_vendor(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    read = {"anyOf" if key == "oneOf" else key: read_as_vendor(value) for key, value in schema.items()}
    if isinstance(read.get("enum"), list) and "null" in read.get("type", ()):
        read["enum"] = [*read["enum"], None]
    return read


@SEEDS
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_fitted_schema_is_in_the_language(language: str, seeds: range) -> None:
    fit, find_faults = LANGUAGES[language]
    wrong = []
    for seed in seeds:
        schema = SchemaMaker(seed, refers=True).make_root()
        before = json.dumps(schema)
        fitted, _ = fit(schema)
        faults = [*find_faults(fitted)]
        if language != "google" and fit(fitted)[0] != fitted:
            faults.append("fitting it again changes it")
        if json.dumps(schema) != before:
            faults.append("the given schema was changed")
        if faults:
            wrong.append((seed, before, json.dumps(fitted), faults))
    assert wrong == []


@SEEDS
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_schema_accepts_is_accepted_by_the_fitted_one(language: str, seeds: range) -> None:
    wrong, accepted = [], 0
    for seed in seeds:
        maker = SchemaMaker(seed, describes_items=language == "google")  # arrays without items hold texts there
        schema = maker.make_root()
        value = {"p": maker.make_value(schema["properties"]["p"])}
        fitted, lost = LANGUAGES[language][0](schema)
        if lost or not Draft202012Validator(schema).is_valid(value):
            continue
        accepted += 1
        read = read_as_vendor(fitted)
        if errors := [error.message for error in Draft202012Validator(read).iter_errors(value)]:
            wrong.append((seed, json.dumps(schema), json.dumps(fitted), value, errors))
    assert wrong == []
    assert accepted > len(seeds) // 3
