"""The few requests that are obvious enough for a tool call, and the tools that serve them.

A request is obvious only if the whole text has one of these forms and a tool has the name and the argument that serve
it. Every other request gets a text, because a wrong call would be a user's first impression of the product.
"""

import posixpath
import re
import shlex
from collections.abc import Sequence

from anthropic_proxy.upstream.demo.defaults import fill_call
from anthropic_proxy.upstream.demo.requests import DemoRequest, Tool, ToolUse

MAX_REQUEST_CHARACTERS = 300
_START = (
    r"\s*(?:(?:please|now|then)\s+|(?:can|could|would) you\s+(?:please\s+)?)?"
    r"(?:use\s+(?:the\s+)?(?P<tool>\w+)(?:\s+tool)?\s+(?:to|and)\s+)?"
)
_END = (
    r"(?:,?\s+(?:please|for me|now|today))?"
    r"(?:,?\s+(?:and|then)\s+(?:tell|show|say|summari[sz]e|explain|print|repeat|report)\b[^\n]*)?\s*[.!?]*\s*"
)
_QUOTED = r"`(?P<ticked>[^`\n]+)`|\"(?P<double>[^\"\n]+)\"|'(?P<single>[^'\n]+)'"
_PATH = (
    rf"(?=[`\"'][^`\"'\n]*[./~]|[^\s`\"']*(?:[/~\\]|\.\w*[a-z]))(?!\S*://)"
    rf"(?:{_QUOTED}|(?P<plain>[^\s,;`\"']*[^\s.,;:?!`\"']))|file\s+(?P<named>(?-i:[A-Z])[\w-]+)"
)
_HERE = r"(?:this|the|my)?(?:\s*\b(?:current|working|project))*\s*\b(?:folder|directory|repo|repository|project)"
_FOLDER = (
    rf"(?:the\s+)?(?:(?:folder|directory)\s+)?(?:{_QUOTED}|(?P<plain>[\w./~\\-]*[\w/~]))(?:\s+(?:folder|directory))?"
)


def _intent(form: str, *tools: tuple[str, str, str]) -> tuple[re.Pattern[str], Sequence[tuple[str, str, str]]]:
    """Return the form of a text and the kinds of tools that serve it; the first kind that is offered counts.

    A kind is the form of the tool's name, the names of its argument, and the template of the value (see `_fill`). Names
    are compared in lower case without `_` and `-`, and without an MCP prefix.
    """
    return re.compile(f"{_START}(?:{form}){_END}", re.IGNORECASE), tools


_SHELL = (
    r"sh|(?:bash|shell|terminal)(?:command)?|(?:run|execute|exec)(?:bash|shell|terminal)?(?:command|cmd)?",
    "command cmd commandline shellcommand",
)
_LISTER = r"ls|list(?:dir|directory|files|folder|directorycontents)?|readdir"
_READER = r"(?:read|view|open|get|cat|fetch)(?:text)?(?:files?)?(?:contents?)?"
INTENTS = (
    _intent(  # list the files here
        r"(?:ls|(?:list|show|display)(?:\s+me)?(?:\s+all)?(?:\s+of)?(?:\s+the|\s+my)?\s+files"
        r"|(?:what|which)\s+files\s+(?:are|exist)(?:\s+there)?)"
        rf"(?:(?:\s+that)?(?:\s+are)?\s+here)?(?:\s+(?:in|inside|of|under)\s+(?:{_HERE}|{_FOLDER}))?",
        (_LISTER, "path directory dir folder dirpath directorypath folderpath", "{path}"),
        (*_SHELL, "ls -la {quoted}"),
        (r"glob|globfiles", "pattern globpattern", "{pattern}"),
    ),
    _intent(  # read a.txt
        rf"(?:(?:read|cat|view)(?:\s+me)?(?:\s+the)?(?:\s+contents?\s+of)?(?:\s+the)?"
        r"|(?:open|print|show(?:\s+me)?)(?:\s+the)?(?:\s+contents?\s+of(?:\s+the)?|(?=\s+file))"
        rf"|what(?:'s|\s+is)\s+in(?:\s+the)?)(?:\s+file)?\s+(?:{_PATH})(?:\s+file)?",
        (_READER, "filepath path filename file targetfile absolutepath absolutefilepath", "{path}"),
        (*_SHELL, "cat {quoted}"),
    ),
    _intent(  # run `echo hi`
        rf"(?:run|execute)(?:\s+(?:the|this))?(?:\s+following)?(?:\s+(?:shell|bash|terminal)?\s*command)?"
        rf"(?:\s*:\s*(?P<plain>[^`\n]+)|\s*:?\s*(?:{_QUOTED}))",
        (*_SHELL, "{text}"),
    ),
    _intent(  # What's the weather in Paris?
        r"(?:(?:what|how)(?:'s|\s+is)\s+the\s+|(?:tell|show)\s+me\s+the\s+|get\s+(?:me\s+)?the\s+|the\s+)?(?:current\s+)?weather"
        r"(?:\s+like)?\s+in\s+(?P<plain>(?-i:[A-Z][\w.'’-]*(?:\s+[A-Z][\w.'’-]*){0,3})|\w+)",
        (r"\w*(?:weather|forecast)\w*", "city location place town cityname", "{text}"),
    ),
)


def find_call(request: DemoRequest) -> ToolUse | None:
    """Return the tool call that the user's last text obviously asks for; None: there is none."""
    prompt = request.prompt
    if not request.tools or len(prompt) > MAX_REQUEST_CHARACTERS:
        return None
    matches = ((form.fullmatch(prompt), tools) for form, tools in INTENTS)
    match, kinds = next((found for found in matches if found[0]), (None, ()))
    groups = match.groupdict() if match else {}
    text = next((groups[name] for name in ("ticked", "double", "single", "named", "plain") if groups.get(name)), "")
    wanted = _normalize(groups.get("tool") or "")
    for form, arguments, template in kinds:
        for tool in request.tools:
            name = _normalize(tool.name.rpartition("__")[2])
            argument = wanted in {"", name} and re.fullmatch(form, name) and _find_argument(tool, arguments.split())
            if argument:
                return fill_call(tool, {argument: _fill(template, text, request.directory)})
    return None


def _fill(template: str, text: str, directory: str) -> str:
    """Return the value of an argument: `text` as it is, quoted for a shell, as a path or as a glob pattern."""
    path = posixpath.normpath(posixpath.join(directory if directory.startswith("/") else "", text or "."))
    quoted, pattern = shlex.quote(text) if text else "", f"{text}/*" if text else "*"
    return template.format(text=text, quoted=quoted, path=text if text[:1] == "~" else path, pattern=pattern).strip()


def _find_argument(tool: Tool, arguments: Sequence[str]) -> str:
    """Return the name of the text argument that takes the object; "": the tool has none."""
    properties = tool.schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    return next((name for name, schema in known.items() if _normalize(name) in arguments and _is_text(schema)), "")


def _is_text(schema: object) -> bool:
    kind = schema.get("type", "string") if isinstance(schema, dict) else "string"
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def _normalize(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
