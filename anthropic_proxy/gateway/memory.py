"""The memory that the deployment states, and the part of each worker (`engine/memory_plan.py`)."""

from msgspec import structs

from anthropic_proxy.engine.memory_plan import DEFAULT_BYTES, MIB, MemoryPlan, divide_memory, find_supervisor_bytes
from anthropic_proxy.gateway.platforms.memory import find_machine_memory, find_memory_limit
from anthropic_proxy.gateway.settings import Settings


def plan_memory(settings: Settings, worker_count: int = 1) -> MemoryPlan:
    """Return the plan of each worker."""
    return _divide(_find_total_bytes(settings, worker_count), settings, worker_count)


def _divide(total: int, settings: Settings, worker_count: int) -> MemoryPlan:
    plan = divide_memory(total, worker_count)
    megabytes = settings.max_body_memory_mb
    return plan if megabytes is None else structs.replace(plan, body_bytes=megabytes * MIB)


def describe_small_memory(settings: Settings, worker_count: int = 1) -> str:
    """Return a warning if the bounds of all parts together are above the memory. "": they are not."""
    total = _find_total_bytes(settings, worker_count)
    needed = worker_count * _divide(total, settings, worker_count).sum_bytes() + find_supervisor_bytes(worker_count)
    if needed <= total:
        return ""
    remedy = "Raise the limit" if worker_count == 1 else "Raise the limit, or use fewer workers"
    if settings.max_body_memory_mb is not None:
        remedy = f"{remedy}, or lower MAX_BODY_MEMORY_MB={settings.max_body_memory_mb}"
    return (
        f"The memory is limited to {total // MIB} MB (MEMORY_LIMIT_MB), but large requests, PDFs and pages may need "
        f"{needed // MIB} MB, so that the system could end the proxy. {remedy}."
    )


def _find_total_bytes(settings: Settings, worker_count: int) -> int:
    if settings.memory_limit_mb is not None:
        return settings.memory_limit_mb * MIB
    if (limit := find_memory_limit()) is not None:
        return limit
    return min(DEFAULT_BYTES * worker_count, find_machine_memory() or DEFAULT_BYTES * worker_count)
