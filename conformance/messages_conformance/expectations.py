"""The vocabulary of expectations: each function returns sentences about what is wrong, none if all is right.

Most of them take a value out of the exchanges and judge it by words that they have in common: see `judge`. With
`step = 0` an expectation concerns the first exchange; without it, the last one. With `needs = "…"` it is judged only
if this is there, and those about the upstream only if there is one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from messages_conformance.backends.view import View, read_view
from messages_conformance.client import Exchange
from messages_conformance.forms import find_form_faults
from messages_conformance.grammar import EventGrammar
from messages_conformance.texts import show_json
from messages_conformance.trial import Trial

Arguments = Mapping[str, Any]
Expect = Callable[[Arguments, Trial], list[str]]

_MISSING: Any = object()
_KEY = re.compile(r"\b(?:sk|pk|key)-[A-Za-z0-9_-]{8,}")
"""What looks like a key of a provider."""
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "count": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_TESTS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "equals": ("is not", lambda value, wanted: bool(value == wanted) and (value is True) == (wanted is True)),
    "one_of": ("is none of", lambda value, wanted: value in wanted),
    "type": ("is no", lambda value, wanted: _TYPES[wanted](value)),
    "pattern": ("does not match", lambda value, wanted: isinstance(value, str) and bool(re.search(wanted, value))),
    "contains": ("does not contain", lambda value, wanted: _is_in(wanted, value)),
    "contains_any": ("contains none of", lambda value, wanted: any(_is_in(one, value) for one in wanted)),
    "mentions": ("has no text with", lambda value, wanted: _is_mentioned(wanted, value)),
    "in_order": ("does not contain in this order", lambda value, wanted: _find_lost(wanted, value) is None),
    "lacks": ("contains", lambda value, wanted: not _is_in(wanted, value)),
    "min": ("is less than", lambda value, wanted: _is_number(value) and value >= wanted),
    "max": ("is more than", lambda value, wanted: _is_number(value) and value <= wanted),
    "length": ("has not the length", lambda value, wanted: hasattr(value, "__len__") and len(value) == wanted),
}  # fmt: skip
"""Word → the beginning of the sentence about a wrong value, and the test of a value."""


def judge(name: str, value: Any, arguments: Arguments) -> list[str]:
    """Return what is wrong with a value.

    `absent = true`: it has to be missing or null. `optional = true`: it may be so.
    """
    if arguments.get("absent"):
        return [] if value is _MISSING or value is None else [f"{name} is {_show(value)}; it has to be absent"]
    if arguments.get("optional") and (value is _MISSING or value is None):
        return []
    if value is _MISSING:
        return [f"{name} is missing"]
    problems = list[str]()
    for word, (failure, passes) in _TESTS.items():
        if word in arguments and not passes(value, arguments[word]):
            problems.append(
                f"{name} {failure} {_show(arguments[word])}: {_show(value)}" + _locate(arguments[word], value)
            )
    return problems


def find(value: Any, path: str) -> Any:
    """Return the value at `content.0.type`, or `_MISSING`. `*` takes all elements that have the rest of the path.

    `.` is the value itself.
    """
    return _find(value, path.split(".") if path != "." else [])


def _find(value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if part == "*":
        elements = value if isinstance(value, list) else ()
        return [inner for element in elements if (inner := _find(element, rest)) is not _MISSING]
    if isinstance(value, list) and part.lstrip("-").isdigit():
        number = int(part)
        return _find(value[number], rest) if -len(value) <= number < len(value) else _MISSING
    if isinstance(value, Mapping) and part in value:
        return _find(value[part], rest)
    return _MISSING


def expect_status(arguments: Arguments, trial: Trial) -> list[str]:
    """`status = 200`, or a list of allowed ones."""
    wanted = arguments["status"]
    status = _exchange(arguments, trial).status
    if status in (wanted if isinstance(wanted, list) else [wanted]):
        return []
    return [f"the status is {status} instead of {_show(wanted)}"]


def expect_header(arguments: Arguments, trial: Trial) -> list[str]:
    """`header = "content-type"`: a header of the reply, in lower case."""
    value = _exchange(arguments, trial).header(arguments["header"])
    return judge(f"the header {arguments['header']}", _MISSING if value is None else value.lower(), arguments)


def expect_path(arguments: Arguments, trial: Trial) -> list[str]:
    """`path = "content.0.type"`: a value of the message, also of one that came as a stream."""
    message = _exchange(arguments, trial).message
    if message is None:
        return ["the reply is no message"]
    return judge(f"{arguments['path']} of the message", find(message, arguments["path"]), arguments)


def expect_error(arguments: Arguments, trial: Trial) -> list[str]:
    """`error = "type"`: a value of the object `error` of an error reply or an error event."""
    error = _exchange(arguments, trial).error
    if error is None:
        return ["the reply has no error in the form of the API"]
    return judge(f"{arguments['error']} of the error", find(error, arguments["error"]), arguments)


def expect_json(arguments: Arguments, trial: Trial) -> list[str]:
    """`json = "input_tokens"`: a value of the body, whatever it is."""
    return judge(arguments["json"], find(_exchange(arguments, trial).json, arguments["json"]), arguments)


def expect_event(arguments: Arguments, trial: Trial) -> list[str]:
    """`event = "message_delta"`, `at = "usage.output_tokens"`: a value of the last event of a type, which SDKs keep.

    `absent = true` without `at`: there is no such event.
    """
    name = arguments["event"]
    events = [event.data for event in _exchange(arguments, trial).events if event.type == name]
    if "at" not in arguments and arguments.get("absent"):
        return [f"there is an event {name}"] if events else []
    if not events:
        return [f"there is no event {name}"]
    return judge(f"{arguments.get('at', '.')} of {name}", find(events[-1], arguments.get("at", ".")), arguments)


def expect_order(arguments: Arguments, trial: Trial) -> list[str]:
    """`order = ["message_start", "message_stop"]`: these types of events come, first in this order; others may too."""
    types = [event.type for event in _exchange(arguments, trial).events]
    missing = [name for name in arguments["order"] if name not in types]
    if missing:
        return [f"there is no event {', '.join(missing)}"]
    places = [types.index(name) for name in arguments["order"]]
    return [] if places == sorted(places) else [f"the events come in the order {', '.join(types)}"]


def expect_single(arguments: Arguments, trial: Trial) -> list[str]:
    """`single = "message_delta"`: there is exactly one event of this type."""
    count = sum(event.type == arguments["single"] for event in _exchange(arguments, trial).events)
    return judge(f"the number of events {arguments['single']}", count, {"equals": 1})


def expect_text(arguments: Arguments, trial: Trial) -> list[str]:
    """`text = "text"`: the text of all blocks of this type (`text`, `thinking`), joined."""
    kind = arguments["text"]
    message = _exchange(arguments, trial).message
    if message is None:
        return ["the reply is no message"]
    blocks = [block for block in _list(message.get("content")) if isinstance(block, dict) and block.get("type") == kind]
    return judge(f"the {kind} of the message", "".join(str(block.get(kind) or "") for block in blocks), arguments)


def expect_cited(arguments: Arguments, trial: Trial) -> list[str]:
    """`cited = TEXT`: the citations of the message quote the text of this document at their places."""
    text = arguments["cited"]
    found = find(_exchange(arguments, trial).message, "content.*.citations")
    citations = [one for inner in _list(found) for one in _list(inner) if isinstance(one, dict)]
    return [
        f"the citation {_show(one)} quotes another text than the document has there"
        for one in citations
        if not all(_is_number(one.get(name)) for name in ("start_char_index", "end_char_index"))
        or one.get("cited_text") != text[one["start_char_index"] : one["end_char_index"]]
    ]


def expect_body(arguments: Arguments, trial: Trial) -> list[str]:
    """`body = "text"`: the body as a text."""
    return judge("the body", _exchange(arguments, trial).body.decode("utf-8", "replace"), arguments)


def expect_unique(arguments: Arguments, trial: Trial) -> list[str]:
    """`unique = "content.*.id"`: no two of these values of the message, or of another body, are equal."""
    exchange = _exchange(arguments, trial)
    values = _list(find(exchange.message or exchange.json, arguments["unique"]))
    return [] if len(values) == len({_show(value) for value in values}) else [f"two of {_show(values)} are equal"]


def expect_sum(arguments: Arguments, trial: Trial) -> list[str]:
    """`sum = ["usage.input_tokens", …]`: the sum of counts of the message; a missing or null one is 0."""
    message = _exchange(arguments, trial).message
    values = [find(message, path) for path in arguments["sum"]]
    counts = [0 if value is _MISSING or value is None else value for value in values]
    if not all(map(_TYPES["count"], counts)):
        return [f"{', '.join(arguments['sum'])} are no counts: {_show(counts)}"]
    return judge(f"the sum of {', '.join(arguments['sum'])}", sum(counts), arguments)


def expect_at_most(arguments: Arguments, trial: Trial) -> list[str]:
    """`at_most = ["a", "b"]`: the first count of the message is not above the second one; an absent one is right."""
    low, high = (find(_exchange(arguments, trial).message, path) for path in arguments["at_most"])
    if any(value is _MISSING or value is None for value in (low, high)):
        return []
    if _is_number(low) and _is_number(high) and low <= high:
        return []
    return [f"{arguments['at_most'][0]} is {_show(low)}, {arguments['at_most'][1]} is {_show(high)}"]


def expect_same(arguments: Arguments, trial: Trial) -> list[str]:
    """`same = "content"`: a value of the message, or of another body, is the same in all exchanges."""
    values = [find(exchange.message or exchange.json, arguments["same"]) for exchange in trial.exchanges]
    if any(value is _MISSING for value in values):
        return [f"{arguments['same']} of a message is missing"]
    if all(value == values[0] for value in values):
        return []
    return [f"{arguments['same']} differs: {' and '.join(map(_show, values))}"]


def expect_differs(arguments: Arguments, trial: Trial) -> list[str]:
    """`differs = "id"`: a value of the message, or the header of this name, is another one in each exchange."""
    name = arguments["differs"]
    if arguments.get("of") == "header":
        values = [exchange.header(name) for exchange in trial.exchanges]
    else:
        values = [find(exchange.message, name) for exchange in trial.exchanges]
    if any(value is _MISSING or value is None for value in values):
        return [f"{name} of a reply is missing"]
    return [] if len(values) == len({_show(value) for value in values}) else [f"{name} is the same: {_show(values)}"]


def expect_rising(arguments: Arguments, trial: Trial) -> list[str]:
    """`rising = "input_tokens"`: a count of the bodies grows from exchange to exchange."""
    values = [find(exchange.json, arguments["rising"]) for exchange in trial.exchanges]
    if not all(map(_TYPES["count"], values)):
        return [f"{arguments['rising']} of a reply is no count"]
    if all(earlier < later for earlier, later in pairwise(values)):
        return []
    return [f"{arguments['rising']} does not grow: {_show(values)}"]


def expect_growth(arguments: Arguments, trial: Trial) -> list[str]:
    """`growth = "input_tokens"`, `factor = 1.8`: a count of the second body is at least so much larger than that of the
    first one. The further pairs repeat the two requests, and one pair is enough: a server that estimates may learn
    between two counts, and one that leaves out a part does so in each pair.
    """
    values = [find(exchange.json, arguments["growth"]) for exchange in trial.exchanges]
    if not all(map(_TYPES["count"], values)):
        return [f"{arguments['growth']} of a reply is no count"]
    pairs = zip(values[::2], values[1::2], strict=True)
    if any(larger >= arguments["factor"] * smaller > 0 for smaller, larger in pairs):
        return []
    return [f"{arguments['growth']} does not grow by the factor {arguments['factor']}: {_show(values)}"]


def expect_alike(arguments: Arguments, trial: Trial) -> list[str]:
    """`alike = ["first_id", "data.0.id"]`: two values of the body are equal; both may be missing or null."""
    values = [find(_exchange(arguments, trial).json, path) for path in arguments["alike"]]
    first, second = (None if value is _MISSING else value for value in values)
    return (
        []
        if first == second
        else [f"{arguments['alike'][0]} is {_show(first)}, {arguments['alike'][1]} is {_show(second)}"]
    )


def expect_returned(arguments: Arguments, trial: Trial) -> list[str]:
    """`returned = "data.-1.id"`, `as = "id"`: this value of the first body is that value of the last one."""
    wanted = find(trial.exchanges[0].json, arguments["returned"])
    return judge(arguments["as"], find(trial.last.json, arguments["as"]), {"equals": wanted})


def expect_page(arguments: Arguments, trial: Trial) -> list[str]:
    """`page = 1000`: a list with fewer elements than this limit says that there are no more."""
    body = _exchange(arguments, trial).json
    length = len(_list(find(body, "data")))
    if length >= arguments["page"] or find(body, "has_more") is not True:
        return []
    return [f"has_more is true, although the page has {length} of {arguments['page']} elements"]


def expect_statuses(arguments: Arguments, trial: Trial) -> list[str]:
    """`statuses = 200`: the status of each reply."""
    statuses = [exchange.status for exchange in trial.exchanges]
    wrong = [status for status in statuses if status != arguments["statuses"]]
    return [f"{len(wrong)} of {len(statuses)} replies have the status {wrong[0]}"] if wrong else []


def expect_grammar(arguments: Arguments, trial: Trial) -> list[str]:
    """`grammar = true`, or the names of the rules that are judged: the stream has the form of the API."""
    rules = arguments["grammar"]
    exchange = _exchange(arguments, trial)
    if not exchange.is_stream:
        return [f"the reply is no event stream, its content-type is {exchange.header('content-type')}"]
    grammar = EventGrammar()
    grammar.feed_bytes(exchange.body)
    return [str(problem) for problem in grammar.finish() if rules is True or problem.rule in rules]


def expect_schema(arguments: Arguments, trial: Trial) -> list[str]:
    """`schema = "message"`: the message, or the body of another kind, has the form of `schemas/NAME.json`."""
    exchange = _exchange(arguments, trial)
    value = exchange.message if arguments["schema"] == "message" else exchange.json
    return find_form_faults(arguments["schema"], value)


def expect_spread(arguments: Arguments, trial: Trial) -> list[str]:
    """`spread = 0.5`: at least these seconds lie between the first and the last event `of` a type."""
    kind = arguments["of"]
    times = [event.seconds for event in _exchange(arguments, trial).events if event.type == kind]
    if not times:
        return [f"there is no event {kind}"]
    spread = times[-1] - times[0]
    return [] if spread >= arguments["spread"] else [f"all events {kind} came within {spread:.2f} seconds"]


def expect_silence(arguments: Arguments, trial: Trial) -> list[str]:
    """`silence = 15`: after the head of the reply, nothing is awaited for more seconds."""
    exchange = _exchange(arguments, trial)
    times = [exchange.head_seconds, *(seconds for seconds, _ in exchange.reads)]
    longest = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
    return [] if longest <= arguments["silence"] else [f"nothing came for {longest:.1f} seconds"]


def expect_seconds(arguments: Arguments, trial: Trial) -> list[str]:
    """`seconds = 10`: the reply ends within this time."""
    seconds = _exchange(arguments, trial).seconds
    return [] if seconds <= arguments["seconds"] else [f"the reply took {seconds:.1f} seconds"]


def expect_no_retry(arguments: Arguments, trial: Trial) -> list[str]:
    """`no_retry = true`: Claude Code does not repeat the request, by the status or by `x-should-retry: false`."""
    exchange = _exchange(arguments, trial)
    if exchange.status in (402, 403, 413) or exchange.header("x-should-retry") == "false":
        return []
    return [f"the status {exchange.status} without x-should-retry: false is repeated"]


def expect_failure(_arguments: Arguments, _trial: Trial) -> list[str]:
    """`failure = true`: the connection may break."""
    return []


def expect_upstream(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream = "tools.0.name"`: a value of what the model got last, in the words of `backends.view.View`.

    `answered = true`: judged only if the client was not refused. `refused = true`: also of a request that the provider
    refuses.
    """
    if arguments.get("answered") and trial.last.status != 200:
        return []
    views = _read_views(trial, refused=bool(arguments.get("refused")))
    if not views:
        return ["the model got no request that its provider accepts" + _list_refusals(trial)]
    return judge(f"{arguments['upstream']} at the model", find(views[-1].as_table(), arguments["upstream"]), arguments)


