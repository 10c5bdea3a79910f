"""anthropic-proxy.schema.json, the JSON Schema of the configuration file `anthropic-proxy.toml`.

Editors use it, whose TOML plug-ins support draft 7, and error messages. It is derived from the structs that decode the
file; its descriptions are the docstrings of their fields. The documentation has one copy, the package another one,
because an installed package has no documentation.
"""

import ast
import copy
import inspect
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from anthropic_proxy.engine.options import ModelTable
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.lookup import ProviderRegistry, list_vendors
from anthropic_proxy.gateway.settings.config_file import SCHEMA_FILE
from anthropic_proxy.gateway.settings.file_format import (
    DEFAULT_WIRE,
    OWN_FIELDS,
    FileContents,
    HeaderReference,
    KeyReference,
    ProviderTable,
)
from tests.site.pages import DOCS

Schema = dict[str, Any]
"""A JSON Schema as a dictionary."""
_NAME_PATTERN = "^(?!(?:{})$)[a-z0-9][a-z0-9_-]{{0,62}}$"
"""Pattern of the names of providers that are not built in."""
_REFERENCE = "#/definitions/"

SCHEMA = DOCS / "reference/anthropic-proxy.schema.json"
PACKAGED_SCHEMA = SCHEMA_FILE
_SOURCE = "anthropic_proxy/gateway/settings/file_format.py and engine/options.py"


def build_file_schema(providers: ProviderRegistry) -> Schema:
    """Each API that one of `providers` uses has its own fields for the dialect."""
    dialects = {wire: config.wire.dialect_type for row in providers for wire, config in row.wires.items()}
    definitions = _define(FileContents)
    definitions |= _define(HeaderReference)
    for reference in (KeyReference, HeaderReference):
        definition = definitions[reference.__name__]
        places = [name for name in definition["properties"] if name != "refresh"]  # which is beside one of them
        definition["oneOf"] = [{"required": [place]} for place in places]
    contents, table, model = (definitions.pop(each.__name__) for each in (FileContents, ProviderTable, ModelTable))
    variable = {"type": "object", "required": ["env"], "properties": {"env": {"type": "string"}}}
    own = table["properties"]
    own["headers"]["additionalProperties"] = {"anyOf": [{"type": "string"}, _refer(HeaderReference.__name__)]}
    own["body"]["additionalProperties"] = True
    del own["proxy"]["type"]
    own["proxy"]["anyOf"] = [{"type": "string"}, {**variable, "additionalProperties": False}]
    calls = {name: field for name, field in own.items() if name not in OWN_FIELDS}
    text = "Headers, body fields and connection of the calls to a built-in provider."
    definitions["built-in-provider"] = {**table, "description": text, "properties": calls, "required": []}
    names = sorted({name for row in providers if row.transport == "http" for name in (row.name, row.prefix)})
    for wire, dialect in dialects.items():
        nested = _define(dialect)
        definitions[f"{wire}-dialect"] = _without_defaults(nested.pop(dialect.__name__))
        definitions |= nested
        definitions[f"{wire}-model"] = _with_dialect(_without_defaults(model), wire)
        schema = _with_dialect(table, wire)
        text = schema["properties"]["wire"]["description"]
        only = {"description": text, "const": wire} | ({"default": wire} if wire == DEFAULT_WIRE else {})
        required = [] if wire == DEFAULT_WIRE else ["wire"]
        definitions[f"{wire}-provider"] = {
            **schema,
            "properties": {**schema["properties"], "wire": only},
            "required": required,
        }
    vendors = [vendor.name.replace("_", "[-_]") for vendor in list_vendors(providers)]
    servers = contents["properties"]["providers"]
    servers.pop("additionalProperties")
    servers |= {
        "properties": {name: _refer("built-in-provider") for name in names},
        "patternProperties": {
            _NAME_PATTERN.format("|".join(names)): {"anyOf": [_refer(f"{wire}-provider") for wire in dialects]},
            _NAME_PATTERN.format("|".join([*names, *vendors])): {"required": ["base_url"]},
        },
        "additionalProperties": False,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "anthropic-proxy.toml",
        **contents,
        "definitions": dict(sorted(definitions.items())),
    }


def _define(struct: type[Struct]) -> Schema:
    """Return class name → JSON Schema, for a struct and all structs in its fields. Docstrings become descriptions."""
    _, components = msgspec.json.schema_components(
        [struct], ref_template=_REFERENCE + "{name}", schema_hook=lambda _: {"type": "object"}
    )
    documented = {name.rpartition(".")[2]: _to_draft_7(schema) for name, schema in components.items()}
    for found in _list_structs(struct):
        texts = _field_docstrings(found)
        schema = documented[found.__name__]
        schema.pop("title", None)
        schema |= {"description": _first_paragraph(found.__doc__ or ""), "additionalProperties": False}
        for name, field in schema["properties"].items():
            if name in texts:
                schema["properties"][name] = {"description": texts[name], **field}
    return documented


def _list_structs(struct: type[Struct]) -> list[type[Struct]]:
    found: list[type[Struct]] = []
    pending: list[Any] = [types.type_info(struct)]
    while pending:
        kind = pending.pop()
        if isinstance(kind, types.StructType):
            found.append(kind.cls)
            pending += [field.type for field in kind.fields]
        elif isinstance(kind, types.UnionType):
            pending += kind.types
        elif isinstance(kind, types.DictType):
            pending.append(kind.value_type)
        elif isinstance(kind, types.ListType):
            pending.append(kind.item_type)
    return found


def _field_docstrings(struct: type[Struct]) -> Mapping[str, str]:
    """Return a mapping: field of a struct → first paragraph of its docstring, read from the source code."""
    texts: dict[str, str] = {}
    for base in reversed([each for each in struct.__mro__ if issubclass(each, Struct) and each is not Struct]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                texts[field.target.id] = _first_paragraph(ast.literal_eval(text.value))
    return texts


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split()).partition("Proven by:")[0].rstrip()


def _to_draft_7(schema: Any) -> Any:
    """Tuples have `items`, and there is no `null`, which TOML lacks."""
    if isinstance(schema, list):
        return [_to_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "default" and not value)}
    converted = {key: _to_draft_7(value) for key, value in kept.items()}
    if "prefixItems" in converted:
        converted["items"] = converted.pop("prefixItems")
    if "anyOf" in converted:
        options = [each for each in converted.pop("anyOf") if each != {"type": "null"}]
        converted |= options[0] if len(options) == 1 else {"anyOf": options}
    return converted


def _without_defaults(schema: Schema) -> Schema:
    """The defaults depend on the base URL."""
    fields = schema["properties"].items()
    kept = {name: {key: value for key, value in field.items() if key != "default"} for name, field in fields}
    return {**schema, "properties": kept}


def _with_dialect(schema: Schema, wire: str) -> Schema:
    changed = copy.deepcopy(schema)
    fields = changed["properties"]
    fields["dialect"] = {"description": fields["dialect"]["description"], **_refer(f"{wire}-dialect")}
    for option in fields.get("models", {}).get("anyOf", ()):
        if "additionalProperties" in option:
            option["additionalProperties"] = _refer(f"{wire}-model")
    return changed


def _refer(name: str) -> Schema:
    return {"$ref": f"{_REFERENCE}{name}"}


def written_schema() -> str:
    comment = {"$comment": f"Written by `python3 scripts/fix.py` from {_SOURCE}: change that instead."}
    return json.dumps({**comment, **build_file_schema(PROVIDERS)}, indent=2, ensure_ascii=False) + "\n"
