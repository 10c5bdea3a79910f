"""docs/reference/openapi.json: the OpenAPI document of the routes of the ledger and of the administration."""

import json

from anthropic_proxy.console.keys.api import build_paths, build_schemas
from anthropic_proxy.console.ledger.api import build_ledger_document
from tests.site.pages import DOCS

DOCUMENT = DOCS / "reference/openapi.json"


def written_document() -> str:
    source = "Written by `python3 scripts/fix.py` from api.py of console/ledger and console/keys: change these."
    document = build_ledger_document()
    document["paths"] |= build_paths()
    document["components"]["schemas"] |= build_schemas()
    return json.dumps({**document, "x-source": source}, indent=2, ensure_ascii=False) + "\n"
