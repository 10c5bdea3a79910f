"""docs/reference/openapi.json: what a proxy with keys and budgets serves at `/api/openapi.json`."""

import json

from anthropic_proxy.console.api_document import build_document
from tests.site.pages import DOCS

DOCUMENT = DOCS / "reference/openapi.json"


def written_document() -> str:
    source = "Written by `python3 scripts/fix.py` from console/api_document.py: change the modules that it names."
    return json.dumps({**build_document(), "x-source": source}, indent=2, ensure_ascii=False) + "\n"
