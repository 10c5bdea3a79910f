"""From the id that a client asks for to a provider and its own id: the rules of the mapping, without wires.

0. `claude-<prefix>/<name>`, as `/v1/models` lists it, is `<prefix>/<name>`; a `[1m]` suffix says nothing.
1. A provider's prefix wins, unless the name stands whole in the preferred provider's list.
2. An id that names a Claude tier maps by the settings, else by the preferred provider's defaults.
3. A BIG_MODEL or SMALL_MODEL that nobody knows goes to OpenAI, where the preferred provider lends strangers.
4. A bare name goes to the provider in whose list it stands, else to the preferred one.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct, structs

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.routing.catalogue import Catalogue
from anthropic_proxy.routing.providers import PROVIDERS, Provider, find_provider
from anthropic_proxy.settings import TIERS, Settings

_TIER = re.compile(rf"(?<![a-z])({'|'.join(TIERS)})(?![a-z])")
_ALIAS = "claude-"
_LONG_CONTEXT = "[1m]"
_LONGEST_NAME = 512
_ELSEWHERE = (":cloud", "-cloud")
"""Endings of pulled models that run at Ollama's own, for who has an account there: nobody's default."""
_BY_PREFIX = {row.prefix: row for row in PROVIDERS}
_OPENAI = find_provider("openai")
_GOOGLE = find_provider("google")
_VERTEX = find_provider("vertex")
_LITELLM = find_provider("litellm")


class Choice(Struct, frozen=True, kw_only=True):
    """A provider and its own id of a model, and why."""

    provider: Provider
    model: str
    why: str
    """The reason in words: `sonnet is BIG_MODEL (.env line 4), and a bare name gets its list's prefix: openai`."""
    setting: str = ""
    """Of a tier: the setting that decides and where it stands: `BIG_MODEL, .env line 4`."""
    tier: str = ""
    """The Claude tier that the id names, if it goes by that."""
    note: str = ""
    """What the log should say once, because the user may not expect it."""

    @property
    def name(self) -> str:
        """As people write it: `openai/gpt-4.1`."""
        return f"{self.provider.prefix}/{self.model}"


def choose(asked: str, home: Provider, settings: Settings, catalogue: Catalogue) -> list[Choice]:
    """Return what serves the id that a client asks for: the first choice, then the fallbacks of its tier.

    `home` is the preferred provider. Raises `InvalidRequest` where the id names no model.
    """
    name = _without_decoration(asked)
    row, rest = _split_prefix(name)
    if row is not None and name in _list_of(home, settings):
        return [Choice(provider=home, model=name, why=f"{name} stands whole in the list of {home.name}")]
    if row is not None and row.keeps_tiers and find_tier(rest):
        row, name = None, rest
    if row is not None:
        if not rest:
            raise InvalidRequest(f'model: "{asked}" names a provider but no model. An example: openai/gpt-4.1')
        return [_through_vertex(row, rest, f"the request names its provider: {row.prefix}", settings)]
    if tier := find_tier(name):
        return choose_for_tier(tier, name, home, settings, catalogue)
    return [_place(name, home, settings, catalogue, lends=False)]


def choose_for_tier(tier: str, asked: str, home: Provider, settings: Settings, catalogue: Catalogue) -> list[Choice]:
    """Return what serves a tier: by its setting or by default, then its fallbacks, each provider and model once."""
    variable, value = _find_setting(tier, home, settings)
    if value is not None:
        origin = settings.origins.get(variable, "set")
        placed = _place(value, home, settings, catalogue, lends=True)
        why, setting = f"{tier} is {variable} ({origin}), and {placed.why}", f"{variable}, {origin}"
        first = structs.replace(placed, why=why, setting=setting, tier=tier)
    elif home.keeps_tiers:
        why = f"{home.name} is preferred and serves Claude models itself"
        first = Choice(provider=home, model=asked, why=why, setting="as asked", tier=tier)
    else:
        why = f"{tier} is {variable} (default of {home.name})"
        placed = _through_vertex(home, _default_model(tier, home, catalogue), why, settings)
        first = structs.replace(placed, setting=f"{variable}, default", tier=tier)
    choices = {first.name: first}
    variable = f"FALLBACK_{tier.upper()}"
    for value in settings.fallbacks.get(tier, ()):
        placed = _place(value, home, settings, catalogue, lends=True)
        why = f"{variable} has it next, and {placed.why}"
        choices.setdefault(placed.name, structs.replace(placed, why=why, setting=variable))
    return list(choices.values())


def find_tier(name: str) -> str | None:
    """Return the Claude tier that an id names as a word of its own, in any case; None: none."""
    match = _TIER.search(name.lower())
    return match[1] if match else None


def _without_decoration(asked: str) -> str:
    name = asked.strip()
    if name[-len(_LONG_CONTEXT) :].lower() == _LONG_CONTEXT:
        name = name[: -len(_LONG_CONTEXT)]
    if not name:
        raise InvalidRequest("model: an empty name is not allowed. Examples: claude-sonnet-5-5, openai/gpt-4.1")
    if len(name) > _LONGEST_NAME:  # names are remembered, and shown in errors
        raise InvalidRequest(f"model: a name of {len(name)} characters is not allowed; {_LONGEST_NAME} are.")
    if name[: len(_ALIAS)].lower() == _ALIAS:
        row, _ = _split_prefix(name[len(_ALIAS) :])
        if row is not None:
            return name[len(_ALIAS) :]
    return name


def _split_prefix(name: str) -> tuple[Provider | None, str]:
    prefix, slash, rest = name.partition("/")
    if not slash:
        return None, name
    if prefix.lower() in _LITELLM.other_prefixes:
        return _LITELLM, f"{prefix.lower()}/{rest}" if rest else ""
    row = _BY_PREFIX.get(prefix.lower())
    return row, name if row is None else rest


def _find_setting(tier: str, home: Provider, settings: Settings) -> tuple[str, str | None]:
    if tier in settings.tier_models:
        return f"MODEL_{tier.upper()}", settings.tier_models[tier]
    if home.keeps_tiers:
        return "", None
    if tier == "haiku":
        return "SMALL_MODEL", settings.small_model
    if tier == "sonnet" and settings.middle_model is not None:
        return "MIDDLE_MODEL", settings.middle_model
    return "BIG_MODEL", settings.big_model


def _default_model(tier: str, home: Provider, catalogue: Catalogue) -> str:
    model = (home.small_model if tier == "haiku" else home.big_model) or ""
    pulled = catalogue.listing(home.name)
    if home.runs_what_is_pulled and pulled and not _is_listed(model, pulled):
        here = [name for name in pulled if not name.endswith(_ELSEWHERE)] or pulled
        return here[-1] if tier == "haiku" else here[0]
    return model


def _place(name: str, home: Provider, settings: Settings, catalogue: Catalogue, *, lends: bool) -> Choice:
    """Return where a name goes that stands in a setting, or that a client asks for without prefix and tier."""
    if name in _list_of(home, settings):
        return _through_vertex(home, name, f"a bare name gets its list's prefix: {home.prefix}", settings)
    row, rest = _split_prefix(name)
    if row is not None:
        return _through_vertex(row, rest, f"its prefix names the provider: {row.prefix}", settings)
    row = next((row for row in PROVIDERS if name in _list_of(row, settings)), None)
    if row is not None:
        if row is _GOOGLE and home is _VERTEX:
            row = _VERTEX
        return _through_vertex(row, name, f"a bare name gets its list's prefix: {row.prefix}", settings)
    if any(fnmatchcase(name, family) for family in home.families) or _is_listed(name, catalogue.listing(home.name)):
        return _through_vertex(home, name, f"it is one of {home.name}'s own", settings)
    if lends and home.lends_strangers and settings.keys.get(_OPENAI.name):
        why = f"neither {home.name} nor a list knows it, so it goes to openai, whose key is set"
        return Choice(provider=_OPENAI, model=name, why=why, note=f"{name}: {why}")
    why = f"a name in no list goes to the preferred provider: {home.prefix}"
    return _through_vertex(home, name, why, settings, note=f"{name}: {why}")


def _through_vertex(row: Provider, model: str, why: str, settings: Settings, *, note: str = "") -> Choice:
    if row is _GOOGLE and settings.use_vertex_auth:
        row, why = _VERTEX, f"{why}; USE_VERTEX_AUTH sends Google's models to vertex_ai"
    return Choice(provider=row, model=model, why=why, note=note)


def _list_of(row: Provider, settings: Settings) -> Sequence[str]:
    extra = settings.extra_models.get(row.name)
    return (*row.known_models, *extra) if extra else row.known_models


def _is_listed(name: str, listing: Sequence[str] | None) -> bool:
    return listing is not None and (name in listing or f"{name}:latest" in listing)
