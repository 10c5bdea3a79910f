"""Functions that pass the bytes of requests and replies to recorders, plugins that store them, for example to debug.

`start_recording` passes the client request and its response, `record_upstream_request` a request to a provider.
"""

from collections.abc import Callable
from functools import partial

from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.hooks import Recorder, RecordPoint
from anthropic_proxy.engine.services import Services
from anthropic_proxy.gateway.telemetry.log import Log


def start_recording(services: Services, request: ClientRequest) -> Callable[[bytes], None]:
    """Pass the body of a client request to the recorders, plugins that store bytes of requests.

    Return a function that passes them a piece of the response to the client.
    """
    recorders = [*services.recorders]
    _record(recorders, services.log, request.request_id, "client request", request.body)
    return partial(_record, recorders, services.log, request.request_id, "client response")


def record_upstream_request(services: Services, request_id: str, body: bytes) -> None:
    """Pass the body of an upstream request to the recorders, plugins that store bytes of requests.

    `request_id` is the id of the client request.
    """
    _record([*services.recorders], services.log, request_id, "upstream request", body)


def _record(recorders: list[Recorder], log: Log, request_id: str, point: RecordPoint, data: bytes) -> None:
    """Pass bytes to the recorders. `point`: place of the bytes in the exchange.

    A recorder that raises an exception is removed, because its failure must not affect the client.
    """
    for recorder in [*recorders]:
        try:
            recorder.record(request_id, point, data)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            recorders.remove(recorder)
            log.write_traceback(request_id)
