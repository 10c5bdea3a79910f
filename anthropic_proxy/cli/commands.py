"""All commands as one application of the library cyclopts, and messages about a wrong command line.

cyclopts imports the module of a command when the command is used, so that `--help` and `--version` load no other
command. A message about an unknown option or value names the allowed ones and the nearest one.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import App as Commands
from cyclopts import (
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
    default_name_transform,
)

from anthropic_proxy import __version__
from anthropic_proxy.cli.command_table import COMMANDS, PANELS
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_or, suggest_name
from anthropic_proxy.gateway.platforms.signals import RELOAD_SIGNAL, restore_default_signals

_OPTIONS = Parameter(
    show_default=lambda value: str(value) if value not in (False, "", None) else None,
    name_transform=lambda name: default_name_transform(name.removeprefix("as_")),  # `as_json` is the option --json
    negative="",
)


def new_group(name: str) -> Commands:
    """Return a command that has only subcommands."""
    return Commands(name=name, group_parameters="Options", default_parameter=_OPTIONS)


commands = Commands(
    name="anthropic-proxy",
    version=f"anthropic-proxy {__version__}",
    help="Use Claude Code and every Anthropic SDK with the model that you have.",
    version_flags=["--version", "-V"],
    group_commands=Group("Help and version", sort_key=len(COMMANDS)),  # after the panels of the table
    group_parameters=Group("Options", sort_key=len(COMMANDS)),
    default_parameter=_OPTIONS,
)
"""Command-line application (cyclopts) with all commands and options. `main` runs it."""


def serve(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=())] = None,
    workers: int = 1,
    reload: bool = False,
    watch_config: bool = False,
    attached: bool = False,
    session: Annotated[str, Parameter(show=False)] = "",
) -> None:
    """Serve the Anthropic Messages API until SIGINT (Ctrl+C) or SIGTERM stops the server.

    Parameters
    ----------
    host
        Address to listen on; the default is HOST, else 127.0.0.1.
    port
        Port to listen on; the default is PORT, else 8082.
    workers
        Number of processes that share the port.
    reload
        Restart when the Python code changes; for development.
    watch_config
        Reload the settings when .env or anthropic-proxy.toml changes.
    attached
        Write the address to standard output, and stop when standard input ends; for programs that start the proxy.
    session
        Command of this program that starts the proxy for one session.
    """
    from anthropic_proxy.cli.server_processes import start_server  # noqa: PLC0415  # other commands need none of it

    start_server(
        host, port, workers=workers, reload=reload, watch_config=watch_config, attached=attached, session=session
    )


commands["--help"].help = "Print this help."
commands["--version"].help = "Print the version of this program."
commands.default(serve)
for _place, (_panel, _rows) in enumerate(PANELS.items()):
    _group = Group(_panel, sort_key=_place)
    for _number, (_name, _row) in enumerate(_rows.items()):
        _path = f"anthropic_proxy.cli.{_row.path}"
        commands.command(_path, name=_name, help=_row.description, group=_group, sort_key=_number)
commands.register_install_completion_command(help="Install the completion script for your shell.")


def run_command(words: Sequence[str]) -> None:
    """Raises `ConfigurationError` for a wrong command line."""
    if words[:1] == ["help"]:  # as in other programs: `help`, `help code`
        words = [*words[1:], "--help"]
    require_known_command(commands, words)
    console = None
    # a group of commands alone, such as `keys`
    is_group = len(words) == 1 and words[0] in _command_names(commands) and commands[words[0]].default_command is None
    if {"--help", "-h"} & {*takewhile(lambda word: word != "--", words)} or is_group:
        from anthropic_proxy.cli.help_console import HelpConsole, HelpFormatter  # noqa: PLC0415  # see its library

        commands.console = console = HelpConsole()
        commands.help_formatter = HelpFormatter()
        if all(word.startswith("-") for word in words):  # the options beside all commands are those of `serve`
            commands.group_parameters = Group("Options of serve", sort_key=len(COMMANDS))
    if "--install-completion" in words:  # its library runs `ps` or PowerShell
        from anthropic_proxy.gateway.settings import keep_absolute_folders_of_path  # noqa: PLC0415  # see above

        keep_absolute_folders_of_path()
    if words and words[0] != "serve" and not words[0].startswith("-"):
        restore_default_signals()  # `serve` installs its own handlers
    try:
        commands(move_stdin_name_to_end(words), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise ConfigurationError(describe_misuse(error, commands)) from error
    if console is not None:
        console.print_examples(words[0])


def print_version() -> None:
    print(f"anthropic-proxy {__version__}")


_PROGRAM = "anthropic-proxy"
_COMPLETE = "__complete"
"""Hidden command of the library by which the completion script of a shell gets words to complete."""
_OTHER_WORDS = {
    **dict.fromkeys(("start", "server", "up"), "serve"),
    **dict.fromkeys(("setup", "configure", "auth"), "init"),
    **dict.fromkeys(("claude", "launch"), "code"),
    **dict.fromkeys(("status", "ping", "ps"), "health"),
    **dict.fromkeys(("cost", "costs", "spend", "stats"), "usage"),
    **dict.fromkeys(("price", "prices", "providers", "list"), "models"),
    **dict.fromkeys(("settings", "set", "get"), "config"),
    **dict.fromkeys(("check", "test"), "doctor"),
    **dict.fromkeys(("tail", "requests", "history"), "logs"),
    **dict.fromkeys(("install", "extras"), "add"),
}
"""Word that other programs use → command."""
_RELOADS = "serve --watch-config reads changed settings files" + (
    "" if RELOAD_SIGNAL is None else ", and a running serve does so at  kill -HUP <its pid>"
)
_NO_COMMANDS = {
    **dict.fromkeys(("stop", "down", "quit"), "Ctrl+C ends serve. A service:  anthropic-proxy service uninstall"),
    "restart": f"Press Ctrl+C and start it again. {_RELOADS}",
    "reload": _RELOADS,
}
"""Word that other programs use → what is done without a command."""
_FILE_NAMES = {
    "explain": "request.json",
    "lint-stream": "reply.sse",
    "import": ".env",
    "routes explain": "request.json",
}
"""Name of a command with the argument FILE → example of a file name for messages."""
_FORMS = {bool: "true or false", int: "a whole number", float: "a number"}


def require_known_command(commands: Commands, words: Sequence[str]) -> None:
    """Raise `ConfigurationError` if the command line begins with an unknown command or subcommand.

    A line without a command is accepted, because `serve` is the default.
    """
    line = [_PROGRAM]
    if words[:1] == [_COMPLETE]:
        return
    for word in words:
        known = _command_names(commands)
        if not known or word.startswith("-"):
            return
        if len(line) > 1 and word not in known and commands.default_command is not None:
            return  # an argument of the command itself: `models openai`
        if word not in known:
            meant = _OTHER_WORDS.get(word.lower(), "")
            of = f" of {' '.join(line[1:])}" if len(line) > 1 else ""
            lead = " ".join(line)
            meant = meant if meant in known else ""
            if len(line) == 1 and (remedy := _NO_COMMANDS.get(word.lower())):
                raise ConfigurationError(f'There is no command "{word}". {remedy}', code="unknown-command")
            more = f"More:  {lead} --help"
            remedy = suggest_name("command", word, known, lead=f"{lead} ", meant=meant, more=more)
            raise ConfigurationError(f'There is no command "{word}"{of}. {remedy}', code="unknown-command")
        line.append(word)
        commands = commands[word]


def move_stdin_name_to_end(words: Sequence[str]) -> list[str]:
    """Return the command line `words` with the file name `-` moved to the end, after `--`: `explain --json -- -`.

    The parser would otherwise treat `-` as an option.
    """
    if not words or words[0] not in _FILE_NAMES or "-" not in words or "--" in words:
        return list(words)
    place = words.index("-")
    return [*words[:place], *words[place + 1 :], "--", "-"]


def describe_misuse(error: CycloptsError, commands: Commands) -> str:
    """Return the message for a command line that the parser rejects.

    `commands` are all commands, because the message also recognizes a command name in the wrong place.
    """
    command = " ".join((_PROGRAM, *(error.command_chain or ("serve",))))
    if isinstance(error, UnknownOptionError):
        option = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
        if option == "--port":  # only `serve` has it
            name = command.removeprefix(f"{_PROGRAM} ")
            return f"{name} has no option --port. Set the port of the proxy by PORT, in the environment or in .env."
        # the dashes, which all have, would make short names similar: `--days`, `--by`
        nearest = find_similar_choice(option.lstrip("-"), [name.removeprefix("--") for name in known])
        remedy = f"Did you mean:  --{nearest}" if nearest else f"All options:  {command} --help"
        return f"{command.removeprefix(_PROGRAM + ' ')} has no option {option}. {remedy}"
    if isinstance(error, UnusedCliTokensError):
        words = error.unused_tokens or ()
        if words and words[0] in _command_names(commands):
            return f'"{words[0]}" is a command. Write it before all options:  {_PROGRAM} {words[0]} …'
        accepted = f'{command.removeprefix(_PROGRAM + " ")} does not accept "{" ".join(words)}"'
        return f"{accepted}. Arguments and options:  {command} --help"
    if isinstance(error, CoercionError) and error.token is not None and error.argument is not None:
        name = error.token.keyword or error.argument.name
        value = str(error.token.value)
        nearest = find_similar_choice(value.lower(), _choices(error.argument.hint))
        typed = name if name.startswith("-") else command
        suggestion = f" Did you mean:  {typed} {nearest}" if nearest else ""
        return f'{name} is "{value}". Use {_describe_form(error.argument.hint)}.{suggestion}'
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.keyword or error.argument.name
        if name == "FILE":
            example = _FILE_NAMES.get(" ".join(error.command_chain or ()), "settings.yaml")
            return f"FILE is missing. Use the name of a file, such as:  {command} {example}"
        state = "has no value" if name.startswith("-") else "is missing"
        return f"{name} {state}. Use {_describe_form(error.argument.hint)}. More:  {command} --help"
    return " ".join(str(error).split())


def _command_names(commands: Commands) -> list[str]:
    return [name for name in commands if not name.startswith("-")]


def _choices(hint: Any) -> list[str]:
    """Return the words that an option with the type `hint` accepts. Empty: it accepts other values too."""
    return [str(choice) for kind in _flatten(hint) if get_origin(kind) is Literal for choice in get_args(kind)]


def _describe_form(hint: Any) -> str:
    """Return the allowed values of an option with the type `hint` as text, for a message that begins with "Use"."""
    if choices := _choices(hint):
        return join_with_or(choices)
    return next((form for kind, form in _FORMS.items() if kind in _flatten(hint)), "a text")


def _flatten(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from _flatten(inner)
    else:
        yield hint
