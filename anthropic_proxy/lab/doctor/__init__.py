"""Doctor: a command that sends small requests to the configured providers to find their features and problems.

`select_backends` returns the backends (models of providers) to examine. `run_doctor` examines them and returns a
`Report`. It sends probes to each backend, and each probe tests one feature. `estimate_totals` and `estimate_price`
return the expected cost of the run.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from anthropic_proxy.lab.doctor.backends import select_backends
from anthropic_proxy.lab.doctor.diagnosis import diagnose_backend, must_run
from anthropic_proxy.lab.doctor.dialect_row import find_servers
from anthropic_proxy.lab.doctor.findings import Backend, Diagnosis, ProbeTotals
from anthropic_proxy.lab.doctor.probe_runner import ProbeRunner
from anthropic_proxy.lab.doctor.probes import PROBES
from anthropic_proxy.lab.doctor.report import Report, find_total_price, list_fixes
from anthropic_proxy.ledger.prices import PriceList
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings

__all__ = [
    "Backend",
    "Diagnosis",
    "ProbeTotals",
    "Report",
    "estimate_price",
    "estimate_totals",
    "run_doctor",
    "select_backends",
]

_REQUESTS_BEYOND_PROBES = 4
"""Number of further requests per backend: model list, limits, effort levels and replay of reasoning."""
_TOKENS_PER_REQUEST = 250
"""Tokens of a typical probe, input and output together."""
_OUTPUT_SHARE = 0.3
"""Share of output tokens in all tokens of a typical probe (0 to 1)."""
_SEARCH_FACTOR = 1.6
"""Average number of requests for one probe of a server with an unknown dialect: rejected requests are changed and
repeated."""


def estimate_totals(backends: Sequence[Backend]) -> ProbeTotals:
    """Return the expected number of requests and tokens of `run_doctor` for `backends`."""
    requests = 0
    for backend in backends:
        probes = [probe for probe in PROBES if must_run(probe, backend)]
        further = 0 if backend.target.provider.transport == "demo" else _REQUESTS_BEYOND_PROBES
        requests += round((len(probes) + further) * (_SEARCH_FACTOR if backend.searches_dialect else 1))
    return ProbeTotals(requests=requests, input_tokens=requests * _TOKENS_PER_REQUEST)


def estimate_price(backends: Sequence[Backend], settings: Settings) -> float | None:
    """Return the expected price of `run_doctor` for `backends` in US dollars. None: a price is unknown."""
    prices, total = PriceList(settings), 0.0
    for backend in backends:
        target = backend.target
        if target.provider.uses_installed_models or target.provider.transport == "demo":
            continue
        if (price := prices.find(target.provider, target.model)) is None:
            return None
        tokens = estimate_totals([backend]).input_tokens / 1_000_000
        total += tokens * (float(price.base.input) * (1 - _OUTPUT_SHARE) + float(price.base.output) * _OUTPUT_SHARE)
    return total


async def run_doctor(
    services: Services,
    backends: Sequence[Backend],
    on_change: Callable[[Sequence[Diagnosis]], None] = lambda diagnoses: None,
) -> Report:
    """Send all probes (small requests) to `backends`, and return the report.

    `on_change` is called with all results so far, at the start and after each probe.
    """
    started = time.monotonic()
    diagnoses = [Diagnosis(backend=backend, outcomes={}) for backend in backends]
    on_change(diagnoses)
    async with asyncio.TaskGroup() as group:
        for diagnosis in diagnoses:
            runner = ProbeRunner(services, diagnosis.totals)
            group.create_task(diagnose_backend(runner, diagnosis, services.settings, lambda: on_change(diagnoses)))
    return Report(
        diagnoses=diagnoses,
        fixes=list_fixes(diagnoses, services.settings),
        servers=find_servers(diagnoses, services.settings),
        seconds=time.monotonic() - started,
        price=find_total_price(diagnoses, services.settings),
    )
