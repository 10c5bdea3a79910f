"""Tables of `anthropic-proxy.toml` that `import` and `init` write, and their lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from anthropic_proxy.gateway.settings.files import format_toml_key, format_toml_value


class ServerTable(Struct, kw_only=True):
    """Table `[providers.NAME]` of `anthropic-proxy.toml`, which describes a server that the proxy can call."""

    base_url: str = ""
    """"": the table only has headers and body fields for a built-in provider."""
    key_variable: str = ""
    """Name of the variable that contains the key. "": the server needs no key."""
    wire: str = "chat"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, int | str]] = field(default_factory=dict)
    """Model id → fields of the model, such as `max_output` or `model_of`."""

    def encode_toml(self, name: str) -> str:
        """`name`: NAME in the heading `[providers.NAME]`."""
        lines = [f"[providers.{name}]"]
        if self.base_url:
            lines.append(f"base_url = {format_toml_value(self.base_url)}")
        if self.key_variable:
            lines.append(format_key_field(self.key_variable))
        if self.wire != "chat":
            lines.append(f"wire = {format_toml_value(self.wire)}")
        lines += [format_call_field("headers", header, value) for header, value in self.headers.items()]
        lines += [format_call_field("body", key, value) for key, value in self.body.items()]
        if not any(self.models.values()):
            if self.models:
                lines.append(f"models = {format_toml_value([*self.models])}")
            return "\n".join(lines) + "\n"
        for model, fields in self.models.items():
            lines += ["", f"[providers.{name}.models.{format_toml_value(model)}]"]
            lines += [f"{key} = {format_toml_value(value)}" for key, value in fields.items()]
        return "\n".join(lines) + "\n"


def format_key_field(variable: str) -> str:
    """Return the line of `[providers.NAME]` that takes its key from a variable."""
    return f"api_key = {format_toml_value({'env': variable})}"


def format_call_field(kind: str, name: str, value: object) -> str:
    """Return a line of `[providers.NAME]`: `body.provider = { order = ["groq"] }`. `kind`: `headers` or `body`."""
    return f"{kind}.{format_toml_key(name)} = {format_toml_value(value)}"


class ImportedRoute(Struct, kw_only=True):
    """Table `[[routes]]` of `anthropic-proxy.toml`: the models for requests with certain properties."""

    name: str
    when: Mapping[str, object]
    """Name of a condition → its value: a text, a number, a Boolean, or a list of texts."""
    targets: Sequence[str]
    balance: str = "order"
    weights: Sequence[float] = ()

    @property
    def label(self) -> str:
        return f'[[routes]] "{self.name}"'

    def encode_toml(self) -> str:
        lines = ["[[routes]]", f"name = {format_toml_value(self.name)}", f"when = {format_toml_value(self.when)}"]
        lines.append(f"targets = {format_toml_value(self.targets)}")
        if self.balance != "order":
            lines.append(f"balance = {format_toml_value(self.balance)}")
        if len(set(self.weights)) > 1:
            lines.append(f"weights = {list(self.weights)}")
        return "\n".join(lines) + "\n"
