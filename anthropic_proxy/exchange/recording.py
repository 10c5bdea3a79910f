"""`start_recording` and `record_upstream_request`: pass the bytes of requests and replies to recorders of plugins.

A recorder stores these bytes, for example for debugging.
"""

from collections.abc import Callable
from functools import partial

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.log import Log
from anthropic_proxy.plugins import Recorder, RecordPoint
from anthropic_proxy.services import Services


def start_recording(services: Services, request: ClientRequest) -> Callable[[bytes], None]:
    """Pass the body of a client request to the recorders of plugins, which store it.

    The returned function passes one piece of the response to the recorders.
    """
    recorders = [*services.recorders]
    _record(recorders, services.log, request.request_id, "client request", request.body)
    return partial(_record, recorders, services.log, request.request_id, "client response")


def record_upstream_request(services: Services, request_id: str, body: bytes) -> None:
    """Pass the body of an upstream request to the recorders of plugins. `request_id`: id of the client request."""
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
