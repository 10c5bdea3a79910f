"""The smallest server of replies as ASGI applications, for `bench.microbenchmarks`: bare, in a layer, on Starlette."""

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

from bench.replies import read_wanted
from bench.wires import CHAT

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
_STREAM, _WHOLE = (b"content-type", b"text/event-stream"), (b"content-type", b"application/json")


async def bare(scope: Message, receive: Receive, send: Send) -> None:
    """Answer with the reply that the path names, as `bench.replies` does, one send per event."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    wanted = read_wanted(scope["path"])
    parts = CHAT.parts(wanted) if wanted.pieces else [CHAT.body(wanted)]
    headers = [_STREAM] if wanted.pieces else [_WHOLE, (b"content-length", b"%d" % len(parts[0]))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def layered(scope: Message, receive: Receive, send: Send) -> None:
    """Do the same below a middleware that changes nothing."""

    async def pass_on(message: Message) -> None:
        await send(message)

    await bare(scope, receive, pass_on)


def on_starlette() -> App:
    """Return the same as an endpoint of Starlette."""
    applications, responses = import_module("starlette.applications"), import_module("starlette.responses")
    routing = import_module("starlette.routing")

    async def answer(request: Any) -> Any:
        await request.body()
        wanted = read_wanted(request.path_params["reply"])
        if not wanted.pieces:
            return responses.Response(CHAT.body(wanted), media_type="application/json")

        async def parts() -> Any:
            for part in CHAT.parts(wanted):
                yield part

        return responses.StreamingResponse(parts(), media_type="text/event-stream")

    app: App = applications.Starlette(routes=[routing.Route("/{reply}", answer, methods=["POST"])])
    return app
