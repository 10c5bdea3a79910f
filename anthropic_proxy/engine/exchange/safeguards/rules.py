"""The table of tool calls that need no question to a model: they only read, inside of the user's directories.

The table is for the calls that are certain by their text alone. Everything unusual is asked: unknown tools and fields,
`..`, `~`, hidden files, names of secrets, operators, variables, quotes, line ends, characters beside ASCII. What the
text cannot show, such as a link or the configuration of a repository, is for the client, which sees the files: a call
of the table gets no verdict of the proxy, so that the rule of the client decides about it. An error here cannot allow
a call.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

FREE_TOOLS = frozenset(
    (
        "AskUserQuestion",
        "CronList",
        "ExitPlanMode",
        "ListAgents",
        "ReportFindings",
        "StructuredOutput",
        "TaskGet",
        "TaskList",
        "TodoRead",
        "TodoWrite",
        "ToolSearch",
    )
)
"""Tools of Claude Code that change nothing outside of the conversation: they show or ask something, or load tools."""
READING_TOOLS: Mapping[str, Mapping[str, str]] = {
    "Read": {"file_path": "path", "limit": "any", "offset": "any", "pages": "any"},
    "NotebookRead": {"notebook_path": "path", "cell_id": "any"},
    "LS": {"path": "path"},
    "Glob": {"pattern": "glob", "path": "path"},
    "Grep": {
        **dict.fromkeys(("path",), "path"),
        **dict.fromkeys(("glob",), "glob"),
        **dict.fromkeys(("pattern", "type", "output_mode", "head_limit", "offset", "multiline"), "any"),
        **dict.fromkeys(("-A", "-B", "-C", "-i", "-n", "-o", "context"), "any"),
    },
}
"""Tool → its fields, and what each contains. A call with another field is asked."""
_REQUIRED = {"Read": "file_path", "NotebookRead": "notebook_path", "Glob": "pattern", "Grep": "pattern"}
"""Tool → field without which its call is asked. The others may read the current directory."""
HARMLESS_COMMANDS: Mapping[str, Sequence[str]] = {
    "pwd": (),
    "whoami": (),
    "date": (),
    "ls": ("-1", "-a", "-al", "-alh", "-h", "-l", "-la", "-lah", "-lh", "-lt", "-ltr", "-R", "-t"),
    "cat": ("-n",),
    "head": ("-n", "-c"),
    "tail": ("-n", "-c"),
    "wc": ("-c", "-l", "-w"),
    "stat": (),
    "file": (),
    "tree": ("-a", "-d", "-L"),
}
"""Command → its options that only change the output. Other arguments are numbers and paths."""
HARMLESS_GIT_COMMANDS: Mapping[str, Sequence[str]] = {
    "status": ("-s", "-sb", "--short", "--branch", "--porcelain"),
    "log": ("-n", "--oneline", "--stat", "--graph", "--decorate", "--all", "-p"),
    "diff": ("--stat", "--cached", "--staged", "--name-only", "--name-status"),
    "show": ("--stat", "--name-only", "--oneline"),
}
"""The same for commands of git."""
_COMMAND_FIELDS = frozenset(("command", "description", "timeout"))
_PLAIN = compile_anchored(r"[A-Za-z0-9_./@+,=-]+(?: [A-Za-z0-9_./@+,=-]+)*")
_PLAIN_COMMAND = compile_anchored(r"[A-Za-z0-9_./-]+(?: [A-Za-z0-9_./@+,-]+)*")
_PLAIN_GLOB = compile_anchored(r"[A-Za-z0-9_./@+*?-]+(?:\{[A-Za-z0-9_]+(?:,[A-Za-z0-9_]+)*\})?")
_SECRET = compile_later(
    r"(?i)secret|credential|passw|id_(?:rsa|dsa|ecdsa|ed25519)|(?:^|[_.-])(?:env|environ|keys?|tokens?|private|wallet"
    r"|shadow|pem|p12|pfx|jks|kdbx|netrc|tfstate)(?:$|[_.-])"
)
"""Names of files that often have secrets."""
_NUMBER = compile_anchored(r"-?\d{1,9}")
_MAX_PLACES = 50
"""Maximum number of further directories of the user. What is in others is asked."""
_MAX_TEXT = 1_000
"""Maximum characters of a command or path. A longer one is asked."""


class TrustedPlaces:
    """The directories of the user, and the current one, from the `classifier_context`."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        found = context.get("trusted_directories")
        places = found if isinstance(found, dict) else {}
        primary, additional = places.get("primary"), places.get("additional")
        listed = [primary, *(additional[:_MAX_PLACES] if isinstance(additional, list) else [])]
        paths = [place.get("path") if isinstance(place, dict) else place for place in listed]
        self._roots = [root for path in paths if (root := _split(path)) is not None and len(root) > 1]
        self._current = _split(context.get("live_cwd"))

    def contains(self, text: object) -> bool:
        """Return True for a plain path inside of a directory of the user."""
        if not isinstance(text, str) or len(text) > _MAX_TEXT or not _PLAIN.fullmatch(text):
            return False
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if any(part.startswith((".", "-")) or _SECRET.search(part) for part in parts):
            return False
        if not text.startswith("/"):
            if self._current is None:
                return False
            parts = [*self._current, *parts]
        return any(parts[: len(root)] == root for root in self._roots)

    def contains_current(self) -> bool:
        return self._current is not None and any(self._current[: len(root)] == root for root in self._roots)


