"""`FACETS`: query parameters that filter stored requests in URLs of the API and the dashboard, with their columns."""

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
