"""What the client does in a check: named steps, each of which adds its exchanges to the trial."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from messages_conformance.client import Request, Server, encode_json
from messages_conformance.generated import generate, number_texts
from messages_conformance.rows import VERSIONS, Step
from messages_conformance.trial import Options, Trial, add_token


def build_request(step: Step, trial: Trial) -> Request:
    """Return the request of a step. In `raw`, `$TRIAL` and `$MODEL` stand for the token and the model, in headers
    `$KEY` for the key. In `path`, `$LAST` stands for the id of the last model of the list before.
    """
    options = trial.options
    body: bytes | None = None
    if step.raw is not None:
        body = step.raw.replace("$TRIAL", trial.token).replace("$MODEL", options.model).encode("utf-8")
    elif step.body is not None:
        body = encode_json(add_token({"model": options.model, **generate(step.body)}, trial.token))
    headers: dict[str, str | None] = {**_build_headers(options, trial.version, has_body=body is not None)}
    for name, value in step.headers.items():
        headers[name.lower()] = value and value.replace("$KEY", options.key)
    path = step.path.replace("$MODEL", quote(options.model, safe=""))
    if "$LAST" in path:
        path = path.replace("$LAST", quote(_find_last_model(trial), safe=""))
    sent = tuple((name, value) for name, value in headers.items() if value is not None)
    return Request(step.method, path, sent, body)


def _find_last_model(trial: Trial) -> str:
    """Return the id of the last model of the list that came before."""
    listed = trial.last.json
    models = listed.get("data") if isinstance(listed, dict) else None
    last = models[-1] if isinstance(models, list) and models else None
    identifier = last.get("id") if isinstance(last, dict) else None
    if not isinstance(identifier, str):
        raise StepImpossible("the list of models has no model with an id")
    return identifier


def build_plain_request(options: Options) -> Request:
    """Return a short request that every server can answer."""
    message = {"role": "user", "content": "Answer with the word: hello"}
    body = {"model": options.model, "max_tokens": 16, "messages": [message]}
    return build_messages_request(body, options, VERSIONS[0])


def build_messages_request(body: Mapping[str, Any], options: Options, version: str) -> Request:
    headers = _build_headers(options, version, has_body=True)
    return Request("POST", "/v1/messages", tuple(headers.items()), encode_json(body))


def _build_headers(options: Options, version: str, *, has_body: bool) -> dict[str, str]:
    headers = {
        "x-api-key": options.key,
        "anthropic-version": version,
        "user-agent": "messages-conformance",
        "accept": "*/*",
    }
    if has_body:
        headers["content-type"] = "application/json"
    headers.update(options.headers)
    return headers


def send_request(step: Step, trial: Trial, server: Server) -> None:
    """Step `request`: send one request, and read its reply to the end or to the event `cut_after`."""

    trial.exchanges.append(server.send(build_request(step, trial), step.cut_after, trial.saw))


def continue_conversation(step: Step, trial: Trial, server: Server) -> None:
    """Step `continue`: the next turn, with the messages of the last request, its reply as it came, and what follows.

    `results = ["12"]`: results of the calls of the reply, in their order; the last one is that of all further calls,
    because a request that leaves a call without its result is refused. `say = "…"`: a text of the user.
    """
    previous = trial.last.request.json
    message = trial.last.message
    content = message.get("content") if message is not None else None
    if not isinstance(content, list) or not content:
        raise StepImpossible("the reply before has no content with which the conversation could go on")
    calls = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
    results = step.arguments.get("results") or ("done",)
    blocks: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": call.get("id"), "content": results[min(number, len(results) - 1)]}
        for number, call in enumerate(calls)
    ]
    if "say" in step.arguments:
        blocks.append({"type": "text", "text": step.arguments["say"]})
    if not blocks:
        raise StepImpossible("the reply before has no call of a tool")
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": blocks}]
    body = {**previous, **(step.body or {}), "messages": [*previous["messages"], *turns]}
    send_request(replace(step, body=body), trial, server)


def send_together(step: Step, trial: Trial, server: Server) -> None:
    """Step `together`: the request `times` times, at once; `{n}` in its texts is the number of each."""
    times = step.arguments["times"]
    requests = [
        build_request(replace(step, body=number_texts(step.body, str(number))), trial) for number in range(times)
    ]
    with ThreadPoolExecutor(times) as threads:
        trial.exchanges += threads.map(server.send, requests)


class StepImpossible(Exception):
    """The server's own reply makes the next step impossible: a failure of the server."""


STEPS: Mapping[str, Callable[[Step, Trial, Server], None]] = {
    "request": send_request,
    "continue": continue_conversation,
    "together": send_together,
}
"""Value of `do` → what it does."""
