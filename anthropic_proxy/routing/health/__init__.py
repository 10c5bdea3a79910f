"""Protection of providers: circuit breakers, retry budgets, and a queue that limits concurrent calls."""

from anthropic_proxy.routing.health.circuit_breakers import CircuitBreakers, RetryBudget
from anthropic_proxy.routing.health.fair_queue import FairQueue, slots_per_worker

__all__ = ["CircuitBreakers", "FairQueue", "RetryBudget", "slots_per_worker"]
