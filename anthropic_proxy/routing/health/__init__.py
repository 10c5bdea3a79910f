"""Protection of providers: circuit breakers, retry budgets, and a queue that limits concurrent calls."""

from anthropic_proxy.routing.health.circuit_breakers import CircuitBreakers
from anthropic_proxy.routing.health.fair_queue import FairQueue, slots_per_worker
from anthropic_proxy.routing.health.retry_budget import RetryBudget

__all__ = ["CircuitBreakers", "FairQueue", "RetryBudget", "slots_per_worker"]
