"""Every command, setting and extra that a message names exists, so that the instructions work as typed."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest
from cyclopts import App

from anthropic_proxy.cli.commands import commands
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import list_variables
from tests.architecture import modules_of_the_package
from tests.site.pages import all_pages
from tests.site.raised_errors import error_classes, raised_texts
from tests.support.paths import ROOT

GAP = "\0"
"""Placeholder in a message for an inserted value."""
COMMAND = re.compile(r"(?<![\w-])anthropic-proxy ([a-z][a-z-]*(?: (?:show|check))?)(?=$|[\s.,:\0])")
COMMAND_LINE = re.compile(r"(?<![\w-])anthropic-proxy ([a-z][^.,`)\n]*)")
ALWAYS = {"--help", "--version", "--install-completion", "--", "--continue", "--model"}  # the last two: of Claude Code
EXTRA = re.compile(r"anthropic-proxy\[([a-z,]+)\]")
VARIABLE = re.compile(r"(?<![\w\0$])([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]|[A-Z]{3,}(?==))(?![\w\0])")
ENDING = re.compile(r"\0(_[A-Z][A-Z_]*)")
NO_SETTINGS = {
    "ANTHROPIC_BASE_URL",  # the client's own
    "ANTHROPIC_AUTH_TOKEN",  # the client's own
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),  # of the environment, for every program
    "SSL_CERT_FILE",  # the same
    "NAME",  # of the form NAME=value
    *("AWS_PROFILE", "AWS_ACCESS_KEY_ID"),  # of the environment or .env, for the library of the cloud
    "MISTRAL_API_KEY",  # of .env, for LiteLLM
    *("NO_COLOR", "FORCE_COLOR"),  # of the terminal, for every program
    *("HOME", "XDG_DATA_HOME"),  # of the user, in the unit of systemd
    *("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"),  # address families in the unit of systemd
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),  # of the environment, not of .env
}
NO_COMMANDS = {"speaks", "cannot", "demonstration"}  # sentences about the program, not lines to type


_OF_CLAUDE_CODE = re.compile(r"(?:Failed to authenticate\. )?API Error: (?:\d+ ?)?")
"""Matches what Claude Code writes before the message of an error."""
_OF_OTHER_PROGRAMS = {
    *("Not logged in · Please run /login", "There's an issue with the selected model"),  # Claude Code
    *("Please run /login", "Failed to authenticate"),  # the same
    "anthropic-proxy: command not found",  # shells
    "No matching distribution found",  # pip
    *("model 'x' not found", "API Error: 529 ollama: …server busy…"),  # Ollama
}


@cache
def quotes_of_pages() -> frozenset[str]:
    """Return the messages in the first column of tables of symptoms and messages; one word alone is no message."""
    found = set()
    for page in all_pages():
        for table in re.findall(r"^\| (?:symptom|message)\b.*\n((?:\|.*\n)+)", page.read_text("utf-8"), re.MULTILINE):
            first = " ".join(row.split(" | ")[0] for row in table.splitlines())
            found |= {quote for quote in re.findall(r"`([^`]+)`", first) if len(quote.split()) > 1}
    return frozenset(found - _OF_OTHER_PROGRAMS)


@cache
def texts_for_users() -> str:
    """Return the messages of the package, the scripts of a checkout and the golden texts, one per line."""
    files = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "tests/golden_texts").rglob("*.txt")]
    return "\n".join([*(text for _, text in messages()), *(file.read_text("utf-8") for file in files)])


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """Return each text of the package that people may read, with its place; one word alone is no message."""
    return tuple(_find_messages())


def _find_messages() -> Iterator[tuple[str, str]]:
    for module in modules_of_the_package():
        inner = {id(part) for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        plain = ((node, str(node.value)) for node in module.literals() if id(node) not in inner)
        filled = ((node, spelled(node)) for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr))
        for node, text in (*plain, *filled):
            if len(text.split()) > 1:
                yield f"{module.name}, line {node.lineno}", text


def spelled(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)


def named(pattern: re.Pattern[str]) -> dict[str, str]:
    return {name: place for place, text in messages() for name in pattern.findall(text)}


@pytest.mark.parametrize("quote", sorted(quotes_of_pages()))
def test_messages_quoted_by_a_page_exist(quote: str) -> None:
    """A quoted message is one of the proxy, as in the source or in a golden text, or of a listed program."""
    parts = re.split(r"…|\b\d+\b|http://\S+|Ollama(?= did)", _OF_CLAUDE_CODE.sub("", quote))
    fixed = [re.escape(part.strip()) for part in parts if part.strip()]
    assert re.search(".*".join(fixed), texts_for_users()), quote


def test_commands_exist() -> None:
    found = named(COMMAND)
    known = {name for name in commands if not name.startswith("-")}
    known |= {f"{group} {name}" for group in known for name in commands[group] if not name.startswith("-")}
    assert {name: place for name, place in found.items() if name not in known | NO_COMMANDS} == {}


def option_names(command: App) -> set[str]:
    arguments = command.assemble_argument_collection(default_parameter=commands.default_parameter)
    return {name for argument in arguments for name in argument.names}


def test_options_exist() -> None:
    """Options of each command line that a message contains, such as `anthropic-proxy config show --all`."""
    unknown = {}
    for place, text in messages():
        for line in COMMAND_LINE.findall(text):
            words = line.partition(" -- ")[0].split()  # other options are those of another program
            command = commands
            for word in words:
                if word not in command or word.startswith("-"):
                    break
                command = command[word]
            if command.default_command is None:  # a group such as `db`: the line names its command by a placeholder
                continue
            known = option_names(command) | ALWAYS
            unknown |= {(line, word): place for word in words if word.startswith("--") and word not in known}
    assert unknown == {}


def test_every_command_with_data_has_json() -> None:
    """Commands that print data have the option `--json`. The others run a program, ask questions, or print a script
    or one line of text."""
    groups = {"config", "db", "keys", "routes"}
    others = {"serve", "code", "run", "init", "completion", "import", "service", "version", "statusline"} | groups
    others |= {"login", "logout", "report"}
    others.add("conformance")  # has an option `--json FILE` of its own parser
    names = {name for name in commands if not name.startswith("-")} - others
    found = [commands[name] for name in names] + [commands["config"][name] for name in ("show", "check")]
    found += [commands["keys"][name] for name in ("create", "list", "show", "rotate", "audit")]
    found += [commands["routes"][name] for name in ("list", "explain")]
    assert [command.name for command in found if "--json" not in option_names(command)] == []


def test_settings_exist() -> None:
    found, known = named(VARIABLE), set(list_variables(PROVIDERS)) | NO_SETTINGS
    assert {"PROXY_API_KEY", "BIG_MODEL", "VERTEX_PROJECT"} <= set(found), "is the pattern still right?"
    assert {name: place for name, place in found.items() if name not in known} == {}


def test_settings_that_are_put_together_exist_for_every_provider() -> None:
    names = {row.env_prefix + ending for row in PROVIDERS if row.env_prefix for ending in named(ENDING)}
    assert names
    assert names <= set(list_variables(PROVIDERS))


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {extra for names in named(EXTRA) for extra in names.split(",")} <= set(extras)


_OF_ADMINISTRATION = ("key-role", "sign-in-unknown", "virtual-key-fields", "virtual-key-unknown")
"""Codes of errors that only those receive who manage keys, by the API or by the commands that the texts name."""


def test_no_error_for_clients_has_a_command_outside_its_remedy() -> None:
    found = {
        f"{name} {code}: {text}"
        for (name, code), texts in raised_texts().items()
        if not issubclass(error_classes()[name], ConfigurationError) and code not in _OF_ADMINISTRATION
        for text in texts
        if re.search(r"anthropic-proxy \w|[Aa]n administrator should", text)
    }
    assert sorted(found) == []
