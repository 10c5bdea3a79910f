"""Findings of the doctor that hold now. Of the same provider and model, later requests of clients know more."""

from collections.abc import Sequence

from sqlalchemy import Connection

from anthropic_proxy.console.doctor.fixes import FailedCall, Fix
from anthropic_proxy.console.doctor.stored_runs import find_known_run
from anthropic_proxy.console.ledger.failures import ErrorGroup, find_last_success
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings


def list_open_fixes(connection: Connection, settings: Settings, failures: Sequence[ErrorGroup]) -> list[Fix]:
    """Return what the latest complete run found with the present settings, without failed calls that a later reply
    contradicts, or that are among `failures`, which are not solved.
    """
    run = find_known_run(settings)
    end = round(run.ended_at * MICROSECONDS)

    def has_passed(failed: FailedCall) -> bool:
        return find_last_success(connection, end, failed.provider, failed.model) > 0 or any(
            _is_same(failed, end, failure) for failure in failures
        )

    return [fix for fix in run.fixes if not fix.failed or not all(map(has_passed, fix.failed))]


def _is_same(failed: FailedCall, end: int, failure: ErrorGroup) -> bool:
    if failure.provider != failed.provider or (failed.model and failed.model not in failure.models):
        return False
    is_later = failure.last_at > end and failure.concerns_model == bool(failed.model)
    return is_later or failure.error_code == failed.error_code
