"""What the client does in a check: named steps, each of which adds its exchanges to the trial."""

from collections.abc import Callable, Mapping
from urllib.parse import quote

from messages_conformance.client import Exchange, Request, Server, encode_json
from messages_conformance.rows import VERSIONS, Step
from messages_conformance.trial import Options, Trial, add_token


def build_request(step: Step, trial: Trial) -> Request:
    """Return the request of a step. In `raw`, `$TRIAL` and `$MODEL` stand for the token and the model."""
    options = trial.options
    body: bytes | None = None
    if step.raw is not None:
        body = step.raw.replace("$TRIAL", trial.token).replace("$MODEL", options.model).encode("utf-8")
    elif step.body is not None:
        body = encode_json(add_token({"model": options.model, **step.body}, trial.token))
    headers = _build_headers(options, trial.version, has_body=body is not None)
    if step.key == "other-key":
        headers["x-api-key"] = options.other_key
    headers.update({name.lower(): value for name, value in step.headers.items()})
    path = step.path.replace("$MODEL", quote(options.model, safe=""))
    sent = tuple((name, value) for name, value in headers.items() if value is not None)
    return Request(step.method, path, sent, body)


def build_plain_request(options: Options) -> Request:
    """Return a short request that every server can answer."""
    message = {"role": "user", "content": "Answer with the word: hello"}
    body = {"model": options.model, "max_tokens": 16, "messages": [message]}
    headers = _build_headers(options, VERSIONS[0], has_body=True)
    sent = tuple((name, value) for name, value in headers.items() if value is not None)
    return Request("POST", "/v1/messages", sent, encode_json(body))


def _build_headers(options: Options, version: str, *, has_body: bool) -> dict[str, str | None]:
    headers: dict[str, str | None] = {
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

    def has_come(exchange: Exchange) -> bool:
        return any(event.type == step.cut_after for event in exchange.events)

    request = build_request(step, trial)
    trial.exchanges.append(server.send(request, has_come if step.cut_after else None))


STEPS: Mapping[str, Callable[[Step, Trial, Server], None]] = {
    "request": send_request,
}
"""Value of `do` → what it does."""
