"""`FACETS`: query parameters by which URLs of the API and the dashboard filter stored requests.

Each parameter is mapped to the column of the table `requests` that it filters.
"""

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
