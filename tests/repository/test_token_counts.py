"""The constants of the token estimate are those that fit the recorded counts. Fitting them takes many seconds."""

from anthropic_proxy.engine.providers.token_families import FAMILIES
from bench.token_counts import PAGE, error_tables, fit_families, join_estimates, list_errors, read_table


def test_constants_and_documented_errors_are_those_that_the_recorded_counts_give() -> None:
    rows = read_table()
    fitted = fit_families(rows)
    assert {fit.family.name: fit.family for fit in fitted} == FAMILIES, "python -m bench.token_counts"
    tables = error_tables(list_errors(rows, join_estimates(fitted)))
    assert tables in PAGE.read_text("utf-8"), "python -m bench.token_counts"
