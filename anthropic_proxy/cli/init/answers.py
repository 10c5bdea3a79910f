"""What `init` has to know of a provider: each value comes from an option, from the environment, or from a question."""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct, field

from anthropic_proxy.cli.importing.tables import ServerTable
from anthropic_proxy.cli.init.candidates import Candidate, Kind
from anthropic_proxy.cli.models import ModelFacts
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.questions import Questions
from anthropic_proxy.engine.options import suggest_key_variable
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import PROVIDERS, Provider, find_registry
from anthropic_proxy.engine.providers.hosts import find_host_at
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources
from anthropic_proxy.gateway.settings.values import decode_url, remove_endpoint

_NOT_IN_NAMES = compile_later(r"[^a-z0-9-]")


class Options(Struct, frozen=True):
    """The answers of the command line. "": not given."""

    address: str
    key: str
    source_of_key: str
    """Variable of the environment that has the key."""
    models: Mapping[str, str | None]
    """`BIG_MODEL`, `SMALL_MODEL` → the model. None: not given."""
    deployments: Mapping[str, str]
    """Deployment of Azure → its model."""
    skips_test: bool


class Session(Struct, frozen=True):
    """One run of the command."""

    output: Output
    questions: Questions | None
    """None: the user is not asked."""
    options: Options
    environ: Mapping[str, str]
    settings: Settings
    """Those before the change."""
    folder: Path
    """Folder of the settings files."""

    def warn(self, text: str) -> None:
        self.output.write_notice(text, "!")

    def load_with(self, variables: Mapping[str, str]) -> Settings:
        return load_settings({**self.environ, **variables}, PROVIDERS, env_file=self.settings.env_file)

    def find_present_key(self, variable: str, *, is_exported: bool = False) -> FoundSetting | None:
        """`is_exported`: only that of the environment."""
        sources = Sources(self.environ, None if is_exported else self.settings.env_file)
        return sources.find_setting(variable, is_list=True)


class ServerNames(Struct, frozen=True):
    """What a server with a table in the configuration file may be called."""

    addresses: Sequence[str]
    """Base URLs to test, because users leave out the path."""
    stem: str
    """Name of the table, apart from a number."""
    key_variable: str


class Answers(Struct):
    """What is known of a candidate. `values`: field of a question → its answer, which may be empty."""

    session: Session
    candidate: Candidate
    values: dict[str, str] = field(default_factory=dict)
    is_first: bool = True
    """False: a test has failed, and the user enters something else."""
    is_rejected: bool = False
    """True: the server has rejected the last key."""

    @property
    def kind(self) -> Kind:
        return self.candidate.kind

    @property
    def address(self) -> str:
        """The one that the user has chosen, or that of the vendor. "": the provider has only its own."""
        vendor = self.candidate.vendor if self.kind == Kind.VENDOR else None
        return self.values.get("address") or self.session.options.address or (vendor.base_url if vendor else "")

    @property
    def key(self) -> str:
        return self.values.get("key", "")

    @property
    def key_variable(self) -> str:
        provider = self.candidate.provider
        return self.name_server().key_variable if provider is None else provider.key_variable or ""

    @property
    def variables(self) -> dict[str, str]:
        """The lines for `.env`, without those that are set already."""
        provider = self.candidate.provider
        given = {} if provider is None else {provider.base_url_variable or "": self.address}
        given |= {name: value for name, value in self.values.items() if name.isupper()}
        options = self.session.options
        present = self.session.find_present_key(self.key_variable) if self.key else None
        is_set = present is not None and present.text == self.key
        if self.key and self.key == options.key:  # a key of another variable is stored, so that each shell has it
            is_set = self.key_variable == options.source_of_key
        if not is_set:
            given[self.key_variable] = self.key
        return {name: value for name, value in given.items() if name and value}

    def name_server(self) -> ServerNames:
        session = self.session
        vendor = self.candidate.vendor
        address = self.address
        known = vendor or find_host_at(PROVIDERS.find("openai"), address)
        has_path = bool(urlsplit(address).path)
        versioned = f"{address}/v1"
        addresses = (address,) if has_path else (versioned,) if session.options.skips_test else (address, versioned)
        tables = session.settings.configured_providers
        own_name = next(
            (table.name for server_address in addresses for table in tables if table.base_url == server_address), ""
        )
        is_known = known is not None and known.key_variable
        stem = known.name.replace("_", "-") if known and is_known else own_name or name_host(address)
        names = [choose_name(stem, server_address, session.settings) for server_address in addresses]
        present = [table for table in tables if table.name in names]
        # a variable that the table names, or that no other table of this stem has
        variable = next((table.key_variable for table in present if table.has_key), "")
        variable = variable or (known.key_variable if known else "")
        return ServerNames(addresses, stem, variable or suggest_key_variable(present[0].name if present else names[0]))

    def forget(self, fields: Collection[str]) -> None:
        self.values = {name: value for name, value in self.values.items() if name not in fields}


class ChosenProvider(Struct, frozen=True):
    """The chosen provider or server, with what the user has entered for it."""

    provider: Provider
    settings: Settings
    """Settings with the entered key and address."""
    variables: Mapping[str, str]
    """Variables for `.env` with key, project or address."""
    table: ServerTable | None = None
    """Table for `anthropic-proxy.toml`, whose name is that of the provider. None: it needs none."""
    models: Sequence[ModelFacts] | None = None
    """Models that the server has listed. None: not tested."""
    list_owner: str = ""
    """See `Host.list_owner`. "": unknown."""
    proposed_models: tuple[str, str] = ("", "")
    """Proposed big and small model. "": those of the provider."""
    has_deployments: bool = False
    """True if models have names of the user's own, and the table says which model is behind each."""


def read_address(name: str, text: str) -> str:
    """Return the address of a server that the user has entered for the setting `name`. "": it is no address.

    A host without a scheme, such as `localhost:8000`, gets `http://` for this machine and for a private address, and
    `https://` for others, because a key is sent there. A single word is no address.
    """
    address = text.strip()
    try:
        if "://" not in address:
            host = urlsplit(f"//{address}").hostname or ""
            if host != "localhost" and "." not in host and ":" not in address:
                return ""
            try:
                is_local = not ip_address(host).is_global  # `is_private` leaves out the addresses of Tailscale
            except ValueError:
                is_local = host == "localhost"
            address = f"{'http' if is_local else 'https'}://{address}"
        address = remove_endpoint(address)
        return decode_url(FoundSetting(name, address, "environment", (address,)))
    except (ConfigurationError, ValueError):
        return ""


def name_host(address: str) -> str:
    """Return a name for the server at `address`: `openrouter` for openrouter.ai, `gpu-box` for the host gpu-box."""
    host = urlsplit(address).hostname or ""
    try:
        return "remote" if ip_address(host).is_global else "local"
    except ValueError:
        name = host.split(".")[-2:][0].lower()
        return "local" if name == "localhost" else _NOT_IN_NAMES.sub("-", name)


def choose_name(name: str, base_url: str, settings: Settings) -> str:
    """Return `name`, with a number if a provider with another address already has it."""
    registry = find_registry(settings)
    for numbered in (name, *(f"{name}-{number}" for number in range(2, 100))):
        present = registry.find_by_prefix(numbered)
        if present is None or (present.is_configured and present.base_url == base_url):
            return numbered
    raise AssertionError(name)
