"""How the upstreams fare: whom to leave alone for a while, how often to repeat, who waits for whom."""

from anthropic_proxy.routing.health.breakers import Breakers
from anthropic_proxy.routing.health.budget import RepeatBudget
from anthropic_proxy.routing.health.queue import Queue, portion_of

__all__ = ["Breakers", "Queue", "RepeatBudget", "portion_of"]