def expect_upstream_differs(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_differs = "results"`: this value of what the model got first and last is not the same."""
    views = _read_views(trial)
    if len(views) < 2:
        return [f"the model got {len(views)} of 2 requests that its provider accepts" + _list_refusals(trial)]
    first, last = (find(view.as_table(), arguments["upstream_differs"]) for view in (views[0], views[-1]))
    if first != last:
        return []
    return [f"{arguments['upstream_differs']} at the model is the same for both requests: {_show(first)}"]


def expect_upstream_open(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_open = 4`: so many requests to the model were open at once."""
    most = max((request.open_calls for request in trial.upstream), default=0)
    return judge("the number of requests to the model at once", most, {"min": arguments["upstream_open"]})


def expect_upstream_seen(_arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_seen = true`: the client got each event for which the model waited, while it waited."""
    unseen = [request.unseen for request in trial.upstream if request.unseen]
    if not trial.upstream:
        return ["the model got no request" + _list_refusals(trial)]
    return [f"no event {name} came while the model waited for it" for name in unseen]


def expect_upstream_key_hidden(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_key_hidden = true`: no reply shows the key with which the model's server was called, or what looks like
    one. `repeated = true`: that server has repeated the key, which may be the client's own.
    """
    problems = [] if trial.upstream else ["the model got no request"]
    for exchange in trial.exchanges:
        shown = "\n".join(
            [*(f"{name}: {value}" for name, value in exchange.headers), exchange.body.decode("utf-8", "replace")]
        )
        sent = [part for _, value in exchange.request.headers for part in (value, value.rpartition(" ")[2])]
        own = sent if arguments.get("repeated") else ()
        looks_like_one = _KEY.search(shown) and not arguments.get("repeated")
        if looks_like_one or any(request.shows_key(shown, own) for request in trial.upstream):
            problems.append(f"the reply with the status {exchange.status} shows the key of the model's server")
    return problems


def expect_upstream_header(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_header = "anthropic-beta"`: a header of the last request that the model got and accepted."""
    accepted = [request for request in trial.upstream if not request.refusal]
    if not accepted:
        return ["the model got no request that its provider accepts" + _list_refusals(trial)]
    name = arguments["upstream_header"]
    value = accepted[-1].header(name)
    return judge(f"the header {name} at the model", _MISSING if value is None else value, arguments)


def expect_known_model(arguments: Arguments, trial: Trial) -> list[str]:
    """`known_model = true`: the model of the message is that of the request, or that of the model's server."""
    exchange = _exchange(arguments, trial)
    asked = exchange.request.json.get("model")
    return judge("model of the message", find(exchange.message, "model"), {"one_of": [asked, *_list_models(trial)]})


def expect_own(arguments: Arguments, trial: Trial) -> list[str]:
    """`own = "number [0-9]+"`: all that a reply has of this pattern is what its own request has, and it has some.

    Refused requests are not judged, but one has to be answered.
    """
    answered = [exchange for exchange in trial.exchanges if exchange.status == 200]
    problems = [] if answered else ["no request was answered"]
    for exchange in answered:
        sent = set(re.findall(arguments["own"], (exchange.request.body or b"").decode("utf-8", "replace")))
        got = set(re.findall(arguments["own"], _join_text(exchange)))
        if sent != got:
            problems.append(f"the reply to {_show(sorted(sent))} is about {_show(sorted(got))}")
    return problems


def expect_upstream_count(arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_count = 1`: the number of requests that the model got and accepted."""
    count = sum(not request.refusal for request in trial.upstream)
    return judge("the number of requests to the model", count, {"equals": arguments["upstream_count"]})


def expect_upstream_left(_arguments: Arguments, trial: Trial) -> list[str]:
    """`upstream_left = true`: the connection to the model was closed before the end of the reply."""
    if trial.upstream and trial.upstream[-1].left is not None:
        return []
    return ["the connection to the model stayed open until its reply ended"]


def _join_text(exchange: Exchange) -> str:
    content = _list((exchange.message or {}).get("content"))
    return "".join(str(block.get("text") or "") for block in content if isinstance(block, dict))


def _exchange(arguments: Arguments, trial: Trial) -> Exchange:
    return trial.exchanges[arguments.get("step", -1)]


def _read_views(trial: Trial, *, refused: bool = False) -> list[View]:
    requests = [request for request in trial.upstream if refused or not request.refusal]
    return [read_view(trial.options.backend, request.path, request.body) for request in requests]


def _list_models(trial: Trial) -> list[str]:
    return [view.model for view in _read_views(trial)]


def _list_refusals(trial: Trial) -> str:
    return "".join(f"; it refused one: {request.refusal}" for request in trial.upstream if request.refusal)


def _find_lost(wanted: Sequence[str], value: Any) -> int | None:
    """Return the number of the first text that does not follow the ones before it. None: all are there."""
    place = 0
    for number, part in enumerate(wanted):
        found = value.find(part, place) if isinstance(value, str) else -1
        if found < 0:
            return number
        place = found + len(part)
    return None


def _locate(wanted: Any, value: Any) -> str:
    """Return where a long text or list begins to differ. "": both are shown whole."""
    if isinstance(wanted, list) and isinstance(value, str):
        lost = _find_lost(wanted, value)
        return "" if lost is None else f" (the first that is missing there: {_show(wanted[lost])})"
    if not isinstance(wanted, (str, list)) or type(wanted) is not type(value) or max(len(wanted), len(value)) <= 50:
        return ""
    both = zip(wanted, value, strict=False)
    place = next((number for number, (one, other) in enumerate(both) if one != other), min(len(wanted), len(value)))
    return f" (lengths {len(wanted):,} and {len(value):,}, different from place {place:,})"


def _is_in(wanted: Any, value: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    return isinstance(value, (list, dict)) and wanted in value


def _is_mentioned(wanted: str, value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(element, str) and wanted in element for element in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _show(value: Any) -> str:
    return show_json(value, 200)


EXPECTATIONS: Mapping[str, Expect] = {
    "status": expect_status,
    "header": expect_header,
    "path": expect_path,
    "error": expect_error,
    "json": expect_json,
    "event": expect_event,
    "order": expect_order,
    "single": expect_single,
    "text": expect_text,
    "cited": expect_cited,
    "body": expect_body,
    "unique": expect_unique,
    "sum": expect_sum,
    "at_most": expect_at_most,
    "same": expect_same,
    "differs": expect_differs,
    "rising": expect_rising,
    "growth": expect_growth,
    "alike": expect_alike,
    "returned": expect_returned,
    "page": expect_page,
    "statuses": expect_statuses,
    "grammar": expect_grammar,
    "schema": expect_schema,
    "spread": expect_spread,
    "silence": expect_silence,
    "seconds": expect_seconds,
    "no_retry": expect_no_retry,
    "failure": expect_failure,
    "upstream": expect_upstream,
    "upstream_differs": expect_upstream_differs,
    "known_model": expect_known_model,
    "own": expect_own,
    "upstream_header": expect_upstream_header,
    "upstream_count": expect_upstream_count,
    "upstream_open": expect_upstream_open,
    "upstream_seen": expect_upstream_seen,
    "upstream_key_hidden": expect_upstream_key_hidden,
    "upstream_left": expect_upstream_left,
}
"""Key of a table `[[check.expect]]` → the function that judges. A table has exactly one of these keys."""