def _split(path: object) -> list[str] | None:
    """Return the names in a plain absolute path. None: it is another text."""
    if not isinstance(path, str) or not path.startswith("/") or len(path) > _MAX_TEXT or not _PLAIN.fullmatch(path):
        return None
    parts = [part for part in path.split("/") if part]
    return None if any(part in (".", "..") for part in parts) else parts


def find_harmless_rule(tool: str, arguments: object, context: Mapping[str, Any]) -> str:
    """Return the row of the table for a call, such as `reads inside the directories: Read`. "": the call is asked."""
    sentences = context.get("auto_mode")
    # what the user forbids in own words may be about reading too
    denies = isinstance(sentences, dict) and (sentences.get("soft_deny") or sentences.get("hard_deny"))
    if not isinstance(arguments, dict) or context.get("restricted") or denies:
        return ""
    if tool in FREE_TOOLS:
        return f"changes nothing: {tool}"
    places = TrustedPlaces(context)
    if (fields := READING_TOOLS.get(tool)) is not None:
        required = _REQUIRED.get(tool)
        is_complete = required is None or required in arguments
        is_inside = is_complete and arguments.keys() <= fields.keys() and places.contains_current()
        is_inside = is_inside and all(_is_plain(fields[name], value, places) for name, value in arguments.items())
        return f"reads inside the directories: {tool}" if is_inside else ""
    if tool == "Bash" and not context.get("classify_all_shell") and arguments.keys() <= _COMMAND_FIELDS:
        command = arguments.get("command")
        if isinstance(command, str) and places.contains_current() and (name := _find_command(command, places)):
            return f"only reads: {name}"
    return ""


def _is_plain(kind: str, value: object, places: TrustedPlaces) -> bool:
    if kind == "path":
        return places.contains(value)
    if kind == "glob":
        is_short = isinstance(value, str) and len(value) <= _MAX_TEXT
        is_plain = is_short and _PLAIN_GLOB.fullmatch(str(value)) is not None and not str(value).startswith("/")
        return is_plain and not any(part.startswith((".", "-")) or ".." in part for part in str(value).split("/"))
    return value is None or isinstance(value, str | int | float)


def _find_command(command: str, places: TrustedPlaces) -> str:
    """Return the name of a command that only reads. "": it is another one."""
    if len(command) > _MAX_TEXT or not _PLAIN_COMMAND.fullmatch(command):
        return ""
    name, *words = command.split(" ")
    options = HARMLESS_COMMANDS.get(name)
    if name == "git" and words:
        options = HARMLESS_GIT_COMMANDS.get(words[0])
        name, words = f"git {words[0]}", words[1:]
    if options is None:
        return ""
    if not options and name in ("pwd", "whoami", "date") and words:
        return ""
    is_harmless = all(word in options or _NUMBER.fullmatch(word) or places.contains(word) for word in words)
    return name if is_harmless else ""
