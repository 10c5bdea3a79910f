"""Providers of the configuration file, after its checks: tables `[providers.NAME]`."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from anthropic_proxy.secrets import Secret


class CallOptions(Struct, frozen=True, kw_only=True):
    """What a table `[providers.NAME]` adds to the calls to its provider, which may also be a built-in one."""

    headers: Mapping[str, str] = {}
    """Header in lower case → value. They replace headers that the proxy sets itself, except that of the key."""
    secret_headers: Mapping[str, Secret] = {}
    """Header in lower case → secret value, which logs and errors mask."""
    copied_headers: Mapping[str, str] = {}
    """Header in lower case → client header whose value it gets. Without that client header, it is not sent."""
    body: Mapping[str, object] = {}
    """Fields that are merged into the JSON body of messages. Tables are merged, other values replaced."""
    key_header: str | None = None
    """Header with the API key, in lower case. None: that of the provider."""
    proxy: Secret | None = None
    """URL of the proxy (http, https, socks5, socks5h) that all calls use. An empty one: none, also not that of the
    environment. None: the proxy of the environment."""
    ca_file: str = ""
    """PEM file with further certificate authorities. "": only those of the system."""
    certificate_file: str = ""
    """PEM file with the certificate that identifies the proxy to the server. "": none."""
    certificate_key_file: str = ""
    """PEM file with the private key. "": `certificate_file` contains it."""
    files_digest: str = ""
    """Digest of these files, so that a reload notices a renewed certificate."""
    requests_per_minute: int | None = None
    """Maximum number of calls within 60 s, in all workers together. Further calls wait. None: no limit."""
    shown: Mapping[str, str] = {}
    """Name of a setting → its text without secrets, for lists of settings."""

    def reveal_secrets(self) -> Sequence[str]:
        """Return the unredacted values that logs and errors must not contain."""
        proxy = self.proxy.reveal() if self.proxy is not None else ""
        password = unquote(urlsplit(proxy).password or "")
        hidden = [proxy, password] if password else []
        return [*(value.reveal() for value in self.secret_headers.values()), *hidden]

    @property
    def connection(self) -> tuple[object, ...]:
        """What the connections of the provider depend on. All values empty: it uses the common connections."""
        files = self.ca_file, self.certificate_file, self.certificate_key_file, self.files_digest
        return self.proxy, *files, self.requests_per_minute


class ConfiguredModel(Struct, frozen=True, kw_only=True, eq=False):
    """Limits, features and API deviations of the models of one configured provider that match a pattern."""

    pattern: str
    """`fnmatch` pattern of model ids, as in the file. Case is ignored."""
    model_of: str = ""
    """Id of the known model behind these names, whose limits, rules, API and prices apply. "": none."""
    capabilities: Mapping[str, object]
    """Field of `ModelTable` → value, without `model_of`, `dialect` and fields that are not set."""
    dialect: Mapping[str, object]
    """Dialect field → value as in the file. `providers.lookup` checks the names."""


class ConfiguredProvider(Struct, frozen=True, kw_only=True, eq=False):
    """A checked `[providers.NAME]` table of the configuration file. Its API keys are in `Settings.keys`.

    Objects are compared and hashed by identity, because the mappings in their fields cannot be hashed for caches.
    """

    name: str
    """Name of the provider, from `[providers.NAME]`. It is the prefix of model ids."""
    base_url: str
    """Base URL of the server, without a trailing slash."""
    wire: str
    """API of the server: `chat`, `responses` and others. `providers.lookup` checks the name."""
    has_wire: bool = True
    """True if `wire` is in the file. False: it is a default, which `model_of` of a model may replace."""
    has_key: bool
    """True if the table of the provider has an `api_key`."""
    has_key_command: bool = False
    """True if the output of a command is the key. Such a key may be another one at each start or reload."""
    known_models: Sequence[str]
    """Model ids of the table, without patterns, in the order of the file."""
    models: Sequence[ConfiguredModel]
    """Limits and deviations by pattern, in the order of the file. A later match overrides an earlier one."""
    dialect: Mapping[str, object]
    """Dialect field → value as in the file. `providers.lookup` checks the names."""
    json_text: str
    """The table as JSON text, by which a reload finds changes. Contains no key."""

    def collect_wire_and_model_values(self) -> dict[tuple[str, ...], object]:
        """Return the values in this table for the API (`wire`), the dialect and the models.

        The key of each value is its path within the table, such as `("models", "qwen3-*", "max_output")`. Lists of
        settings show the values with their lines in the file.
        """
        details: dict[tuple[str, ...], object] = {("wire",): self.wire}
        details |= {("dialect", name): value for name, value in self.dialect.items()}
        for model in self.models:
            place = ("models", model.pattern)
            details |= {(*place, "model_of"): model.model_of} if model.model_of else {}
            details |= {(*place, name): value for name, value in model.capabilities.items()}
            details |= {(*place, "dialect", name): value for name, value in model.dialect.items()}
        return details

    def format_setting_name(self, field: str) -> str:
        """Return the full name of a setting of this provider, such as `wire of [providers.vllm]` for `wire`."""
        # also a key of `Settings.origins`
        return f"{field} of [providers.{self.name}]"

    @property
    def fixes_wire(self) -> bool:
        """True if all models are called over `wire`. False: those with `model_of` are called as that model is."""
        return self.has_wire or not any(model.model_of for model in self.models)

    @property
    def base_url_setting(self) -> str:
        """Full name of the setting `base_url`, for messages and `Settings.origins`: `base_url of [providers.NAME]`."""
        return self.format_setting_name("base_url")

    @property
    def api_key_setting(self) -> str:
        """Full name of the setting `api_key`, for messages and `Settings.origins`: `api_key of [providers.NAME]`."""
        return self.format_setting_name("api_key")
