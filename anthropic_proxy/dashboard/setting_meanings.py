"""Text about each setting for the page Settings, from the comments of `.env.example`. `load_meanings` returns it."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct


class _Meanings(Struct, frozen=True):
    """Content of the file `setting_meanings.json` of this package."""

    meanings: Mapping[str, str]


@cache
def load_meanings() -> Mapping[str, str]:
    """Return the text about each setting, by its name. Settings without a comment in `.env.example` are left out."""
    text = files("anthropic_proxy.dashboard").joinpath("setting_meanings.json").read_bytes()
    return msgspec.json.decode(text, type=_Meanings).meanings
