"""The scripted model: its replies depend on the prompt, the offered tools and the results so far.

`PLANS` is the table: the last user message that one of its patterns finds is the task, and the tool results after that
message are the progress so far. `[fault:…]` in that message, or a model named `fault-…`, makes the provider fail.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.citations import write_marks
from tests.support.fakes.scripted_model import (
    Call,
    Conversation,
    Reply,
    Result,
    Toolbox,
    Unable,
    any_call,
    as_json,
    by_constant_tool,
    plain,
    sample,
    schema_in_words,
    spoken,
    with_loaded_tools,
)


@dataclass(frozen=True)
class Task:
    """A prompt that a plan exists for, and the calls and results so far."""

    conversation: Conversation
    words: tuple[str, ...]
    """Matches of the pattern's groups."""
    rounds: tuple[list[Result], ...]
    """The results of each reply of ours that called tools, in order."""
    tools: Toolbox

    @property
    def last(self) -> str:
        """The text of the newest results, as a person would read it."""
        return "\n".join(plain(result.text) for result in self.rounds[-1])


Plan = Callable[[Task], Reply]


def _calls(*calls: Call, text: str = "") -> Reply:
    return Reply(text, calls)


def _shout(task: Task) -> Reply:
    """Read a file; write it in upper case to another and mark it as done, at once; read back; report."""
    source, target = task.words
    if not task.rounds:
        return _calls(task.tools.read(source), text=f"I will read {source} first.")
    text = plain(task.rounds[0][0].text).strip()
    if len(task.rounds) == 1:
        first = text.split("\n", maxsplit=1)[0]
        write = task.tools.write(target, text.upper() + "\n")
        return _calls(
            write,
            task.tools.edit(source, text + "\n", first, f"done: {first}"),
            text="Two changes at once, “wie gewünscht” ✓.",
        )
    if len(task.rounds) == 2:
        return _calls(task.tools.read(target))
    return Reply(f"{target} now holds: {task.last.strip()}")


def _read(task: Task) -> Reply:
    if not task.rounds:
        return _calls(task.tools.read(task.words[0]))
    return Reply(f"The file says: {task.last.strip()}")


def _compare(task: Task) -> Reply:
    """Read two files at once; the answer shows which result belongs to which."""
    if not task.rounds:
        return _calls(*(task.tools.read(path) for path in task.words))
    lines = [f"{path}: {plain(result.text).strip()}" for path, result in zip(task.words, task.rounds[-1], strict=False)]
    return Reply("; ".join(lines))


def _delegate(task: Task) -> Reply:
    if not task.rounds:
        helper = task.tools.find(r"^(agent|task)$", prompt=("^prompt$", task.words[0]))
        return _calls(task.tools.need("delegate", helper))
    user_text = [turn.text for turn in task.conversation.turns if turn.role == "user"][-1]
    return Reply(f"The helper said: {task.last} {user_text}")


def _run(task: Task) -> Reply:
    if not task.rounds:
        return _calls(task.tools.run(task.words[0]), text="Running it.")
    return Reply(f"The command said: {task.last.strip()}")


def _view_picture(task: Task) -> Reply:
    """Read a picture through a tool and report its size, which only its bytes contain."""
    if not task.rounds:
        return _calls(task.tools.read(task.words[0]))
    shown = [picture for result in task.rounds[-1] for picture in result.pictures]
    later = [picture for turn in task.conversation.turns if turn.role == "user" for picture in turn.pictures]
    for picture in shown or later:
        if picture.size is not None:
            width, height = picture.size
            return Reply(f"The picture is {picture.media_type}, {width} by {height} pixels.")
    described = _list_descriptions(task)
    return Reply(f"I was told that it shows: {', '.join(described)}." if described else "I was shown no picture.")


def _quote_page(task: Task) -> Reply:
    """Read a document through a tool, and repeat the text of one of its pages, as the proxy marks them."""
    number, path = task.words
    if not task.rounds:
        return _calls(task.tools.read(path))
    page = re.search(rf'<page number="{number}">\n(.*?)\n</page>', _read_texts(task), re.DOTALL)
    return Reply(f"Page {number} says: {page[1]}" if page else "I was shown no such page.")


