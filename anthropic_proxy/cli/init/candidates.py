"""The providers and servers that `init` offers, with what it has found of each: a key, a project or a server."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.engine.providers import PROVIDERS, Provider, find_registry
from anthropic_proxy.engine.providers.registry import Host
from anthropic_proxy.errors import ConfigurationError, suggest_name
from anthropic_proxy.gateway.problems import find_google_project
from anthropic_proxy.gateway.settings import Settings, copy_environment
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources

OTHER_SERVER = "other"
"""Choice "another server" in the list of providers."""
MOST_USED = ("openai", "gemini", "anthropic", "openrouter", "deepseek", "ollama", OTHER_SERVER)
"""Names of the candidates that the list of providers shows at first, below those that were found."""
_CLAUDE_MODELS = {
    "vertex_ai": ("claude-opus-5-5", "claude-haiku-5-5"),
    "bedrock": ("global.anthropic.claude-opus-5-5", "global.anthropic.claude-haiku-5-5"),
    "foundry": ("claude-opus-5-5", "claude-haiku-5-5"),
}
"""Prefix of a cloud → the proposed models of Claude.

Sources: docs.aws.amazon.com/bedrock/latest/userguide/model-card-anthropic-claude-opus-5-5 and -haiku-5-5 (launched on
2026-09-22 and 2026-10-07, end not before a year later); @ai-sdk/amazon-bedrock 4.0.192 (ids at Bedrock and Vertex AI);
lib/google_cloud of anthropic 2.10.0; platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry; read
2026-11-25. Amazon ends Haiku 4.5 from 2026-10-01 on."""


OTHER_KEY_VARIABLES = {"GEMINI_API_KEY": "GOOGLE_API_KEY"}
"""Variable of a key → another name that the vendor's own programs read it from. `init` stores its key as the first one.
Source: ai.google.dev/gemini-api/docs/api-key, read 2026-11."""


class Kind(StrEnum):
    """What a provider needs. Each kind has its own rows in the table of questions."""

    KEY = "key"
    """A provider of this proxy with an API key."""
    INSTALLED = "installed"
    """A provider of this proxy with the models that are installed on its server: Ollama."""
    GOOGLE = "google"
    AWS = "aws"
    FOUNDRY = "azure"
    AZURE = "azure_openai"
    """Azure OpenAI, whose models are deployments with names of the user's own."""
    VENDOR = "vendor"
    """A vendor with the API of OpenAI, which gets a table in the configuration file, as the next two do."""
    LOCAL = "local"
    """A program that serves models on this machine."""
    OTHER = "other"
    """A server whose address the user has."""


CREDENTIALS = {
    Kind.GOOGLE: "Application Default Credentials",
    Kind.AWS: "the credentials of AWS",
    Kind.FOUNDRY: "Microsoft Entra ID",
    Kind.AZURE: "Microsoft Entra ID",
}
"""Cloud → the name of its own credentials, which replace a key."""
_NOTES = {
    Kind.GOOGLE: "a project of Google Cloud",
    Kind.AWS: "API key, or the credentials of AWS",
    Kind.FOUNDRY: "API key, or Microsoft Entra ID",
    Kind.AZURE: "API key, or Microsoft Entra ID",
    Kind.OTHER: "any OpenAI-compatible address",
}
"""Kind → what the list says of a candidate of which nothing was found."""


class Candidate(Struct, frozen=True):
    """A provider or server that the user can choose."""

    name: str
    """Word that the user can type: `gemini`, `together`, `other`."""
    title: str
    provider: Provider | None = None
    """None: a server that needs a table in the configuration file."""
    vendor: Host | None = None
    """Entry of the vendor of such a server. None: another server."""
    detected: str = ""
    """Detected key, project or server: `OPENAI_API_KEY in the environment`. "": nothing was detected; the user has to
    enter it."""
    keys_url: str = ""
    models: tuple[str, str] = ("", "")
    """Proposed big and small model. "": those of the provider."""
    address: str = ""
    """Address that the user has typed in place of a provider. "": none."""

    @property
    def kind(self) -> Kind:
        if self.provider is not None:
            if self.provider.key_source != "settings":
                return Kind(self.provider.key_source)
            return Kind.INSTALLED if self.provider.uses_installed_models else Kind.KEY
        if self.vendor is None:
            return Kind.OTHER
        if self.vendor.key_source == "azure_openai":
            return Kind.AZURE
        return Kind.LOCAL if self.vendor.has_local_url else Kind.VENDOR

    @property
    def note(self) -> str:
        """Text beside it in the list."""
        return f"found: {self.detected}" if self.detected else _NOTES.get(self.kind, "")


