"""Each table of the ledger's database is tested with two owners, two writers and two instances, or says why not.

A fault in a row of one person, in a second writer or at a second instance passes tests with one of each.
"""

import re
from typing import NamedTuple

import pytest

from anthropic_proxy.console.ledger.schema import TABLES
from tests.support.paths import ROOT


class Proof(NamedTuple):
    """Each field: a test as `file::function` below `tests/`, or `- ` and the reason why there is none."""

    owners: str
    """What one person, key or destination has is neither shown to another one nor changed by it."""
    writers: str
    """Two writers at the same time lose nothing and store nothing twice."""
    instances: str
    """An instance acts by what another one has written."""


READING = "unit/ledger/test_read_access.py::test_no_query_returns_a_row_of_somebody_else"
SHARED = "unit/ledger/test_database.py::test_two_instances_share_a_database"
KEYS = "unit/access/test_administration.py::test_a_change_of_a_key_that_another_administrator_changed_is_rejected"
REVOKED = "unit/access/test_life.py::test_all_instances_of_a_database_refuse_a_revoked_person"
SCIM = "unit/scim/test_people.py::test_instances_that_change_a_group_or_create_a_user_at_the_same_time_lose_nothing"
LEAVING = "unit/scim/test_people.py::test_who_leaves_a_group_gets_the_table_of_the_next_one_at_once"
EVENTS = (
    "unit/ledger/test_event_push.py::"
    "test_what_a_destination_has_rejected_concerns_no_other_one_and_is_sent_by_one_process"
)
LIMITS = "databases/test_budgets.py::test_four_processes_never_reserve_more_than_a_budget"
ACTIVITY = "unit/ledger/test_activity.py::test_a_number_counts_once_in_any_order_and_at_any_instance"
OF_ALL = "- its rows belong to no person: only administrators read them"
PROOFS = {
    "requests": Proof(READING, SHARED, SHARED),
    "hourly": Proof(READING, SHARED, SHARED),
    "session_hours": Proof(READING, SHARED, SHARED),
    "contents": Proof(
        "unit/ledger/test_read_access.py::test_an_owner_reads_no_text_that_others_sent_with_the_key",
        "unit/ledger/test_contents.py::test_texts_are_stored_with_their_row_and_only_once",
        "- the instance that served a request stores its texts, with its row",
    ),
    "session_titles": Proof(
        READING,
        "unit/ledger/test_contents.py::test_the_latest_title_of_a_session_stays_if_an_earlier_one_is_stored_later",
        "unit/ledger/test_contents.py::test_the_latest_title_of_a_session_stays_if_an_earlier_one_is_stored_later",
    ),
    "virtual_keys": Proof("unit/access/test_rights.py::test_a_team_admin_takes_no_key_of_another_owner", KEYS, REVOKED),
    "key_hashes": Proof(
        "unit/access/test_rights.py::test_a_person_gets_a_bounded_number_of_texts_each_day",
        "- a text is random, and its row is inserted once",
        REVOKED,
    ),
    "teams": Proof(
        "unit/access/test_rights.py::test_a_team_admin_manages_the_own_teams",
        "- a row is replaced as a whole within the lock of all changes of keys, which the row `virtual_keys` tests",
        "processes/test_virtual_keys.py::test_clients_of_all_workers_share_a_budget_and_a_revocation",
    ),
    "audit_log": Proof(OF_ALL, "unit/access/test_people.py::test_sign_ins_at_the_same_time_make_one_person", EVENTS),
    "budget_alerts": Proof(
        "unit/access/test_alerts.py::test_other_amounts_and_periods_have_reports_of_their_own",
        "unit/access/test_alerts.py::test_each_share_is_reported_once_by_all_instances_and_after_a_restart",
        "unit/access/test_alerts.py::test_a_report_of_a_process_that_was_killed_is_sent_by_another_one",
    ),
    "verdict_log": Proof(
        "unit/ledger/test_event_push.py::test_each_destination_gets_each_verdict_once_while_accepted_ones_are_deleted",
        "databases/test_siem_instances.py::test_four_servers_lose_no_event_of_an_hour_without_the_endpoints",
        "databases/test_siem_instances.py::test_four_servers_lose_no_event_of_an_hour_without_the_endpoints",
    ),
    "event_cursors": Proof(
        EVENTS,
        EVENTS,
        "unit/ledger/test_event_push.py::test_a_process_whose_claim_has_ended_does_not_move_the_place_back",
    ),
    "parked_events": Proof(EVENTS, EVENTS, EVENTS),
    "former_labels": Proof(
        "unit/access/test_administration.py::test_a_label_that_another_key_had_is_not_used_again",
        KEYS,
        "unit/access/test_people.py::test_a_name_is_given_once",
    ),
    "sign_ins": Proof(
        "unit/access/test_people.py::test_a_sign_in_of_another_person_than_its_key_is_not_accepted",
        "unit/access/test_people.py::test_sign_ins_at_the_same_time_make_one_person",
        "processes/test_company_instances.py::test_instances_ask_the_provider_once_for_refreshes_at_the_same_time",
    ),
    "people": Proof(
        "unit/access/test_people.py::test_a_name_is_given_once",
        "unit/gateway_protocol/test_grants.py::test_the_newest_answer_of_the_provider_counts_for_all_devices",
        "processes/test_company_instances.py::test_instances_ask_the_provider_once_for_refreshes_at_the_same_time",
    ),
    "device_codes": Proof(
        "unit/dashboard/test_approval.py::test_two_devices_are_approved_in_two_tabs_of_a_browser",
        "unit/gateway_protocol/test_grants.py::test_instances_that_redeem_a_code_at_the_same_time_give_one_sign_in",
        "unit/gateway_protocol/test_grants.py::test_instances_that_redeem_a_code_at_the_same_time_give_one_sign_in",
    ),
    "scim_users": Proof(
        "unit/scim/test_people.py::test_a_deactivation_ends_each_device_for_good",
        SCIM,
        "processes/test_scim.py::test_a_deactivated_person_has_no_access_at_all_instances_until_the_reactivation",
    ),
    "scim_groups": Proof(
        LEAVING, SCIM, "processes/test_scim.py::test_a_group_of_scim_decides_about_team_role_and_access"
    ),
    "scim_members": Proof(LEAVING, SCIM, SCIM),
    "pending_tables": Proof(
        "- its rows have only ids of keys, and are never returned",
        "unit/scim/test_people.py::test_one_instance_applies_tables_at_a_time",
        "unit/scim/test_people.py::test_another_instance_applies_the_tables_that_one_has_left",
    ),
    "instances": Proof(
        OF_ALL,
        "- each server writes its own row",
        "databases/test_instances.py::test_several_servers_without_redis_are_a_problem_until_one_is_left",
    ),
    "limit_counters": Proof(
        "- the store knows no owners: a counter is its name, and each scope of keys has its own",
        LIMITS,
        "databases/test_budgets.py::test_four_servers_do_not_exceed_a_budget_in_dollars_by_more_than_running_requests",
    ),
    "limit_holds": Proof(
        "- as `limit_counters`",
        LIMITS,
        "databases/test_budgets.py::test_the_amounts_of_a_killed_process_end_by_the_clock_of_the_database",
    ),
    "shared_values": Proof(
        "unit/exchange/test_hidden_thinking.py::test_a_kept_state_belongs_to_the_client_that_got_the_call",
        "unit/stores/test_own_keys.py::test_processes_that_share_values_have_the_same_keys",
        "databases/test_budgets.py::test_a_session_of_the_dashboard_is_one_of_all_servers",
    ),
    "session_models": Proof(
        "processes/test_session_models.py::test_a_key_chooses_for_its_own_sessions_and_among_its_own_models",
        "- a choice replaces the one before, whoever made it",
        "processes/test_session_models.py::test_a_choice_outlasts_the_proxy_and_reaches_another_server",
    ),
    "activity": Proof(
        "unit/ledger/test_activity.py::test_work_is_read_by_its_owner_and_team_at_its_time", ACTIVITY, ACTIVITY
    ),
    "activity_points": Proof(
        "unit/ledger/test_activity.py::test_of_the_numbers_of_each_client_the_newest_are_kept", ACTIVITY, ACTIVITY
    ),
}


def test_each_table_is_in_the_list() -> None:
    assert sorted(PROOFS) == sorted(table.name for table in TABLES)


@pytest.mark.parametrize("table", PROOFS)
def test_the_tests_of_a_table_exist(table: str) -> None:
    for proof in PROOFS[table]:
        if not proof.startswith("- "):
            file, _, function = proof.partition("::")
            assert re.search(rf"^(?:async )?def {function}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M), proof
