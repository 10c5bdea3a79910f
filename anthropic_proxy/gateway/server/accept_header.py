"""The header `accept`: whether a client prefers a page or JSON."""

import re

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_ELEMENT = compile_later(r'(?:[^",]|"(?:[^"\\]|\\.?)*+"?)++', re.DOTALL)
"""Pattern of one element of a comma-separated header. A quoted string without an end quote ends with the header."""
_MEDIA_RANGE = compile_anchored(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*(?:;|$)")
_QUALITY = compile_later(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_HAS_QUALITY = compile_later(r";\s*q\s*=", re.IGNORECASE)


def prefers_html(accept: str) -> bool:
    """Return True for web browsers. A wildcard such as `*/*` does not count as HTML."""
    qualities: dict[str, float] = {}
    for element in _ELEMENT.findall(accept):
        media = _MEDIA_RANGE.match(element)
        if media is None:
            continue
        weight = _QUALITY.search(element, media.end(1))
        if weight is None and _HAS_QUALITY.search(element, media.end(1)):
            continue  # an invalid weight
        media_range = media[1].lower()
        quality = float(weight[1]) if weight else 1.0
        qualities[media_range] = max(quality, qualities.get(media_range, 0.0))
    # the most specific media type that includes JSON
    json_ranges = ("application/json", "application/*", "*/*")
    json_quality = next((qualities[name] for name in json_ranges if name in qualities), 0.0)
    html_quality = qualities.get("text/html", 0.0)
    return html_quality > 0 and html_quality >= json_quality
