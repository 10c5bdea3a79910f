"""Step 2: a request, read as far as those who may serve it need."""

from anthropic_proxy.errors import ClientError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.messages.prepare import kinds_of
from anthropic_proxy.messages.types import MessagesRequest, guess_model, read_request, skim_request
from anthropic_proxy.routing.router import Facts


def read(house: House, body: bytes) -> MessagesRequest:
    """Return a request; one that only relays can serve, whose bytes pass, is but skimmed. Raises as `read_request`.

    Where the model stands in the middle, as clients write it that sort their fields, only a house that has relayed
    before looks for it.
    """
    model = guess_model(body)
    if _is_relayed(house, Facts(model)) if model else house.routes.some_relayed:
        skimmed = skim_request(body)
        if skimmed is not None and _is_relayed(house, facts_of(skimmed)):
            return skimmed
    return read_request(body)


def facts_of(request: MessagesRequest) -> Facts:
    """Return what routing may know of a request."""
    return Facts(request.model, kinds_of(request.tools))


def _is_relayed(house: House, facts: Facts) -> bool:
    try:
        return house.routes.find(facts, house.settings, house.catalogue).relayed
    except ClientError:
        return False
