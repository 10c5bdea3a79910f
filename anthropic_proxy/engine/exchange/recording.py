"""Functions that pass the bytes of requests and replies to recorders, plugins that store them, for example to debug.

`start_recording` passes the client request and its response, `record_upstream_request` a request to a provider.
"""

from collections.abc import Callable
from functools import partial

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.hooks import EngineLog, Recorder, RecordPoint


def start_recording(engine: Engine, request: ClientRequest) -> Callable[[bytes], None]:
    """Pass the body of a client request to the recorders, plugins that store bytes of requests.

    Return a function that passes them a piece of the response to the client.
    """
    recorders = [*engine.recorders]
    _record(recorders, engine.log, request.request_id, "client request", request.body)
    return partial(_record, recorders, engine.log, request.request_id, "client response")


def record_upstream_request(engine: Engine, request_id: str, body: bytes) -> None:
    """Pass the body of an upstream request to the recorders, plugins that store bytes of requests.

    `request_id` is the id of the client request.
    """
    _record([*engine.recorders], engine.log, request_id, "upstream request", body)


def _record(recorders: list[Recorder], log: EngineLog, request_id: str, point: RecordPoint, data: bytes) -> None:
    """Pass bytes to the recorders. `point`: place of the bytes in the exchange.

    A recorder that raises an exception is removed, because its failure must not affect the client.
    """
    for recorder in [*recorders]:
        try:
            recorder.record(request_id, point, data)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            recorders.remove(recorder)
            log.write_traceback(request_id)
