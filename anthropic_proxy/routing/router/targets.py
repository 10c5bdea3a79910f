"""From a choice of provider and model to what can be called: wire, dialect, facts and address."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from anthropic_proxy.routing.catalogue import Catalogue, ModelFacts
from anthropic_proxy.routing.providers import PROVIDERS, Provider, Server, Speech, find_provider
from anthropic_proxy.routing.providers.rows import Retired
from anthropic_proxy.routing.router.addresses import find_address, find_server
from anthropic_proxy.routing.router.naming import Choice, choose, choose_for_tier
from anthropic_proxy.routing.router.readiness import describe_missing_key
from anthropic_proxy.settings import TIERS, Fidelity, Settings
from anthropic_proxy.wire.contract import Wire, relays

_ORDER = tuple(
    row.name
    for row in sorted(PROVIDERS, key=lambda row: row.keeps_tiers)
    if row.choosable and (row.key_needed != "never" or row.key_source != "settings")
)
"""Who is preferred first where the user does not say: the table's order, without those that need no key; Claude's own
models last, because users of Claude Code have that key in their environment anyway."""


class Facts(Struct, frozen=True):
    """What routing may know of a request."""

    model: str
    """As the client asked for it."""
    server_tools: frozenset[str] = frozenset()
    """Kinds of tools that it asks the provider to run (`web_search`, `code_execution`, …)."""


class Target(Struct, frozen=True, kw_only=True, eq=False):
    """One provider, model and language that can serve the request; compared by identity, so that it can be a key."""

    provider: Provider
    model: str
    """The upstream's id, without the prefix."""
    wire: Wire
    dialect: Any
    """The speech's dialect with the model's rules merged in."""
    facts: ModelFacts
    base_url: str
    """With `UNKNOWN_PROJECT` in it where only the credentials know the project."""

    @property
    def upstream(self) -> str:
        """Provider and host, whatever the model: what works or fails together."""
        return _name_upstream(self.provider.name, self.base_url)


class Route(Struct, frozen=True):
    """The decision."""

    targets: Sequence[Target]
    """In the order in which they are tried; never empty."""
    why: str
    """The reason in words, for the log and `explain`."""
    notes: Sequence[str] = ()
    """What the log should say once, because the user may not expect it."""
    fidelity: Fidelity = "best-effort"
    """`strict`: what a target could only do with losses is refused."""
    relayed: bool = False
    """Whether bytes pass to every target as they came."""


class Mapped(Struct, frozen=True, kw_only=True):
    """Where the ids of one Claude tier go, for the start banner and `models`."""

    tier: str
    target: str
    """Prefix and model: `openai/gpt-4.1`; of the provider that serves Claude models itself `anthropic/claude-…`."""
    reason: str
    """What decides and where it is set: `BIG_MODEL, .env line 4`, `SMALL_MODEL, default`."""
    fallbacks: Sequence[str] = ()
    retired: Retired | None = None
    """Set where the provider has retired the model, or will: what it advises instead, and since when."""
    problems: Sequence[str] = ()
    """Why the target, and then each fallback, cannot serve requests, and what to do; of those that can nothing."""


def resolve(facts: Facts, settings: Settings, catalogue: Catalogue) -> Route:
    """Decide. Raises `UnsupportedFeature` or `InvalidRequest` with what the reader can do."""
    home = find_home(settings, catalogue)
    choices = choose(facts.model, home, settings, catalogue)
    targets: list[Target] = []
    notes: list[str] = [choice.note for choice in choices if choice.note]
    refusal: ClientError | None = None
    for choice in choices:
        try:
            target = _aim(choice, settings, catalogue)
            targets.append(_for_tools(target, facts.server_tools, settings) if facts.server_tools else target)
        except ClientError as error:
            refusal = refusal or error
            notes.append(error.message)
    if not targets and refusal is not None:
        raise refusal
    first = choices[0]
    fidelity = settings.tier_fidelities.get(first.tier, settings.fidelity)
    return Route(targets, first.why, notes, fidelity, all(relays(target.wire) for target in targets))


def preferred(settings: Settings, ollama_models: Sequence[str] | None) -> str:
    """Return the name of the provider that bare names and tiers go to.

    `ollama_models` is what Ollama said that it has; None: it did not answer, or was not asked.
    """
    if settings.preferred_provider is not None:
        return settings.preferred_provider
    for name in _ORDER:
        if settings.keys.get(name) or (name == "vertex" and settings.vertex_project):
            return name
    return "demo" if ollama_models is None else "ollama"


def asks_ollama(settings: Settings) -> bool:
    """Say whether start-up should ask Ollama what it has: it is preferred, or nothing else is configured."""
    return preferred(settings, ()) == "ollama"


def find_home(settings: Settings, catalogue: Catalogue) -> Provider:
    """Return the preferred provider's row."""
    return find_provider(preferred(settings, catalogue.listing("ollama")))


def describe_mapping(settings: Settings, catalogue: Catalogue) -> list[Mapped]:
    """Return where each tier goes, in the order haiku, sonnet, opus, fable."""
    home = find_home(settings, catalogue)
    rows = []
    for tier in TIERS:
        choices = choose_for_tier(tier, f"claude-{tier}-…", home, settings, catalogue)
        first, *others = choices
        problems = (_find_problem(choice, settings, catalogue) for choice in choices)
        rows.append(
            Mapped(
                tier=tier,
                target=first.name,
                reason=first.setting,
                fallbacks=tuple(choice.name for choice in others),
                retired=_find_retired(first, settings),
                problems=tuple(filter(None, problems)),
            )
        )
    return rows


