"""docs/reference/openapi.json: the OpenAPI document of the routes of the ledger and of the administration."""

import json

from anthropic_proxy.console.keys.api import build_paths, build_schemas
from anthropic_proxy.console.ledger.api import build_ledger_document
from anthropic_proxy.console.session_models import api as session_models
from tests.site.pages import DOCS

_SCIM = "People and groups below /scim/v2 have the form of RFC 7643 and 7644, which /scim/v2/Schemas describes."
DOCUMENT = DOCS / "reference/openapi.json"


def written_document() -> str:
    source = "Written by `python3 scripts/fix.py` from api.py of console/ledger, keys and session_models: change these."
    document = build_ledger_document()
    document["paths"] |= build_paths() | session_models.build_paths()
    document["components"]["schemas"] |= {**build_schemas(), **session_models.build_schemas()}
    document["info"]["description"] += f" {_SCIM}"
    return json.dumps({**document, "x-source": source}, indent=2, ensure_ascii=False) + "\n"
