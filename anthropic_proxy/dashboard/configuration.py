"""Page Settings of the dashboard: each setting with its value and source.

`build_settings_page` returns the values for the template of the page.
"""

from collections.abc import Mapping
from typing import Any

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.settings_change import list_editable_settings, load_meanings
from anthropic_proxy.routing.settings_listing import list_settings


def build_settings_page(context: PageContext) -> Mapping[str, Any]:
    """Return the values for the template of the page Settings, with masked keys.

    `context`: parameters of the URL, settings and state of the proxy.
    """
    rows = list_settings(context.settings)
    changed = [row for row in rows if row.source != "default"]
    verdict = f"{formats.plural(len(changed), 'setting')} set; the others have their defaults."
    editable = list_editable_settings(context.settings)
    defaults = [row for row in rows if row.source == "default"]
    return {
        "editable": editable,
        "changed": changed,
        "groups": [
            ([row for row in defaults if row.name in editable], "that can be changed here", True),
            ([row for row in defaults if row.name not in editable], "of the files only", False),
        ],
        "verdict": verdict,
        "meanings": load_meanings(),
    }
