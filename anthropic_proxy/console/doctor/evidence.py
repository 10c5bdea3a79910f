"""What requests and runs of the doctor show together. Of one provider and model, the later one knows more."""

from collections.abc import Sequence

from sqlalchemy import Connection

from anthropic_proxy.console.doctor.fixes import FailedCall, Fix
from anthropic_proxy.console.doctor.stored_runs import find_known_run
from anthropic_proxy.console.ledger.failures import ErrorGroup, find_last_success
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings


class Evidence:
    """The stored requests, and the latest complete run with the present settings."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._run = find_known_run(settings)

    def find_reply(self, since: int, provider: str, model: str = "") -> int:
        """Return as `find_last_success`, also for a reply to the doctor, which counts as of the start of its run."""
        start = round(self._run.started_at * MICROSECONDS)
        has_replied = start > since and any(
            column.has_replied and column.provider == provider and model in ("", column.model)
            for column in self._run.columns
        )
        return max(find_last_success(self._connection, since, provider, model), start if has_replied else 0)

    def list_open_fixes(self, failures: Sequence[ErrorGroup]) -> list[Fix]:
        """Return what the run found, without failed calls that a later reply contradicts, or that are among `failures`,
        which are not solved.
        """
        end = round(self._run.ended_at * MICROSECONDS)

        def has_passed(failed: FailedCall) -> bool:
            return find_last_success(self._connection, end, failed.provider, failed.model) > 0 or any(
                _is_same(failed, end, failure) for failure in failures
            )

        return [fix for fix in self._run.fixes if not fix.failed or not all(map(has_passed, fix.failed))]


def _is_same(failed: FailedCall, end: int, failure: ErrorGroup) -> bool:
    if failure.provider != failed.provider or (failed.model and failed.model not in failure.models):
        return False
    is_later = failure.last_at > end and failure.concerns_model == bool(failed.model)
    return is_later or failure.error_code == failed.error_code
