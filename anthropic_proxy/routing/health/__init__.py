"""Circuit breakers, retry budget and the queue of upstream calls."""

from anthropic_proxy.routing.health.circuit_breakers import CircuitBreakers
from anthropic_proxy.routing.health.fair_queue import FairQueue, worker_share
from anthropic_proxy.routing.health.retry_budget import RetryBudget

__all__ = ["CircuitBreakers", "FairQueue", "RetryBudget", "worker_share"]
