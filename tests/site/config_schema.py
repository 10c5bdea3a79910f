"""anthropic-proxy.schema.json, the JSON Schema of the configuration file: for editors, and for error messages.

The documentation has one copy, the package another one, because an installed package has no documentation.
"""

import json

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings.config_file import SCHEMA_FILE
from tests.site.file_schema import build_file_schema
from tests.site.pages import DOCS

SCHEMA = DOCS / "reference/anthropic-proxy.schema.json"
PACKAGED_SCHEMA = SCHEMA_FILE
_SOURCE = "anthropic_proxy/gateway/settings/file_format.py and engine/options.py"


def written_schema() -> str:
    comment = {"$comment": f"Written by `python3 scripts/fix.py` from {_SOURCE}: change that instead."}
    return json.dumps({**comment, **build_file_schema(PROVIDERS)}, indent=2, ensure_ascii=False) + "\n"
