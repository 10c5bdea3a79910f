"""The forms of replies that are no streams, as JSON Schemas: the files `schemas/*.json`."""

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from messages_conformance.rows import SuiteError
from messages_conformance.texts import shorten

SCHEMAS_FOLDER = Path(__file__).parent / "schemas"
_MAX_FAULTS = 5


def find_form_faults(name: str, value: Any) -> list[str]:
    """Return where a value has not the form `schemas/NAME.json`: the first places, each with what is wrong."""
    faults = islice(_load_schema(name).iter_errors(value), _MAX_FAULTS)
    return [f"{fault.json_path}: {shorten(fault.message, 300)}" for fault in faults]


@cache
def _load_schema(name: str) -> Draft202012Validator:
    file = SCHEMAS_FOLDER / f"{name}.json"
    if not file.is_file():
        raise SuiteError(f"there is no schema {name}")
    return Draft202012Validator(json.loads(file.read_text("utf-8")))
