"""A schema is written in the language of the model's vendor, and what it accepted is accepted afterwards."""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from anthropic_proxy.engine.wires.gemini.schema import encode_parameter_schema
from anthropic_proxy.engine.wires.json_schema import (
    BASIC_RULES,
    UNRESTRICTED_RULES,
    SchemaRules,
    clean_schema,
)
from anthropic_proxy.engine.wires.typed_schemas import ALL_TYPES
from messages_conformance.backends.gemini.schemas import check_json_schema
from tests.support.random_schemas import Schema, SchemaMaker
from tests.support.schema_languages import (
    SCHEMA_LANGUAGES,
    find_empty_texts,
    find_faults_for_moonshot,
    find_recursion,
    find_required_recursion,
)
from tests.support.tables import in_one_test

Fit = Callable[[Schema], tuple[Schema, list[str]]]
Faults = Callable[[Any], Iterator[str]]


def fit_for_google(schema: Schema) -> tuple[Schema, list[str]]:
    fitted = encode_parameter_schema(schema, as_openapi=False)
    assert fitted is not None
    return fitted, []


def find_faults_for_google(schema: Any) -> Iterator[str]:
    return chain(check_json_schema(schema, "root"), find_required_recursion(schema))


def fit_by(rules: SchemaRules) -> Fit:
    return lambda schema: clean_schema(schema, rules)


LANGUAGES: dict[str, tuple[Fit, Faults]] = {
    "plain": (fit_by(UNRESTRICTED_RULES), lambda schema: iter(())),
    "moonshot": (fit_by(SCHEMA_LANGUAGES["moonshot"]), find_faults_for_moonshot),
    "basic": (fit_by(BASIC_RULES), find_faults_for_moonshot),
    "gemini": (fit_by(SCHEMA_LANGUAGES["gemini"]), find_empty_texts),
    "xai": (fit_by(SCHEMA_LANGUAGES["xai"]), find_recursion),
    "google": (
        fit_for_google,
        lambda schema: chain(check_json_schema(schema, "root"), find_required_recursion(schema)),
    ),
}
SEEDS = pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 2_500), marks=pytest.mark.merge)], ids=str)


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
    assert accepted > len(seeds) // (6 if language == "basic" else 3)  # the basics cannot state most schemas


# Forms of tools that people use, of which each ended every request at some vendor
ANY = {"description": "Any JSON value, given to the script as it is."}
TASK = {"type": "object", "properties": {"title": {"type": "string"}, "due": {"type": "string"}}}
FORMS_IN_USE: dict[str, Schema] = {
    "a script with any arguments": {"type": "object", "properties": {"script": {"type": "string"}, "args": ANY}},
    "alternatives at the root": {
        "type": "object",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": [
            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            {"type": "object", "properties": {"link": {"type": "string", "format": "uri"}}, "required": ["link"]},
        ],
    },
    "one of two names is required": {
        "type": "object",
        "properties": {
            "tasks": {"type": "array", "items": {**TASK, "anyOf": [{"required": ["title"]}, {"required": ["due"]}]}}
        },
    },
    "several types beside alternatives": {
        "type": "object",
        "properties": {
            "skill": {
                "type": ["string", "array", "boolean"],
                "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "boolean"}, {"type": "string"}],
            }
        },
    },
    "values without a type, or of another type": {
        "type": "object",
        "properties": {
            "view": {"enum": ["text", "raw"]},
            "kind": {"type": "object", "enum": ["swift", "objc"]},
            "mode": {"type": ["string", "null"], "enum": ["files", "lines", None]},
            "disabled_by": {"type": "string", "enum": ["user", "system", ""]},
            "level": {"anyOf": [{"enum": ["error", "warning"]}, {"type": "null"}], "type": "string", "default": None},
        },
    },
    "a pair as a list of schemas": {
        "type": "object",
        "properties": {"range": {"type": "array", "items": [{"type": "string"}, {"type": "number"}]}},
    },
    "references of other documents": {
        "type": "object",
        "properties": {
            "shape": {"$ref": "#/components/schemas/Shape"},
            "opacity": {"type": "array", "items": {"$ref": "#/definitions/Number", "description": "0 to 1"}},
            "whole": {"$ref": "#shape"},
        },
        "definitions": {"Number": {"type": "number", "description": "a number"}},
    },
    "conditions": {
        "type": "object",
        "properties": {"action": {"type": "string"}, "expand": {"type": "boolean"}},
        "allOf": [
            {"if": {"properties": {"action": {"const": "a"}}}, "then": {"required": ["expand"]}},
            {"if": {"required": ["expand"]}, "then": {"required": ["action"]}},
        ],
    },
    "a tree": {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/Node"}},
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
                "additionalProperties": {},
            }
        },
    },
}


@in_one_test
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", FORMS_IN_USE)
def test_forms_that_people_use_are_in_each_language(form: str, language: str) -> None:
    fit, find_faults = LANGUAGES[language]
    assert list(find_faults(fit(FORMS_IN_USE[form])[0])) == []


def test_google_gets_a_recursion_only_through_an_optional_property() -> None:
    def fit(required: list[str], **conditions: Any) -> Any:
        node = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/node"}},
            "required": required,
            **conditions,
        }
        return fit_for_google(
            {"type": "object", "properties": {"first": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
        )[0]

    kept = fit(["name"])
    assert kept["$defs"]["node"]["properties"]["next"] == {"$ref": "#/$defs/node"}
    assert fit(["name", "next"]) == {
        "type": "object",
        "properties": {
            "first": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "next": {"type": "object"}},
                "required": ["name", "next"],
            }
        },
    }
    assert "$defs" not in fit(["name"], allOf=[{"required": ["next"]}])


def test_moonshot_gets_long_lists_without_the_condition() -> None:
    values = [f"v{number}" for number in range(1_001)]
    branches = [{"type": "string", "enum": [one]} for one in values[:501]]
    schema = {"type": "object", "properties": {"one": {"enum": values}, "other": {"anyOf": branches}}}
    fitted, lost = clean_schema(schema, SCHEMA_LANGUAGES["moonshot"])
    assert fitted["properties"] == {"one": {"type": "string"}, "other": {"type": [*ALL_TYPES]}}
    assert lost == ["lists of more than 1,000 values or 500 alternatives were left out"]
    shorter = {"type": "object", "properties": {"one": {"enum": values[:1_000]}, "other": {"anyOf": branches[:500]}}}
    fitted, lost = clean_schema(shorter, SCHEMA_LANGUAGES["moonshot"])
    assert fitted["properties"]["one"] == {"enum": values[:1_000], "type": "string"}
    assert fitted["properties"]["other"] == {"anyOf": branches[:500]}
    assert lost == []