def list_candidates(settings: Settings, local_servers: Mapping[str, int]) -> list[Candidate]:
    """Return all providers that the user can choose: first those with a detected key, project or server, then the most
    used ones.

    `local_servers`: name of a provider or vendor whose server on this machine answers → number of its models.
    """
    candidates = [*_list_providers(settings, local_servers), *_list_vendors(settings, local_servers)]
    candidates.append(Candidate(OTHER_SERVER, "Another server"))

    def rank(candidate: Candidate) -> tuple[bool, int, int]:
        use = MOST_USED.index(candidate.name) if candidate.name in MOST_USED else len(MOST_USED)
        if candidate.kind in (Kind.LOCAL, Kind.OTHER):
            return not candidate.detected, use, 1
        return not candidate.detected, use, 2 if any(candidate.models) else 0 if candidate.provider is not None else 3

    return sorted(candidates, key=rank)


def _list_providers(settings: Settings, local_servers: Mapping[str, int]) -> list[Candidate]:
    candidates = []
    for provider in find_registry(settings):
        models = _CLAUDE_MODELS.get(provider.prefix)
        if not (provider.offered_to_users or models) or provider.is_configured:
            continue
        variable = provider.key_variable or ""
        detected = describe_key(variable, settings.origins.get(variable, ""))
        if not detected and (other := find_other_key(variable)) is not None:
            detected = describe_key(other.variable, other.origin)
        if provider.uses_installed_models:
            address = settings.base_urls.get(provider.name, provider.base_url)
            detected = _describe_local_server(local_servers.get(provider.name), address)
        elif provider.key_source == "google":
            project = find_google_project(settings)
            detected = f"project {project}" if project else ""
        elif provider.key_source == "azure" and settings.foundry_resource and not detected:
            detected = f"resource {settings.foundry_resource}"
        if provider.offered_to_users:
            candidates.append(Candidate(provider.prefix, provider.title, provider, None, detected, provider.keys_url))
        if models:
            name = f"{provider.prefix}_claude" if provider.offered_to_users else provider.prefix
            candidates.append(Candidate(name, f"Claude: {provider.title}", provider, None, detected, models=models))
    return candidates


def _list_vendors(settings: Settings, local_servers: Mapping[str, int]) -> list[Candidate]:
    candidates = []
    exported = Sources(copy_environment(), None)
    saved = Sources(copy_environment(), settings.env_file)
    servers = PROVIDERS.find("openai").hosts
    vendors = [server for server in servers if server.base_url or server.key_source == "azure_openai"]
    for vendor in sorted(vendors, key=lambda server: server.title.lower()):
        # with the resource of Azure, a new key is asked for
        sources = exported if vendor.key_source == "azure_openai" else saved
        key = sources.find_setting(vendor.key_variable, is_list=True)
        detected = describe_key(vendor.key_variable, key.origin if key else "")
        detected = detected or _describe_local_server(local_servers.get(vendor.name), vendor.base_url)
        candidates.append(Candidate(vendor.name, vendor.title, None, vendor, detected, vendor.keys_url))
    return candidates


def find_other_key(variable: str) -> FoundSetting | None:
    """Return the key of the environment that another variable of the vendor has. None: there is none."""
    other = OTHER_KEY_VARIABLES.get(variable)
    return None if other is None else Sources(copy_environment(), None).find_setting(other, is_list=True)


def describe_key(variable: str, origin: str) -> str:
    """`OPENAI_API_KEY in the environment`, `OPENAI_API_KEY in .env line 4`. "": it is not set."""
    return origin and f"{variable} in {'the environment' if origin == 'environment' else origin}"


def _describe_local_server(models: int | None, address: str) -> str:
    """Return the text for a server with a number of models. None: there is no server."""
    place = address.removeprefix("http://").removesuffix("/v1")
    return "" if models is None else f"{formats.plural(models, 'model')} at {place}"


def find_candidate(candidates: Sequence[Candidate], name: str) -> Candidate:
    """Return the candidate that the user calls `name`. Raises `ConfigurationError` with the nearest name."""
    word = name.lower()
    for candidate in candidates:
        names = [candidate.name, candidate.title.lower()]
        if word in (*names, *([candidate.provider.name] if candidate.provider else [])):
            return candidate
    remedy = suggest_name("provider", name, [candidate.name for candidate in candidates], lead="--provider ")
    raise ConfigurationError(f'There is no provider "{name}". {remedy}', code="unknown-provider")
