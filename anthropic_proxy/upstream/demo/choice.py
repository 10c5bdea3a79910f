"""Which of the offered tools do what the user asks, in which order, with which arguments."""

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.upstream.demo.acts import does_to, find_act
from anthropic_proxy.upstream.demo.arguments import fill_arguments
from anthropic_proxy.upstream.demo.conversation import Conversation, Tool
from anthropic_proxy.upstream.demo.facts import find_facts
from anthropic_proxy.upstream.demo.languages import say_in_english
from anthropic_proxy.upstream.demo.schema import resolve_schema
from anthropic_proxy.upstream.demo.texts import LISTING, Source, find_command, kind_of
from anthropic_proxy.upstream.demo.words import GENERAL, KNOWN, VERBS, concepts, split_words

_ENOUGH = 1.4
"""Score from which a tool is thought to be meant."""
_NAMED = 5.0
_LONGEST_PROMPT = 2000
"""Characters; what is longer is material to work on, not a sentence that asks for one thing."""
_MASKED = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]*'(?!\w)", re.DOTALL)
_STARTS = (
    "read|open|show|run|execute|list|search|find|grep|write|create|save|store|edit|replace|change|delete|fetch|get|look|tell|call"
    "|use|check|send|translate|calculate|compute|summari[sz]e|print|explain|book|convert|what|who|how|add|put|append|give"
    "|visit|download|set|make|cat|report|say"
)
_CUT = re.compile(
    r"[.;!?]\s+|\n+|,?\s+(?:and\s+)?(?:then|afterwards|after that)\s+"
    rf"|,?\s+and\s+(?=(?:{_STARTS})\b)|,\s+(?=(?:{_STARTS})\b)",
    re.IGNORECASE,
)
_LOOK_AT = re.compile(r"\blook(?:ing)? (?:at|into)\b", re.IGNORECASE)
_LATER = re.compile(r"\W*(?:and\s+)?(?:then|afterwards|after that|finally)\b", re.IGNORECASE)
_REFERS = re.compile(r"\b(?:it|its|them|that|this|the (?:result|output|contents?|answer|text|same))\b", re.IGNORECASE)
_NO_TOOLS = re.compile(
    r"\b(?:do not|don't|never|without)\s+(?:call(?:ing)?|us(?:e|ing))\s+(?:any\s+)?(?:of\s+the\s+)?tools?\b"
    r"|\btext only\b|\bno tool calls\b",
    re.IGNORECASE,
)


_CLOSING = re.compile(
    r"\bfinal (?:response|answer|result)\b.*\bmust\b|\bmust\b.*\b(?:at|as) the end\b", re.IGNORECASE | re.DOTALL
)
"""The description of a tool that must be called in the end: Claude Code's StructuredOutput."""


class ToolUse(Struct, frozen=True):
    """A call to make."""

    name: str
    arguments: dict[str, Any]


def choose_calls(conversation: Conversation) -> list[ToolUse]:
    """Return the calls that come next; none where the answer is text.

    Never a tool that was not offered, and never the same call twice in a turn.
    """
    if conversation.choice == "none" or not conversation.tools:
        return []
    last = conversation.steps[-1] if conversation.done else ()
    stages = [] if any(step.failed for step in last) else _plan(conversation, last[-1].result if last else "")
    if not conversation.parallel:
        stages = [[call] for stage in stages for call in stage]
    made = [(step.name, step.arguments) for steps in conversation.steps for step in steps]
    due = stages[conversation.done] if conversation.done < len(stages) else []
    due = [call for call in due if (call.name, call.arguments) not in made]
    if due or conversation.choice == "auto":
        return due or _closing(conversation)
    return _forced(conversation)


def _forced(conversation: Conversation) -> list[ToolUse]:
    """Return the one call that the request demands, with samples for what nobody said."""
    tools = [tool for tool in conversation.tools if conversation.chosen in {None, tool.name}]
    if not tools:
        return []
    source = _source(conversation, conversation.prompt[:_LONGEST_PROMPT], None)
    best = max(tools, key=lambda tool: (_score(tool, source, tools), bool(fill_arguments(tool, _for(tool, source)))))
    return [ToolUse(best.name, fill_arguments(best, _for(best, source), forced=True)[0])]


def _closing(conversation: Conversation) -> list[ToolUse]:
    """Return the call with which a client wants every answer to end, unless this one has it."""
    if len(conversation.prompt) > _LONGEST_PROMPT or _NO_TOOLS.search(conversation.prompt):
        return []
    used = {step.name for steps in conversation.steps for step in steps}
    source = _source(conversation, conversation.prompt, None)
    due = [tool for tool in conversation.tools if _closes(tool) and tool.name not in used]
    return [ToolUse(tool.name, fill_arguments(tool, source, forced=True)[0]) for tool in due[:1]]


