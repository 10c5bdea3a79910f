"""Names by which users select stored requests in URLs of the API and the dashboard."""

from collections.abc import Mapping

FACETS: Mapping[str, str] = {
    "outcome": "outcome_class",
    "provider": "provider",
    "model": "model",
    "requested": "requested_model",
    "project": "project",
    "session": "session",
    "key": "key_label",
    "route": "route",
}
"""Parameter of the URL → column of `requests`."""