def _read_texts(task: Task) -> str:
    """Return all texts that the model has got, with those of results."""
    turns = (*task.conversation.turns, *(result for results in task.rounds for result in results))
    return "\n".join(turn.text for turn in turns)


def _name_colors(task: Task) -> Reply:
    """Name the colors of a picture, which only its bytes contain."""
    turns = (*task.conversation.turns, *(result for results in task.rounds for result in results))
    names = [name for turn in turns for picture in turn.pictures for name in picture.colors]
    return Reply(", ".join(names) or "I was shown no picture.")


def _quote_descriptions(task: Task) -> Reply:
    """Repeat the descriptions of pictures that a model without eyes gets from the proxy."""
    return Reply(", ".join(_list_descriptions(task)) or "I was told nothing.")


def _list_descriptions(task: Task) -> list[str]:
    return re.findall(r"<image_description>\n.*\n(.*)\n</image_description>", _read_texts(task))


def _describe(task: Task) -> Reply:
    pictures = [picture for turn in task.conversation.turns for picture in turn.pictures]
    sizes = "; ".join(f"{one.media_type} {one.size[0]} by {one.size[1]}" for one in pictures if one.size)
    return Reply(f"I see {len(pictures)} pictures: {sizes}.")


def _weather(task: Task) -> Reply:
    """Ask for two places at once; the answer shows which result belongs to which."""
    if not task.rounds:
        wanted = [task.tools.find("weather", city=(r"city|place|location", city)) for city in task.words]
        return _calls(*(task.tools.need("ask for the weather", call) for call in wanted))
    lines = [f"{city}: {plain(result.text)}" for city, result in zip(task.words, task.rounds[-1], strict=False)]
    return Reply("; ".join(lines))


def _add(task: Task) -> Reply:
    """Add three numbers with a tool that adds two: two calls, the second needs the first's result."""
    first, second, third = (int(word) for word in task.words)
    if len(task.rounds) < 2:
        left, right = (first, second) if not task.rounds else (int(task.last), third)
        call = task.tools.find("add|sum|plus", a=(r"^(a|x|left|first)", left), b=(r"^(b|y|right|second)", right))
        return _calls(task.tools.need("add", call))
    return Reply(f"The sum is {task.last}.")


def _loading(task: Task, name: str) -> Reply | None:
    """Load a tool of that name by the client's tool search; None: it is there."""
    if name in task.conversation.tools:
        return None
    if task.rounds:
        return Reply(f"{name} did not come. The search said: {task.last}")
    search = task.tools.find("toolsearch|tool_search", query=("query", f"select:{name}"))
    return _calls(task.tools.need("search tools", search))


def _has_answered(task: Task, name: str) -> bool:
    return bool(task.rounds) and task.rounds[-1][0].call.name == name


def _load(task: Task) -> Reply:
    """Load a deferred tool by the client's tool search, then call it."""
    name, path = task.words
    if _has_answered(task, name):
        return Reply(f"The loaded tool said: {task.last.strip()}")
    return _loading(task, name) or _calls(Toolbox({name: task.conversation.tools[name]}).read(path))


def _search(task: Task) -> Reply:
    """Search the web: by the provider's own search, else by a tool, the client's may have to be loaded."""
    query = task.words[0]
    if task.conversation.searches:
        return Reply(f"It is said that {query} is well. More is not known.", query=query)
    name = "web_search" if "web_search" in task.conversation.tools else "WebSearch"
    if _has_answered(task, name):
        return Reply(f"The search said: {task.last.strip()}")
    return _loading(task, name) or _calls(Call(name, {"query": query}))


def _dig(task: Task) -> Reply:
    """Search the web again and again."""
    times, query = task.words
    if len(task.rounds) < int(times):
        return _calls(Call("web_search", {"query": f"{query} {len(task.rounds) + 1}"}))
    return Reply(f"I searched {times} times.")


def _fetch(task: Task) -> Reply:
    """Fetch a page by the client's tool, which may have to be loaded."""
    name = "WebFetch"
    if _has_answered(task, name):
        return Reply(f"The page said: {task.last.strip()}")
    return _loading(task, name) or _calls(Call(name, {"url": task.words[0], "prompt": "Say exactly: a page of yours"}))


