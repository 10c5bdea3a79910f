"""`ImportPlan`: the settings that `import` or `init` will write, and notes about settings that are not imported.

A server whose provider the proxy knows needs variables in `.env` only. Any other server gets a table in
`anthropic-proxy.toml`. Secrets of the other configuration are not copied there, only the names of their variables.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.cli.importing.built_in import find_built_in_registry
from anthropic_proxy.cli.importing.tables import ImportedRoute, ServerTable
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_and
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES

UNKNOWN_ENTRY = "import does not know this entry, so it is not imported"
"""Note about an entry of the other configuration that no reader knows."""
_REFERENCE = compile_anchored(r"(?:os\.environ/|\$\{|\$(?![0-9]))(\w+)\}?", re.ASCII)
_INVALID_IN_ROUTE_NAME = compile_later(r"[^A-Za-z0-9 ._-]+")
_MAX_ROUTE_NAME = 63
_MAX_SUGGESTIONS = 10


class ImportedKey(Struct, frozen=True):
    """API key in the other configuration."""

    value: str
    setting: str
    """Place of the key there: `Providers.openrouter.api_key`."""


class ImportNote(Struct, frozen=True):
    """What became of an entry of the other configuration that has no equal setting here."""

    setting: str
    reason: str
    line: str = ""
    """What the user can paste."""
    is_harmless: bool = False
    """True if nothing changes for the user without the entry."""
    is_error: bool = False
    """True if the entry cannot be used, so that the user has to correct it. Such a note is always shown."""


class ImportPlan:
    """`source`: name of the other project. `has_variables`: its file is like `.env`, so that keys are copied too."""

    def __init__(self, source: str, *, has_variables: bool = False) -> None:
        self.source = source
        self.has_variables = has_variables
        self.variables: dict[str, str] = {}
        """Name of a variable in `.env` → value to write."""
        self.servers: dict[str, ServerTable] = {}
        """Name of a table in `anthropic-proxy.toml` → its contents."""
        self.describing_model = ""
        """Model of the table `[images]`. "": no such table is written."""
        self.routes: list[ImportedRoute] = []
        """Routes in the order in which their conditions are checked."""
        self.origins: dict[str, str] = {}
        """Variable → setting of the other configuration with its value, if that has another name."""
        self.secrets: dict[str, ImportedKey] = {}
        """Name of a variable → key in the other configuration, which is written only if the user agrees."""
        self._suggestions = 0
        self._route_size = 0
        """Bytes of the targets of all routes."""
        self._route_names: set[str] = set()
        self._route_numbers = defaultdict[str, int](lambda: 1)
        self._notes: dict[ImportNote, None] = {}

    def add_note(
        self, setting: str, reason: str, line: str = "", *, is_harmless: bool = False, is_error: bool = False
    ) -> None:
        """The same note is added only once."""
        self._notes[ImportNote(setting, reason, line, is_harmless, is_error)] = None

    @property
    def notes(self) -> list[ImportNote]:
        """Rows: setting in the other configuration, what happens to it, and a line to paste ("": none)."""
        return [*self._notes]

    def suggest_model(self, model: str, listed: Mapping[str, None]) -> str:
        """Return the model of `listed` most similar to `model`. "": there is none, or many were suggested already.

        A comparison with a long list takes tenths of a second.
        """
        self._suggestions += 1
        return find_similar_choice(model, listed) if self._suggestions <= _MAX_SUGGESTIONS else ""

    def leave_out(self, name: str, reason: str = "", *, is_harmless: bool = False, is_error: bool = False) -> None:
        """Remove a variable or key, if the plan has it. `reason`: text of a note."""
        if name in self.variables or name in self.secrets:
            self.variables.pop(name, None)
            self.secrets.pop(name, None)
            if reason:
                self.add_note(self.origins.get(name, name), reason, is_harmless=is_harmless, is_error=is_error)

    def add_secret(self, variable: str, value: str, setting: str) -> None:
        """`setting`: place of the key in the other configuration."""
        self.origins[variable] = setting
        self.secrets[variable] = ImportedKey(value, setting)

    def copy_secrets(self, names: Collection[str]) -> None:
        self.variables |= {name: self.secrets[name].value for name in names}
        self.secrets = {name: key for name, key in self.secrets.items() if name not in names}

    def settle_known_keys(self, given: Sources) -> None:
        """Drop the keys that the environment has, and compare those that `.env` has with its lines later."""
        known = [name for name in self.secrets if given.find_setting(name, is_list=True) is not None]
        self.copy_secrets([name for name in known if name in given.file])
        for name in known:
            self.secrets.pop(name, None)

    def keep_preferred_provider(self, given: Sources) -> None:
        """Do not choose a provider if a model that is set stays: without a prefix, it would go to that provider."""
        chosen = self.variables.get("PREFERRED_PROVIDER")
        if chosen is None or given.find_setting("PREFERRED_PROVIDER") is not None:
            return
        present = {name: given.find_setting(name) for name in MODEL_VARIABLES}
        kept = [name for name, model in present.items() if model and model.text != self.variables.get(name)]
        if kept:
            del self.variables["PREFERRED_PROVIDER"]
            verb = "stays as it is" if len(kept) == 1 else "stay as they are"
            self.add_note("PREFERRED_PROVIDER", f"{chosen} is not written, because {join_with_and(kept)} {verb}")

    def add_route(
        self,
        name: str,
        when: Mapping[str, object],
        targets: Sequence[str],
        *,
        balance: str = "order",
        weights: Sequence[int] = (),
    ) -> None:
        """The name is changed if it is invalid or used."""
        valid = _INVALID_IN_ROUTE_NAME.sub("-", name)[:_MAX_ROUTE_NAME].strip(" ._-") or "route"
        self._route_size += sum(len(target.encode()) for target in targets)
        if self._route_size > MAX_CONFIG_BYTES:
            raise ConfigurationError(
                f"{CONFIG_FILE} would have more than {MAX_CONFIG_BYTES:,} bytes, because the routes have too many "
                "targets.",
                code="configuration-file",
            )
        stem = valid[: _MAX_ROUTE_NAME - 6]
        unique = valid
        while unique in self._route_names:
            self._route_numbers[stem] += 1
            unique = f"{stem}-{self._route_numbers[stem]}"
        self._route_names.add(unique)
        self.routes.append(ImportedRoute(name=unique, when=when, targets=targets, balance=balance, weights=weights))

    def set_secret_reference(self, variable: str, value: str, setting: str) -> None:
        """Set `variable` of `.env` to `${KEY}` if `value` is a reference to the variable KEY, such as `$KEY`.

        If `value` is a secret, it is written only if the user agrees. `setting`: its place in the other configuration.
        """
        reference = find_referenced_variable(value)
        if reference and reference != variable:
            self.variables[variable] = f"${{{reference}}}"
        elif value and not reference:
            self.add_secret(variable, value, setting)

    def set_tier_models(self, targets: Mapping[str, str], fallbacks: Mapping[str, Sequence[str]] | None = None) -> None:
        """Set the models of the Claude tiers (haiku, sonnet, opus, fable), and the preferred provider.

        `targets` maps a tier to a model id with prefix, and `fallbacks` maps a tier to its fallback models. The
        preferred provider is that of the model for sonnet, or of the first target if sonnet has none.
        """
        for tier, models in (fallbacks or {}).items():
            if models:
                self.variables[f"FALLBACK_{tier.upper()}"] = ",".join(dict.fromkeys(models))
        large = {tier: targets[tier] for tier in TIERS if tier in targets and tier != "haiku"}
        is_of_claude = any(target.startswith("anthropic/") for target in targets.values())
        if is_of_claude or len(targets) < len(TIERS) or large["opus"] != large["fable"]:
            self.variables |= {f"MODEL_{tier.upper()}": target for tier, target in targets.items()}
        else:
            middle = {} if large["sonnet"] == large["opus"] else {"MIDDLE_MODEL": large["sonnet"]}
            self.variables |= {"BIG_MODEL": large["opus"], **middle, "SMALL_MODEL": targets["haiku"]}
        if preferred := large.get("sonnet") or next(iter(targets.values()), ""):
            prefix = preferred.partition("/")[0]
            known = [*self.servers, *(name for row in find_built_in_registry() for name in (row.name, row.prefix))]
            self.variables["PREFERRED_PROVIDER"] = prefix if prefix in known else "litellm"


def find_referenced_variable(text: str) -> str:
    """Return KEY for `$KEY`, `${KEY}` and `os.environ/KEY`. "": the text is no reference."""
    reference = _REFERENCE.fullmatch(text.strip())
    return reference[1] if reference else ""


def is_reference(text: str) -> bool:
    """Return True if a text is exactly a reference to a variable."""
    return _REFERENCE.fullmatch(text) is not None
