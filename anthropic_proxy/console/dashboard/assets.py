"""Static files of the dashboard: style sheet, script and images.

The URL of each file contains a hash of its content, so that browsers can keep the file.
"""

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from msgspec import Struct

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_HASH_CHARACTERS = 12


class Asset(Struct, frozen=True):
    url: str
    media_type: str
    content: bytes
    compressed: bytes


@cache
def load_assets() -> Mapping[str, Asset]:
    """Return all static files by name. The name has no hash: `dashboard.css`."""
    found = {}
    for file in files(__package__).joinpath("static").iterdir():
        stem, _, extension = file.name.rpartition(".")
        if extension in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]
            url = f"/dashboard/static/{stem}.{digest}.{extension}"
            found[file.name] = Asset(url, _TYPES[extension], content, gzip.compress(content, mtime=0))
    return found


def find_asset(url: str) -> Asset | None:
    return next((asset for asset in load_assets().values() if asset.url == url), None)