def _survey(task: Task) -> Reply:
    """Work through a folder: three kinds of file at once, a tool to load, a change and a slow command beside it."""
    folder, steps = task.words[0], len(task.rounds)
    if steps == 0:
        files = ("notes.txt", "plan.png", "deed.pdf")
        return _calls(*(task.tools.read(f"{folder}/{file}") for file in files), text="I will read them all.")
    if steps == 1:
        search = task.tools.find("toolsearch|tool_search", query=("query", "select:WebFetch"))
        return _calls(task.tools.need("search tools", search))
    if steps == 2:
        notes = plain(task.rounds[0][0].text).strip()
        slow = task.tools.run("sleep 1; echo a slow answer")
        return _calls(slow, task.tools.edit(f"{folder}/notes.txt", notes, notes, notes.upper()))
    read = task.rounds[0]
    later = [turn for turn in task.conversation.turns if turn.role == "user"]
    pictures = [one for source in (*read, *later) for one in source.pictures if one.size is not None]
    sizes = [f"{one.size[0]} by {one.size[1]}" for one in pictures if one.size is not None]
    documents = [len(one.data) for source in (*read, *later) for one in source.documents]
    is_loaded = "WebFetch" in task.conversation.tools
    summary = f"notes {plain(read[0].text).strip()}; pictures {sizes}; documents {documents}; loaded {is_loaded}"
    return Reply(f"{summary}; {task.rounds[2][0].text.strip()}")


def _thought(task: Task) -> Reply:
    """Report how many of its own thoughts came back."""
    thoughts = [thought for turn in task.conversation.turns for thought in turn.thoughts]
    return Reply(f"I remember {len(thoughts)} thoughts.")


def _count(task: Task) -> Reply:
    return Reply(" ".join(str(number) for number in range(1, int(task.words[0]) + 1)))


def _repeat_text(task: Task) -> Reply:
    return Reply(write_marks(task.words[0], _read_texts(task)))


def _offered(task: Task) -> Reply:
    return Reply("I was offered: " + (", ".join(sorted(task.conversation.tools)) or "nothing"))


def _system(task: Task) -> Reply:
    matching_lines = [line for line in task.conversation.system.splitlines() if task.words[0].lower() in line.lower()]
    return Reply("The system prompt says: " + (" / ".join(matching_lines) or "nothing of it"))


def _earlier(task: Task) -> Reply:
    users = [turn.text for turn in task.conversation.turns if turn.role == "user"]
    return Reply(f"You began with: {users[0]}")


SUMMARY_ORDER = "between <summary> and </summary>"
SUMMARY = "The user said first: "
SUMMARY_TEXT = re.compile(rf"{SUMMARY}([^.]*)")


def _call(task: Task) -> Reply:
    """Call the tool of that name with any arguments. Report its result, also an error."""
    if not task.rounds:
        tool = task.conversation.tools.get(task.words[0])
        call = None if tool is None else Call(tool.name, sample(tool.schema | {"type": "object"}))
        return _calls(task.tools.need(f"call {task.words[0]}", call))
    return Reply(f"It said: {task.last}")


def _summarize(task: Task) -> Reply:
    users = [turn.text for turn in task.conversation.turns if turn.role == "user"]
    words = SUMMARY_TEXT.search(users[0])
    return Reply(f"<summary>{SUMMARY}{words[1] if words else users[0].partition('.')[0]}.</summary>")


