"""The meanings of settings for the page Settings of the dashboard: the comments of .env.example."""

import json
import re

from tests.site.reference_pages import setting_comments
from tests.support.paths import ROOT

DATA = ROOT / "anthropic_proxy/console/dashboard/setting_meanings.json"
_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")


def written_meanings() -> str:
    """Return the file for the present comments: variable → meaning."""
    found = {name: _LINK.sub(r"\1", comment) for names, comment in setting_comments() for name in names if comment}
    comment = "Written by `python3 scripts/fix.py` from .env.example: change that instead."
    return json.dumps({"comment": comment, "meanings": found}, ensure_ascii=False, indent=1) + "\n"
