"""docs/reference/openapi.json: the OpenAPI document of the routes of the ledger and of the administration."""

import json

from anthropic_proxy.access.api import build_paths, build_schemas
from anthropic_proxy.ledger.api import build_ledger_document
from tests.site.pages import DOCS

DOCUMENT = DOCS / "reference/openapi.json"


def written_document() -> str:
    """Return the document of the present routes."""
    source = "Written by `python3 scripts/fix.py` from openapi.py of anthropic_proxy/ledger and access: change these."
    document = build_ledger_document()
    document["paths"] |= build_paths()
    document["components"]["schemas"] |= build_schemas()
    return json.dumps({**document, "x-source": source}, indent=2, ensure_ascii=False) + "\n"