def _closes(tool: Tool) -> bool:
    return bool(_CLOSING.search(tool.description))


def _plan(conversation: Conversation, result: str) -> list[list[ToolUse]]:
    """Return the steps that the prompt asks for; calls of one step do not need each other."""
    if len(conversation.prompt) > _LONGEST_PROMPT or _NO_TOOLS.search(conversation.prompt):
        return []
    prompt = say_in_english(conversation.prompt)
    tools = [tool for tool in conversation.tools if conversation.chosen in {None, tool.name} and not _closes(tool)]
    stages: list[list[ToolUse]] = []
    subject = ""
    for sentence, later in _sentences(prompt):
        refers = bool(_REFERS.search(_MASKED.sub(" ", sentence)))
        calls = _calls(conversation, tools, _source(conversation, sentence, result if refers and stages else None))
        if not calls and subject:
            # "read a.txt, then edit it": the path stands in the sentence before.
            refers = True
            calls = _calls(
                conversation, tools, _source(conversation, f"{sentence} {subject}", result if stages else None)
            )
        planned = [call for stage in stages for call in stage]
        calls = [call for call in calls if call not in planned]
        if not calls:
            continue
        subject = " ".join(find_facts(sentence).paths) or subject
        if stages and not refers and not later:
            stages[-1].extend(calls)
        else:
            stages.append(calls)
    return _read_before_edit(conversation, stages)


def _calls(conversation: Conversation, tools: Sequence[Tool], source: Source) -> list[ToolUse]:
    halves = _halves(source.facts.text)
    if len(halves) > 1:
        each = [_calls(conversation, tools, _source(conversation, half, source.result)) for half in halves]
        if all(each) and len({calls[0].name for calls in each}) > 1:
            return [call for calls in each for call in calls]
    scored = [(_score(tool, source, tools), tool) for tool in tools]
    for score, tool in sorted(scored, key=lambda pair: -pair[0]):
        if score < _ENOUGH and conversation.chosen is None:
            break
        filled = fill_arguments(tool, _for(tool, source))
        if filled:
            return [ToolUse(tool.name, arguments) for arguments in filled]
    return []


def _read_before_edit(conversation: Conversation, stages: list[list[ToolUse]]) -> list[list[ToolUse]]:
    """Put a reading step before an edit of a file that was not read yet: clients refuse a blind edit."""
    reader = next((tool for tool in conversation.tools if concepts(_words_of(tool)) - {"file"} == {"read"}), None)
    if reader is None:
        return stages
    read = [
        step.arguments for steps in conversation.steps[: len(conversation.steps) - conversation.done] for step in steps
    ]
    planned: list[list[ToolUse]] = []
    for stage in stages:
        paths = [path for call in stage if "edit" in concepts(split_words(call.name)) for path in _paths_of(call)]
        known = [*read, *(call.arguments for earlier in planned for call in earlier)]
        missing = [path for path in dict.fromkeys(paths) if not any(path in arguments.values() for arguments in known)]
        source = _source(conversation, "", None)
        reads = [_reading(reader, source, path) for path in missing]
        if any(reads):
            planned.append([call for call in reads if call])
        planned.append(stage)
    return planned


def _reading(reader: Tool, source: Source, path: str) -> ToolUse | None:
    asked = structs.replace(source, facts=find_facts(f'read "{path}"'))
    filled = fill_arguments(reader, _for(reader, asked))
    return ToolUse(reader.name, filled[0]) if filled else None


def _paths_of(call: ToolUse) -> list[str]:
    return [value for name, value in call.arguments.items() if kind_of(name) == "path" and isinstance(value, str)]


def _sentences(prompt: str) -> list[tuple[str, bool]]:
    """Cut the prompt where one wish ends, never inside quotes or code; true: it stands after "then"."""
    masked = _MASKED.sub(lambda match: "_" * len(match[0]), prompt)
    sentences: list[tuple[str, bool]] = []
    start, later = 0, False
    for cut in [*_CUT.finditer(masked), None]:
        end = cut.start() if cut else len(prompt)
        mark = prompt[end : end + 1]
        sentence = prompt[start:end].strip()
        later = later or bool(_LATER.match(sentence))
        if sentence:
            sentences.append((sentence + (mark if mark in "?!" else ""), later))
        if cut:
            start, later = cut.end(), bool(_LATER.search(cut[0]))
    return sentences


