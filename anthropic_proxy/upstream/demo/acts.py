"""What a tool does for a sentence, and what it does it to: a tool that reads takes a path, whatever it calls it."""

from collections.abc import Mapping, Set
from typing import Any

from anthropic_proxy.upstream.demo.words import VERBS, word_set

_OBJECTS = {"run": "command", "list": "folder", "read": "path", "weather": "place", "search": "query"}
"""Act → the kind of text that it is done to, the most telling act first."""
_VAGUE = word_set("other content url name origin target place query code prompt path folder args")
"""Kinds of text that may be anything where a tool has one argument: `input`, `uri`, `location`."""
_VAGUE_FOR = {
    "weather": word_set("other content name query prompt"),
    "search": word_set("other content prompt"),
}
_ASKING = word_set("read search fetch get retrieve check tell call do use")
"""Verbs that people and the authors of tools exchange freely: look up, find, get, show, fetch."""
_EVERYWHERE = word_set("file web")
"""What tools of very different purposes have to do with."""
_TEXTS = word_set("string array")


def find_act(names: Set[str], described: Set[str], said: Set[str]) -> str:
    """Return what a tool of these concepts does, of what the sentence asks for; "" where neither says it plainly."""
    act = next((act for about in (names, described) for act in _OBJECTS if act in about & said), "")
    # "look up customer 4711" searches for nothing: it names a thing.
    return "" if act == "search" and (names - VERBS - _EVERYWHERE) & said else act


def object_of(act: str) -> str:
    """Return the kind of text that an act is done to; "" where any will do."""
    return _OBJECTS.get(act, "")


def does_to(names: Set[str], described: Set[str], said: Set[str]) -> bool:
    """Say whether the sentence names both something that the tool does and something that it does it to."""
    about = names | described
    verbs, wanted = about & VERBS, said & VERBS
    nouns = (about & said) - VERBS
    return bool(verbs & wanted and nouns) or bool(verbs & _ASKING and wanted & _ASKING and nouns - _EVERYWHERE)


def find_receiver(properties: Mapping[str, Any], required: list[str], act: str, kinds: Mapping[str, str]) -> str:
    """Return the one argument that must take what the act is done to, though its name does not say so; "": none.

    `kinds`: argument → kind of text that its name tells.
    """
    wanted = required or list(properties)
    texts = [
        name
        for name in wanted
        if kinds[name] != "summary" and _type_of(properties.get(name)) in _TEXTS and "enum" not in properties[name]
    ]
    vague = _VAGUE_FOR.get(act, _VAGUE) - {object_of(act)}
    return texts[0] if act and len(texts) == 1 and kinds[texts[0]] in vague else ""


def _type_of(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return ""
    kind = schema.get("type", "string")
    return str(next((one for one in kind if one != "null"), "")) if isinstance(kind, list) else str(kind)
