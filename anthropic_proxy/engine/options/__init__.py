"""`EngineOptions`: what the engine is told about providers, models and routes.

The settings of the server (`gateway.settings`) are a subclass with fields for everything else. A description names the
environment variable by which users of the server set the field; `<PROVIDER>` stands for a name such as OPENAI. Some
fields map the name of a provider to a value, such as its keys or its base URL.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from anthropic_proxy.engine.messages.fidelity import Fidelity
from anthropic_proxy.engine.options.providers import CallOptions, ConfiguredProvider
from anthropic_proxy.engine.options.routes import ConfiguredRoute
from anthropic_proxy.secrets import Secret

TIERS = ("haiku", "sonnet", "opus", "fable")
"""Families of Claude models. A tier in a requested id, such as `claude-opus-5`, is mapped to a backend model."""


class Timeouts(Struct, frozen=True):
    """Time limits of a call to a provider, in seconds. The total duration of the call is unlimited."""

    connect_seconds: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`: maximum time to connect to the provider."""
    first_byte_seconds: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: maximum time until the reply starts. Reasoning models may need minutes."""
    idle_seconds: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: maximum time between two received pieces of the reply."""


class SearchService(Struct, frozen=True, kw_only=True):
    """Service that runs web searches for models, selected by the table `[search]` of the configuration file."""

    service: Literal["searxng", "brave", "tavily", "exa"]
    """Name of the search service, which selects its client."""
    base_url: str | None = None
    """Address of the search service without a trailing slash. None: the public address of the service."""
    key: Secret | None = None
    """API key of the search service. None: the service needs no key (SearXNG), or `problem` has the reason why it is
    missing."""
    problem: str = ""
    """Reason why the table `[search]` gives no key, with a remedy, for clients and the log. "": none."""
    problem_details: str = ""
    """Longer text of `problem` for the user's terminal. It quotes the reference to the key."""


class KeySource(Struct, frozen=True, kw_only=True):
    """File or command from which the API key of a provider is read, at the start and again while the proxy runs."""

    origin: str
    """File or command with its place in the configuration file, for messages."""
    folder: str
    """Folder of the configuration file."""
    file: str = ""
    """Path of the file, absolute or below `folder`. "": a command."""
    command: tuple[str, ...] = ()
    """Program with its arguments. Empty: a file."""
    refresh_seconds: float | None = None
    """Age in seconds at which the key is read again. None: only after the provider has rejected it."""


