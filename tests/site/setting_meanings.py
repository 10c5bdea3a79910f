"""The groups and meanings of settings for the page Settings of the dashboard: sections and comments of .env.example."""

import json
import re
from typing import Any

from tests.site.reference_pages import setting_comments
from tests.support.paths import ROOT

DATA = ROOT / "anthropic_proxy/console/dashboard/setting_meanings.json"
_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")


def written_meanings() -> str:
    """Return the file for the present comments: title of a group, and variable → meaning."""
    groups: dict[str, dict[str, Any]] = {}
    for section, names, comment in setting_comments():
        title = section.partition(" (")[0]
        group = groups.setdefault(title, {"title": title, "settings": {}})
        group["settings"] |= dict.fromkeys(names, _LINK.sub(r"\1", comment))
    comment = "Written by `python3 scripts/fix.py` from .env.example: change that instead."
    return json.dumps({"comment": comment, "groups": [*groups.values()]}, ensure_ascii=False, indent=1) + "\n"