def speak_otherwise(target: Target, wire_name: str, settings: Settings) -> Target | None:
    """Return the target in another of its provider's languages; None: it has no such, or the user chose for it."""
    row, server = target.provider, find_server(target.provider, settings)
    if row.name in settings.wires or wire_name not in row.speeches:
        return None
    speech = _find_speech(row, server, wire_name)
    if speech.own_address_only and row.name not in settings.base_urls:
        return None
    dialect = _merge_dialect(row.name, server.name if server else "", wire_name, target.model)
    return structs.replace(
        target,
        wire=speech.wire,
        dialect=_set_by_user(dialect, speech, settings),
        base_url=find_address(row, speech, settings),
    )


@lru_cache(maxsize=256)
def _name_upstream(provider: str, base_url: str) -> str:
    return f"{provider} {base_url.partition('//')[2].partition('/')[0]}"


def _for_tools(target: Target, wanted: frozenset[str], settings: Settings) -> Target:
    """Return the target in the language of its provider in which most of these tools are run there.

    Only for a provider at its own address: what another server runs is not known.
    """
    if find_server(target.provider, settings) is not None:
        return target
    others = (speak_otherwise(target, name, settings) for name in target.provider.speeches)
    ours = [target, *(other for other in others if other is not None and other.dialect is not target.dialect)]
    return max(ours, key=lambda aim: len(wanted.intersection(getattr(aim.dialect, "server_tools", ()))))


def _find_problem(choice: Choice, settings: Settings, catalogue: Catalogue) -> str:
    try:
        _aim(choice, settings, catalogue)
    except ClientError as error:
        return error.message
    return describe_missing_key(choice.provider, settings)


def _find_retired(choice: Choice, settings: Settings) -> Retired | None:
    """Return what a provider says about the end of a model; somebody else's server may go on serving it."""
    server = find_server(choice.provider, settings)
    return None if server is not None and server.speeches else choice.provider.retired_models.get(choice.model)


def _aim(choice: Choice, settings: Settings, catalogue: Catalogue) -> Target:
    """Return the target of a choice. Raises where the model cannot chat, or its provider's wire is not there."""
    row, model = choice.provider, choice.model
    if reason := row.refused_models.get(model):
        retired = row.retired_models.get(row.big_model or "")
        able = f"{row.prefix}/{retired.successor if retired else row.big_model}"
        raise InvalidRequest(
            f"{choice.name} {reason} and cannot chat. One that can is {able}; GET /v1/models lists them all."
        )
    if not model:
        raise InvalidRequest(
            f"{row.name} has no models of its own. Name one in BIG_MODEL and one in SMALL_MODEL, such as "
            "mistral/mistral-large-latest"
        )
    wire_name, server = _pick_wire(row, model, settings), find_server(row, settings)
    speech = _find_speech(row, server, wire_name)
    if speech.own_address_only and row.name not in settings.base_urls:
        raise UnsupportedFeature(
            f"{choice.name} cannot be reached: {row.title} does not speak {wire_name} itself. "
            f"{row.stem}_WIRE={wire_name} is for a server of yours: name its address in {row.base_url_variable}"
        )
    dialect = _merge_dialect(row.name, server.name if server else "", wire_name, model)
    return Target(
        provider=row,
        model=model,
        wire=speech.wire,
        dialect=_set_by_user(dialect, speech, settings),
        facts=_find_facts(row, server, model, catalogue),
        base_url=find_address(row, speech, settings),
    )


def _find_facts(row: Provider, server: Server | None, model: str, catalogue: Catalogue) -> ModelFacts:
    facts = catalogue.find(row.name, model)
    if server is None or facts.known or not server.facts:
        return facts
    return structs.replace(facts, **server.facts)


def _pick_wire(row: Provider, model: str, settings: Settings) -> str:
    asked = settings.wires.get(row.name)
    if asked is not None:
        return asked
    ruled = (wire for pattern, wire in row.wire_rules if fnmatchcase(model.lower(), pattern))
    return next(ruled, next(iter(row.speeches)))


def _set_by_user(dialect: Any, speech: Speech, settings: Settings) -> Any:
    """Return the dialect with what the user says about it."""
    changes = {
        field: value for field, name in speech.settings.items() if (value := getattr(settings, name)) is not None
    }
    return structs.replace(dialect, **changes) if changes else dialect


def _find_speech(row: Provider, server: Server | None, wire_name: str) -> Speech:
    """Return how a wire is spoken there: as the server does that answers in the provider's place, else as the row."""
    speech = server.speeches.get(wire_name) if server else None
    return speech or row.speeches[wire_name]


@lru_cache(maxsize=1024)
def _merge_dialect(provider: str, server_name: str, wire_name: str, model: str) -> Any:
    row = find_provider(provider)
    server = next((server for server in row.servers if server.name == server_name), None)
    speech = _find_speech(row, server, wire_name)
    changes: dict[str, Any] = {}
    for pattern, fields in speech.model_rules:
        if fnmatchcase(model.lower(), pattern):
            changes.update(fields)
    return structs.replace(speech.dialect, **changes) if changes else speech.dialect
