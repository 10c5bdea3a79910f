"""The steps of one client request, from its body to the last byte of the reply.

`run_exchange` decodes the request, chooses the route and calls the plugins that admit it. `ReplyDelivery` then calls
the providers and sends the reply. Comments number the nine steps; step 1, authentication, is in the server.
"""

import asyncio

from anthropic_proxy.errors import ProxyError, ShuttingDown
from anthropic_proxy.exchange.admission import Admissions
from anthropic_proxy.exchange.client_request import ClientRequest, ResponseSink
from anthropic_proxy.exchange.loop_or_thread import MAX_BYTES_ON_LOOP
from anthropic_proxy.exchange.outcomes import (
    log_internal_error,
    record_client,
    record_failure,
    record_request,
    record_route,
)
from anthropic_proxy.exchange.reply_delivery import ReplyDelivery
from anthropic_proxy.exchange.request_reader import read_client_request
from anthropic_proxy.exchange.route_choice import choose_route, require_decodable
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.services import Services


async def run_exchange(services: Services, incoming: ClientRequest, sink: ResponseSink) -> None:
    """Serve one `POST /v1/messages`. A failure becomes an HTTP status, or an `error` event in a started stream."""
    receipt = Receipt(
        request_id=incoming.request_id, client=incoming.client, started_at=services.clock(), path=incoming.path
    )
    receipt.trace = incoming.trace
    record_client(receipt, incoming.headers)
    sink.attach_receipt(receipt)
    services.receipts.feed.add_running(receipt)
    admissions = Admissions(services, receipt)
    try:
        if len(incoming.body) <= MAX_BYTES_ON_LOOP:  # 2 read
            request, choice = read_client_request(services, incoming)
        else:
            request, choice = await services.background.run_in_thread(read_client_request, services, incoming)
        record_request(receipt, request)
        services.in_progress.set_model(incoming.number, request.model)
        estimates = EstimateCache()
        route = await choose_route(services, incoming, request, estimates, choice)  # 3 route
        record_route(receipt, route)
        require_decodable(request, route)
        for note in route.notes:
            services.log.write_once(note)
        await admissions.admit(incoming, request, route, estimates)  # 4 admit
        delivery = ReplyDelivery(services, incoming, sink, request, receipt, estimates=estimates)
        await delivery.deliver_reply(route)  # 5 to 9
    except ProxyError as error:
        await _refuse(services, receipt, sink, error)
        error.release_tracebacks()
    except asyncio.CancelledError:
        if not receipt.outcome:
            await _refuse(services, receipt, sink, ShuttingDown())
        raise
    except Exception as error:  # noqa: BLE001  # any other exception is a defect of the proxy
        await _refuse(services, receipt, sink, log_internal_error(error, services, incoming.request_id))
    finally:
        receipt.duration_seconds = services.clock() - receipt.started_at
        admissions.settle()
        services.log.write_exchange(receipt)
        services.receipts.queue_exchange_receipt(receipt)


async def _refuse(services: Services, receipt: Receipt, sink: ResponseSink, error: ProxyError) -> None:
    record_failure(receipt, error, services.settings.reveal_proxy_keys())
    await sink.send_error_response(error)
