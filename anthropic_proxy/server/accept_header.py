"""Choice between an HTML and a JSON response by the request header `Accept` (RFC 9110, section 12.5.1).

`prefers_html` returns True for the headers of web browsers. Other programs get JSON.
"""

import re
from collections.abc import Iterator

_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*+"?)++', re.DOTALL)
"""Pattern of one element of a comma-separated header. A quoted string without an end quote ends with the header."""
_MEDIA_RANGE = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*(?:;|$)")
_QUALITY = re.compile(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_HAS_QUALITY = re.compile(r";\s*q\s*=", re.IGNORECASE)
_JSON_RANGES = ("application/json", "application/*", "*/*")
"""Media types and wildcards that include JSON, the most specific one first."""


def prefers_html(accept: str) -> bool:
    """Return True if the request header `Accept` prefers HTML at least as much as JSON, as web browsers do.

    A wildcard such as `*/*` does not count as HTML.
    """
    qualities: dict[str, float] = {}
    for media_range, quality in _split_header(accept):
        qualities[media_range] = max(quality, qualities.get(media_range, 0.0))
    json_quality = next((qualities[name] for name in _JSON_RANGES if name in qualities), 0.0)
    html_quality = qualities.get("text/html", 0.0)
    return html_quality > 0 and html_quality >= json_quality


def _split_header(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each valid media type in lower case with its weight `q` (default 1). Invalid elements are ignored."""
    for element in _ELEMENT.findall(accept):
        found = _MEDIA_RANGE.match(element)
        if found is None:
            continue
        quality = _QUALITY.search(element, found.end(1))
        if quality is None and _HAS_QUALITY.search(element, found.end(1)):
            continue
        yield found[1].lower(), float(quality[1]) if quality else 1.0
