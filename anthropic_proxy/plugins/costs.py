"""`Cost`: the costs of one finished client request, in nano-dollars (10⁻⁹ US dollars)."""

from msgspec import Struct


class Cost(Struct, frozen=True):
    """Two costs of one request: at the price of the used model, and at the price of the model the client requested."""

    cost: int | None
    """Cost in nano-dollars of tokens and searches at the price of the used model. None: a price is unknown."""
    requested_cost: int | None
    """Cost in nano-dollars of the same tokens and searches at Claude's list price of the requested model, in the normal
    service tier. None: unknown."""
    source: str
    """Origin of the price of the used model, such as `genai-prices 0.2.3`, or `local` for a free model.

    Service tier and number of searches follow: `genai-prices 0.2.3, tier flex, 2 web searches`. If only a part of the
    price is unknown, the text names it: `genai-prices 0.2.3, no price of web searches`. "": the model has no price.
    """
