"""Lookup of setting texts in the environment, then in `.env`. Placeholders such as `your-key` count as not set."""

import os
import re
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING

from msgspec import Struct

from anthropic_proxy.engine.options import format_origin_in_sentence, split_origin
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.fields import ReferencedVariable
from anthropic_proxy.gateway.settings.files import MAX_ENV_BYTES, parse_env_text, read_settings_file
from anthropic_proxy.secrets import KEY_BEGINNINGS, Secret

if TYPE_CHECKING:
    from dotenv.parser import Binding

_PLACEHOLDER = compile_later(
    r"""
    (?:^|[^a-z0-9])your(?:[-_\s.]|$)                             # your-key, sk-your-key-here, https://your-endpoint.com
    | ^(?:sk-)?your(?:api|key|token|openai|gemini)               # yourapikey
    | \.\.\. | … | \*{3,} | (?:^|[-_])x{3,}(?:[-_]|$)            # sk-..., AIza…, ****, sk-xxxx
    | ^sk-(?:ant|proj)-$
    | ^<.*>$ | <[a-z][\w\s-]*> | ^\[[a-z\s_-]+\]$ | ^\{+[\w\s-]+\}+$ | ^\$\{?[a-z_]\w*\}?$  # <key>, [key], ${KEY}
    | ^(?:change|replace|fill|set)[-_\s]?(?:me|this|it|in)(?![a-z]) | ^(?:insert|enter|paste|replace)[-_\s]
    | [-_\s]here$ | ^/path/to/                                   # put-key-here, /path/to/file.json
    | ^(?:unset|todo|tbd|undefined)$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_EXAMPLE = compile_anchored(r"(?:example|placeholder)(?:[-_]\w+)?", re.IGNORECASE)
_MAX_VALUE_CHARACTERS = 1 << 20
"""Maximum number of characters of all values of `.env` together. References to other variables can double them."""
_QUOTED = compile_anchored(r"""(["'])(.*?)\1\s*(?:\#.*)?""", re.DOTALL)
_COMMENT = compile_later(r"(?:^|(?<!\s)\s+)#(?:\s.*)?$|(?<!\s)\s+#.*$", re.DOTALL)


def is_placeholder(text: str) -> bool:
    beginning = next(filter(text.startswith, KEY_BEGINNINGS), "")  # a vendor's prefix alone, or `sk-example`
    return text == beginning or bool(_EXAMPLE.fullmatch(text, len(beginning)) or _PLACEHOLDER.search(text))


class ErrorList:
    """Errors of several settings, so that one run reports all of them. Equal messages are kept once."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._messages)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Catch the `ConfigurationError` of one setting."""
        try:
            yield
        except ConfigurationError as error:
            self._messages |= dict.fromkeys(error.messages)

    def require_empty(self) -> None:
        """Raise one `ConfigurationError` with all messages."""
        if self._messages:
            raise ConfigurationError(*self._messages)


class FoundSetting(Struct, frozen=True):
    """The text of a setting before decoding, with its variable and source."""

    variable: str
    """Name of the variable with the text: the main name of the setting or an alias."""
    text: str
    """Text without surrounding spaces, quotes and comment. Never empty."""
    origin: str
    """Source of the text: `environment`, or file and line (`.env line 4`). "": a text that is only checked."""
    items: tuple[str, ...] = ()
    """Values of a comma-separated list, without placeholders. A setting with one value has one item."""

    folder: str | None = None
    """Folder of the settings files, to which a relative path in the text refers. None: there is none."""
    toml_key: str = ""
    """Key in the configuration file, such as `base_url`, if the text comes from this file.

    "": it comes from a variable.
    """

    def format_assignment(self, text: str) -> str:
        """`BIG_MODEL=gpt-4.1`"""
        return f'{self.toml_key} = "{text}"' if self.toml_key else f"{self.variable}={text}"

    @property
    def origin_phrase(self) -> str:
        """`in .env, line 4`, `in the environment`"""
        return f"in {'the environment' if self.origin == 'environment' else format_origin_in_sentence(self.origin)}"

    @property
    def location(self) -> str:
        """` Set in .env, line 4.`, with the space before. "": the text is only checked."""
        return f" Set {self.origin_phrase}." if self.origin else ""


class _Given(Struct, frozen=True):
    text: str
    origin: str


class Sources:
    """The attribute `errors` also has the error of a `.env` file that cannot be read.

    `draft`: a text that is decoded instead of the content of `env_file`, without which it is ignored.
    """

    def __init__(self, environ: Mapping[str, str], env_file: str | None, draft: str | None = None) -> None:
        self._environ = environ
        self.folder = None if env_file is None else os.path.dirname(os.path.abspath(env_file))
        """Absolute path of the folder of the settings files. None: no files are read."""
        self._warnings: list[str] = []
        self._placeholders: dict[str, list[str]] = {}
        self.placeholders: dict[str, str] = {}
        """Variable that counts as not set, because its text is a placeholder → source of the text."""
        self.errors = ErrorList()
        """Error messages about all settings, collected while they are read."""
        self.origins: dict[str, str] = {}
        """Found variable → source of its text: `environment`, `.env line 4`."""
        self.given: dict[str, Secret] = {}
        """Found variable → its text before decoding, to find the variables changed by a reload."""
        self.referenced_variables: dict[str, ReferencedVariable] = {}
        """Name of a variable with API keys that the configuration file refers to → its keys. Such a name is no setting
        and not reported as misspelled."""
        self.file: dict[str, _Given] = {}
        """Variables of the `.env` file with a nonempty value."""
        self.is_readable = env_file is None
        """False: the variables of the file are unknown, because it cannot be read."""
        if env_file is not None:
            with self.errors.collect():
                self.file = {key: given for key, given in self._load_file(env_file, draft) if given.text}
                self.is_readable = True

    def find_setting(
        self, *variables: str, client_names: Sequence[str] = (), is_list: bool = False
    ) -> FoundSetting | None:
        """Return the text of a setting, of one of its aliases or of one of its `client_names`. None: it is not set.

        If `is_list` is True, the field `items` of the result has the comma-separated values, without placeholders.
        """
        for names, is_file in product((variables, client_names), (False, True)):
            for variable in names:
                given = self.file.get(variable) if is_file else self._find_in_environment(variable)
                setting = given and self._keep(variable, given, is_list)
                if setting:
                    self.origins[variable] = setting.origin
                    self.given[variable] = Secret(setting.text)
                    self._note_ignored(setting, [name for name in variables if name != variable])
                    return setting
        return None

    def find_referenced_key_variable(self, variable: str) -> FoundSetting | None:
        """Return the text of a variable with API keys, to which the configuration file refers."""
        given = self._find_in_environment(variable) or self.file.get(variable)
        setting = None if given is None else self._keep(variable, given, is_list=True)
        keys, origin = (tuple(map(Secret, setting.items)), setting.origin) if setting else ((), "not set")
        self.referenced_variables[variable] = ReferencedVariable(keys, origin)
        return setting

    def find_foreign(self, variable: str) -> FoundSetting | None:
        """Return the text of a variable that a library reads."""
        given = self._find_in_environment(variable) or self.file.get(variable)
        return None if given is None else FoundSetting(variable, given.text, given.origin, folder=self.folder)

    def add_warning(self, text: str) -> None:
        self._warnings.append(text)

    def _note_ignored(self, setting: FoundSetting, others: Sequence[str]) -> None:
        for name in others:
            given = self._find_in_environment(name) or self.file.get(name)
            if given is not None and given.text != setting.text and not is_placeholder(given.text):
                self._warnings.append(
                    f"{name} ({given.origin}) is ignored: {setting.variable} ({setting.origin}) has the same "
                    "meaning and takes precedence."
                )

    def list_variable_sources(self) -> Iterator[tuple[str, str]]:
        """A variable that is set in both places is returned once, with its line in `.env`."""
        yield from ((name, "environment") for name, text in self._environ.items() if text and name not in self.file)
        yield from ((name, given.origin) for name, given in self.file.items())

    def find_variables_only_in_env_file(self, excluded: Collection[str]) -> dict[str, _Given]:
        """For libraries that read the environment. Placeholders and `excluded` are left out."""
        return {
            name: given
            for name, given in self.file.items()
            if name not in excluded
            and not self._environ.get(name)
            # libraries read proxy variables at different times
            and not name.lower().endswith("_proxy")
            and not is_placeholder(given.text)
        }

    def list_warnings(self) -> list[str]:
        """Return warning texts: ignored aliases and placeholders, removed quotes, invalid lines of `.env`."""
        placeholders = [
            f"Still a placeholder, so not set: {', '.join(names)} "
            f"(in {'the environment' if place == 'environment' else place})."
            for place, names in self._placeholders.items()
        ]
        proxies = [
            f"{name} ({given.origin}) has no effect. Set it in the environment of the proxy."
            for name, given in self.file.items()
            if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") and given.text
        ]
        return self._warnings + placeholders + proxies

    def _find_in_environment(self, variable: str) -> _Given | None:
        literal = self._environ.get(variable, "").strip()
        if not literal:
            return None
        quoted = _QUOTED.fullmatch(literal)
        text = quoted[2].strip() if quoted else _COMMENT.sub("", literal)
        if text != literal:
            self._warnings.append(
                f"{variable} in the environment contains {'quotes' if quoted else 'a comment'}, as some "
                "container tools "
                f"pass them on; {'they were' if quoted else 'it was'} removed."
            )
        return _Given(text, "environment") if text else None

    def _keep(self, variable: str, given: _Given, is_list: bool) -> FoundSetting | None:
        values = [value.strip() for value in given.text.split(",")] if is_list else [given.text]
        kept = tuple(value for value in values if value and not is_placeholder(value))
        setting = FoundSetting(variable, given.text, given.origin, kept, self.folder)
        if placeholders := sum(1 for value in values if value) - len(kept):
            listed = f"{placeholders} of {variable}" if kept else variable
            self._placeholders.setdefault(split_origin(setting.origin)[0], []).append(listed)
            if not kept:
                self.placeholders[variable] = setting.origin
        elif not kept:  # only commas
            with self.errors.collect():
                raise ConfigurationError(
                    f'{variable} is "{given.text}". Use at least one value, or leave it empty.{setting.location}',
                    code="invalid-setting",
                )
        return setting if kept else None

    def _load_file(self, env_file: str, draft: str | None) -> Iterator[tuple[str, _Given]]:
        text = read_settings_file(env_file, self._warnings, MAX_ENV_BYTES, draft=draft)
        if not text:
            return
        from dotenv.variables import Variable, parse_variables  # noqa: PLC0415  # imported only if there is a file

        place = shorten_home(env_file)
        known: dict[str, str | None] = {}
        environ: dict[str, str | None] = {**self._environ}
        scope = ChainMap(environ, known)
        characters = 0
        bindings = [*parse_env_text(text)]
        lines = {binding.key: _find_line(binding) for binding in reversed(bindings)}
        for binding in bindings:
            line = _find_line(binding)
            if binding.error:
                self._warnings.append(f"{place}, line {line}, is not of the form NAME=value and was ignored.")
            elif binding.key is not None and binding.value is not None:
                parts = []
                for atom in parse_variables(binding.value):
                    if isinstance(atom, Variable) and atom.name not in scope and lines.get(atom.name, 0) > line:
                        raise ConfigurationError(
                            f"{place}, line {line}: {binding.key} refers to ${{{atom.name}}}, which only line "
                            f"{lines[atom.name]} sets. A line can refer to lines above it: move {atom.name} there.",
                            code="env-file",
                        )
                    parts.append(atom.resolve(scope))
                    characters += len(parts[-1])
                    if characters > _MAX_VALUE_CHARACTERS:
                        raise ConfigurationError(
                            f"{place}, line {line}: the values have more than {_MAX_VALUE_CHARACTERS:,} characters "
                            "with the variables that they refer to.",
                            code="env-file",
                        )
                known[binding.key] = value = "".join(parts).strip()
                yield binding.key, _Given(value, f"{place} line {line}")


def _find_line(binding: "Binding") -> int:
    original = binding.original.string  # the parser includes blank lines before an assignment
    return binding.original.line + original[: len(original) - len(original.lstrip())].count("\n")