class EngineOptions(Struct, frozen=True, kw_only=True):
    """Options of the engine. The default of each field is that of the server."""

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → API keys for the provider (`OPENAI_API_KEY`, …; separated by commas). Calls use the keys in turn.
    """
    base_urls: Mapping[str, str] = {}
    """Provider name → URL that replaces the default base URL, without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → API with which it is called: `chat`, `responses` (`<PROVIDER>_WIRE`).

    Absent: the default of the provider, which may depend on the model (`auto`).
    """
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → model ids in addition to the built-in list of the provider (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`: provider of tiers and of model ids without a prefix.

    None: the first provider with a key or project, else Ollama if it replies, else the demo.
    """
    big_model: str | None = None
    """`BIG_MODEL`: backend model for sonnet, opus and fable requests. None: the default of the preferred provider."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: backend model for sonnet requests, instead of `BIG_MODEL`. None: `BIG_MODEL` applies."""
    small_model: str | None = None
    """`SMALL_MODEL`: backend model for haiku requests. None: the default of the preferred provider."""
    tier_models: Mapping[str, str] = {}
    """Tier (`opus`) → backend model, overriding BIG_MODEL, MIDDLE_MODEL and SMALL_MODEL (`MODEL_<TIER>`)."""
    configured_providers: tuple[ConfiguredProvider, ...] = ()
    """Tables `[providers.NAME]` of `anthropic-proxy.toml`. Their keys and addresses are in `keys` and `base_urls`."""
    call_options: Mapping[str, CallOptions] = {}
    """Provider name → headers, body fields and connection of its calls, from `[providers.NAME]`. Absent: none."""
    key_sources: Mapping[str, KeySource] = {}
    """Provider name → file or command from which its key in `keys` was read."""
    key_problems: Mapping[str, str] = {}
    """Provider name → reason why its `api_key` of the configuration file gives no key, with a remedy.

    It is sent to clients, so it does not quote `api_key`, which may be a key.
    """
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → backend models tried in order if the first model fails (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    """`USE_VERTEX_AUTH`: True if Gemini models are called at Vertex AI with Application Default Credentials."""
    vertex_project: str | None = None
    """`VERTEX_PROJECT`, `VERTEX_PROJECT_ID`: id of the Google Cloud project. None: the project of the credentials."""
    vertex_location: str = "us-central1"
    """`VERTEX_LOCATION`: region of Vertex AI, or `global`."""
    google_credentials_file: str | None = None
    """`GOOGLE_APPLICATION_CREDENTIALS`: path of the credentials file for Vertex AI. None: the path of gcloud."""
    aws_region: str | None = None
    """`AWS_REGION`, `AWS_DEFAULT_REGION`: region of Amazon Bedrock. None: Bedrock is not set up."""
    foundry_resource: str | None = None
    """`ANTHROPIC_FOUNDRY_RESOURCE`: name of the resource in Microsoft Foundry. None: Foundry is not set up."""
    cloud_variables: Mapping[str, Secret] = {}
    """Variables `AWS_…` and `AZURE_…` that are only in `.env`, with credentials of these clouds."""
    ollama_context_length: int | None = None
    """`OLLAMA_CONTEXT_LENGTH`: context window in tokens, sent to Ollama as `num_ctx`.

    None: `num_ctx` of the Modelfile, else the window of the model, at most 65,536.
    """
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: time that Ollama keeps a model in memory after a reply, in seconds (`300`) or as `10m`.

    `-1`: no limit. None: the default of the Ollama server.
    """
    serve_demo: bool = False
    """`SERVE_DEMO`: True if the built-in demo model `demo/…` is served beside other providers.

    False: only if the demo is the preferred provider.
    """
    timeouts: Timeouts = Timeouts()
    """Time limits of provider calls (`UPSTREAM_…_TIMEOUT`). `UPSTREAM_TIMEOUT` is the default of `first_byte_seconds`
    and `idle_seconds`."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` rejects a request that the backend can serve only with losses; `best-effort` serves it."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → policy that overrides `fidelity` for requests of the tier (`FIDELITY_<TIER>`)."""
    check_context_window: bool = False
    """`CHECK_WINDOW`: True if a request above the context window of the model is rejected before an upstream call."""
    search_url: str | None = None
    """`SEARCH_URL`: URL of the search service for web searches run by the proxy. None: the proxy runs none."""
    search: SearchService | None = None
    """`[search]` of `anthropic-proxy.toml`: search service for web searches. `search_url` takes precedence."""
    routes: tuple[ConfiguredRoute, ...] = ()
    """Tables `[[routes]]` of `anthropic-proxy.toml`, in the order of the file. The first match is used."""
    fetch_urls: bool = False
    """`FETCH_URLS`: True if the proxy may run the web fetch tool: download a web page for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: maximum concurrent calls to providers, in all workers together. None: no limit."""
    http_proxies: Mapping[str, Secret] = {}
    """Scheme of a provider URL (`https`) → URL of the HTTP proxy for calls to it (`HTTPS_PROXY`, else `ALL_PROXY`)."""
    no_proxy_hosts: str = ""
    """`NO_PROXY`: comma-separated hosts that are called without an HTTP proxy. "": none."""
    data_directory: Path | None = None
    """Directory for files of this user (`XDG_DATA_HOME`, `HOME`, `LOCALAPPDATA`). None: the environment names none."""
    other_secrets: Sequence[Secret] = ()
    """Secrets of other programs in the environment, recognized by variable names such as `…_TOKEN`. The log masks
    them."""
    origins: Mapping[str, str] = {}
    """Variable, or key of the configuration file → source of its value, for messages: `environment`, `.env line 4`."""

    def requires_client_key(self) -> bool:
        """Return True if every client needs a key of its own. Its credentials are then not those of a provider."""
        return False

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the unredacted keys that clients send. The engine masks them in what it relays."""
        return ()

    def reveal_all_secrets(self) -> Sequence[str]:
        """Return the unredacted text of every key and other secret, so that logs can mask them."""
        searching = [self.search.key] if self.search is not None and self.search.key is not None else []
        own = (*(key for keys in self.keys.values() for key in keys), *searching, *self.other_secrets)
        calls = (secret for options in self.call_options.values() for secret in options.reveal_secrets())
        return [*(key.reveal() for key in own), *calls, *self.reveal_proxy_keys()]

    def export_to_litellm(self, exported: dict[str, Secret] | None = None) -> None:
        """Set the environment variables from which LiteLLM reads keys. A program without the server sets its own.

        `exported` contains the variables that the previous call has set.
        """