def _halves(sentence: str) -> list[str]:
    """Cut at each "and": "the weather in Oslo and the time in Rome" may be two wishes."""
    masked = _MASKED.sub(lambda match: "_" * len(match[0]), sentence)
    places = [0, *(place for cut in re.finditer(r"\s+and\s+", masked) for place in cut.span()), len(sentence)]
    return [sentence[start:end] for start, end in zip(places[::2], places[1::2], strict=True)]


def _source(conversation: Conversation, sentence: str, result: str | None) -> Source:
    facts = find_facts(sentence)
    return Source(facts=facts, subject=(), directory=conversation.directory, result=result, today=conversation.today)


def _for(tool: Tool, source: Source) -> Source:
    """Return the same source, as this tool reads it."""
    words = _words_of(tool)
    names = concepts(words)
    act = find_act(names, _described(tool), _said(source))
    return structs.replace(source, subject=words, writes="write" in names, act=act)


def _score(tool: Tool, source: Source, tools: Sequence[Tool]) -> float:
    """Say how much the sentence speaks of this tool."""
    text = source.facts.text
    said = _said(source)
    words = _words_of(tool)
    names = concepts(words[:-1] if words[-1:] == ["tool"] and len(words) > 1 else words)
    if source.facts.urls and "search" in names - said:
        return 0.0  # an address is opened, not looked for
    weights = {name: 0.1 if name in GENERAL else 0.5 if name in VERBS else 1.0 for name in names}
    matched = sum(weights[name] for name in names & said)
    coverage = matched / (sum(weights.values()) or 1.0)
    about = (_described(tool) & said) - names
    rare = sum(
        0.4 if concept in VERBS else 0.7 / sum(concept in _described(other) for other in tools) ** 0.5
        for concept in about
    )
    acts = 0.8 if _actions(tool) & said & VERBS else 0.0
    score = acts + (3 * coverage + 0.3 * matched) * (coverage >= 0.45) + min(rare, 1.6)
    if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", text) and (
        "_" in tool.name or f"{tool.name} tool" in text
    ):
        score += _NAMED
    if does_to(names, _described(tool), said) or _searches_the_web(names, said):
        score = max(score, _ENOUGH)
    if _takes_command(tool) and find_command(source):
        # A shell can stand in for a tool that is missing, but a tool of its own is better.
        score = max(score, _ENOUGH)
    return score


def _searches_the_web(names: set[str], said: set[str]) -> bool:
    """Say whether the web is to be searched, with a tool that searches and says of nothing else what: `acme_search`."""
    return {"search", "web"} <= said and "search" in names and not (names - VERBS) & KNOWN


def _said(source: Source) -> set[str]:
    """Return what the sentence means, with what its paths, addresses and sums imply."""
    facts = source.facts
    said = concepts(split_words(_LOOK_AT.sub("view", _MASKED.sub(" ", facts.text))))
    if facts.urls:
        said |= {"fetch", "web", "file"}
    elif facts.paths:
        said |= {"file"} if said & {"read", "write", "edit", "delete", "search", "list", "run"} else {"file", "read"}
    if LISTING.search(_MASKED.sub(" ", facts.text)):
        said = said - {"read"} | {"list", "file"}
    elif facts.ticked and not facts.paths:
        said |= {"run"}
    if facts.globs:
        said = said - {"search"} | {"glob"}
    if facts.expressions:
        said |= {"calculate", "compute"}
    return said


def _words_of(tool: Tool) -> list[str]:
    """Return the words of the tool's own name; `mcp__server__tool` is `tool`."""
    return split_words(tool.name.rsplit("__", 1)[-1])


def _described(tool: Tool) -> set[str]:
    """Return what the first sentence of the description and the arguments' names speak of."""
    first = re.split(r"(?<=[.!])\s|\n", tool.description.strip(), maxsplit=1)[0][:240]
    return concepts([*split_words(first), *(word for name in _properties(tool) for word in split_words(name))])


def _actions(tool: Tool) -> set[str]:
    """Return what the tool can be told to do, where one required argument chooses: `view`, `create`."""
    required = resolve_schema(tool.schema, tool.schema).get("required") or ()
    chosen = (_properties(tool).get(name) for name in required)
    allowed = (value for part in chosen if isinstance(part, dict) for value in part.get("enum") or ())
    return concepts(word for value in allowed if isinstance(value, str) for word in split_words(value))


def _properties(tool: Tool) -> dict[str, Any]:
    properties = resolve_schema(tool.schema, tool.schema).get("properties")
    return properties if isinstance(properties, dict) else {}


def _takes_command(tool: Tool) -> bool:
    return any(
        kind_of(name) in {"command", "program"} and "enum" not in part
        for name, part in _properties(tool).items()
        if isinstance(part, dict)
    )
