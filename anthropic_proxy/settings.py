"""Every setting: its variable, its default and the reason. The only file that reads the environment."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field


class Secret:
    """A key that does not print: `str`, `repr` and formatting show at most its last four characters."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Where it was set, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Return the secret itself; call it only where it leaves for its owner."""
        return self._value

    def __repr__(self) -> str:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ProviderNames(Protocol):
    """What `load_settings` must know of a provider's row."""

    @property
    def name(self) -> str: ...
    @property
    def key_variable(self) -> str | None: ...
    @property
    def base_url_variable(self) -> str | None: ...


class Timeouts(Struct, frozen=True):
    """Limits on the provider, in seconds; there is none on the whole."""

    connect: float = 10.0
    first_byte: float = 600.0
    idle: float = 300.0


class Settings(Struct, frozen=True, kw_only=True):
    """What the process runs with; built once at start, and anew at a reload."""

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → its keys, used in turn."""
    base_urls: Mapping[str, str] = {}
    """Provider name → address that overrides the row's; without a trailing slash."""
    wires: Mapping[str, str] = {}
    """Provider name → wire asked for (`OPENAI_WIRE`, `<PROVIDER>_WIRE`)."""
    preferred_provider: str | None = None
    big_model: str | None = None
    middle_model: str | None = None
    small_model: str | None = None
    tier_models: Mapping[str, str] = {}
    """`opus`, `sonnet`, `haiku`, `fable` → the model that wins for that tier (`MODEL_<TIER>`)."""
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → models tried in order after the first (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    vertex_project: str | None = None
    vertex_location: str = "us-central1"
    ollama_context_length: int | None = None
    proxy_api_keys: Sequence[Secret] = ()
    allow_unauthenticated: bool = False
    allowed_hosts: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8082
    timeouts: Timeouts = Timeouts()
    fidelity: Literal["best-effort", "strict"] = "best-effort"
    origins: Mapping[str, str] = {}
    """Variable → where its value was found, in words: `environment`, `.env line 4`."""
    warnings: Sequence[str] = field(default_factory=tuple)
    """What start-up must say aloud: placeholders taken for unset, quotes stripped."""


def load_settings(
    environ: Mapping[str, str], providers: Sequence[ProviderNames], *, env_file: str | None = ".env"
) -> Settings:
    """Read the environment and the `.env` file (the environment wins).

    Raises `ConfigurationError` that names the variable, the value (never a secret) and what is allowed.
    """
    raise NotImplementedError