_PATH = r"(\S+?)[.,;:]?(?=\s|$)"
PLANS: tuple[tuple[str, Plan], ...] = (
    (SUMMARY_ORDER, _summarize),
    (r"Perform a web search for the query: ([^\n]*)", _search),
    (r"Search the web (\d+) times for ([^\n]*)", _dig),
    (r"Search the web for ([^\n]*)", _search),
    (r"Fetch (https?://\S+)", _fetch),
    (rf"Survey {_PATH}", _survey),
    (r"What did you think", _thought),
    (r"Delegate: ([^\n]*)", _delegate),
    (rf"Compare the files {_PATH} and {_PATH}", _compare),
    (r"(?:N|n)ame (?:the|its) colors", _name_colors),
    (r"Describe this picture", _name_colors),
    (r"What is in the description", _quote_descriptions),
    (rf"Read {_PATH} and write its words in upper case to {_PATH}", _shout),
    (rf"Look at the picture {_PATH}", _view_picture),
    (rf"Load (\S+) and read {_PATH}", _load),
    (rf"What does page (\d+) of {_PATH} say", _quote_page),
    (r"Run the command `([^`]+)`", _run),
    (rf"Read {_PATH}", _read),
    (r"weather in (\w+) and (\w+)", _weather),
    (r"Add (-?\d+), (-?\d+) and (-?\d+)", _add),
    (r"Count to (\d+)", _count),
    (r"Say exactly: ([^\n]*)", _repeat_text),
    (r"Call the tool (\S+)", _call),
    (r"Which tools", _offered),
    (r"What does the system prompt say about (\w+)", _system),
    (r"What did I say first", _earlier),
    (r"Describe the pictures", _describe),
)
_COMPILED = tuple((re.compile(pattern), plan) for pattern, plan in PLANS)


@dataclass
class Fault:
    """A failure of the provider; `kind` is one that the wire's stand-in knows, the rest are its figures."""

    kind: str
    text: str
    figures: dict[str, float] = field(default_factory=dict)

    def figure(self, name: str, default: float) -> float:
        return self.figures.get(name, default)


_FAULT = re.compile(r"\[fault:(\w+)((?: \w+=[\d.]+)*)\]")


class Faults:
    """Remembers how often each fault was asked for, so that `times=2` fails twice and then works."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def find(self, conversation: Conversation) -> Fault | None:
        """Return the fault due now: of the model's name, or of the newest marker in a user's message."""
        named = conversation.model.removeprefix("fault-")
        if named != conversation.model:
            return Fault(named, conversation.model)
        for position in reversed(range(len(conversation.turns))):
            turn = conversation.turns[position]
            found = None if turn.role != "user" else _FAULT.search(turn.text)
            if found is not None:
                figures = dict(pair.split("=") for pair in found[2].split())
                fault = Fault(found[1], found[0], {name: float(value) for name, value in figures.items()})
                rounds = sum(1 for later in conversation.turns[position:] if later.results)
                return fault if self._is_due(fault, rounds) else None
        return None

    def _is_due(self, fault: Fault, rounds: int) -> bool:
        if rounds < fault.figure("round", 0):
            return False
        self.counts[fault.text] = self.counts.get(fault.text, 0) + 1
        return self.counts[fault.text] <= fault.figure("times", float("inf"))


def _find_task(conversation: Conversation) -> tuple[Plan, Task] | None:
    for position in reversed(range(len(conversation.turns))):
        turn = conversation.turns[position]
        if turn.role != "user":
            continue
        for pattern, plan in _COMPILED:
            found = pattern.search(spoken(turn.text))
            if found is not None:
                rounds = tuple(later.results for later in conversation.turns[position:] if later.results)
                return plan, Task(conversation, found.groups(), rounds, Toolbox(conversation.tools))
    return None


def _decide_freely(conversation: Conversation) -> Reply:
    found = _find_task(conversation)
    schema = conversation.schema or schema_in_words(conversation.system)
    if schema is not None:
        return Reply(as_json(sample(schema)))
    if found is None:
        last = next((turn.text for turn in reversed(conversation.turns) if turn.role == "user"), "")
        return Reply(f"I heard {len(conversation.turns)} messages; the last of yours was: {last[-200:]}")
    plan, task = found
    try:
        return plan(task)
    except Unable as unable:
        return Reply(str(unable))


def decide(conversation: Conversation) -> Reply:
    """Return the model's next reply within the limits of the request: the allowed tools and the number of calls."""
    reply = by_constant_tool(_decide_freely(with_loaded_tools(conversation)), conversation)
    if conversation.choice == "none":
        return reply if not reply.calls else Reply(reply.text or "I may not call a tool now.")
    if conversation.choice != "auto":
        named = [call for call in reply.calls if conversation.choice in ("required", call.name)]
        forced = named or [call for call in (any_call(conversation),) if call is not None]
        reply = Reply("", tuple(forced))
    return reply if conversation.parallel else replace(reply, calls=reply.calls[:1])
