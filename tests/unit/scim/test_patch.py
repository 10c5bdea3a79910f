"""PATCH, in the forms of Microsoft Entra ID, Okta and RFC 7644."""

from typing import Any

import pytest

from anthropic_proxy.console.scim.errors import ScimError
from anthropic_proxy.console.scim.resources import Patch, decode_resource, list_names, project
from anthropic_proxy.console.scim.schema import ENTERPRISE_SCHEMA, USER_SCHEMA

ANN: dict[str, Any] = {"userName": "ann", "active": True, "emails": [{"value": "a@example.org", "type": "work"}]}
TEAM: dict[str, Any] = {"displayName": "team", "members": [{"value": "1"}, {"value": "2"}]}


def patch(resource: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
    return Patch("Group" if "displayName" in resource else "User", resource).apply({"Operations": list(operations)})


@pytest.mark.parametrize(
    ("operation", "changed"),
    [
        ({"op": "Replace", "path": "active", "value": "False"}, {"active": False}),
        ({"op": "replace", "value": {"active": False}}, {"active": False}),
        ({"op": "replace", "value": {"name.givenName": "Ann", "title": "x"}}, {"name": {"givenName": "Ann"}}),
        ({"op": "Add", "path": "name.familyName", "value": "Lee"}, {"name": {"familyName": "Lee"}}),
        (
            {"op": "Replace", "path": 'emails[type eq "work"].value', "value": "b@example.org"},
            {"emails": [{"type": "work", "value": "b@example.org"}]},
        ),
        (
            {"op": "Add", "path": 'emails[type eq "home"].value', "value": "h@example.org"},
            {"emails": [*ANN["emails"], {"type": "home", "value": "h@example.org"}]},
        ),
        ({"op": "add", "path": "emails", "value": ANN["emails"]}, {}),
        ({"op": "Add", "path": 'phoneNumbers[type eq "work"].value', "value": "1"}, {}),
        (
            {"op": "replace", "path": "urn:ietf:params:scim:schemas:core:2.0:User:userName", "value": "b"},
            {"userName": "b"},
        ),
        *(
            ({"op": "add", **operation}, {"enterprise": {"costCenter": "4711"}})
            for operation in (
                {"path": f"{ENTERPRISE_SCHEMA}:costCenter", "value": "4711"},
                {"path": ENTERPRISE_SCHEMA, "value": {"costCenter": "4711", "department": "Shop"}},
                {"value": {f"{ENTERPRISE_SCHEMA}:costCenter": "4711"}},
                {"value": {ENTERPRISE_SCHEMA: {"CostCenter": "4711", "manager": {"value": "1"}}}},
            )
        ),
        ({"op": "add", "path": f"{ENTERPRISE_SCHEMA}:manager.value", "value": "1"}, {}),
        ({"op": "add", "path": f"{ENTERPRISE_SCHEMA}:building", "value": "1"}, {}),
        ({"op": "Remove", "path": f'{ENTERPRISE_SCHEMA}:manager[value eq "1"]'}, {}),
        (  # a key of a value without a path adds what is missing, as Microsoft Entra ID expects
            {"op": "Replace", "value": {'emails[type eq "home"].value': "h@example.org", "active": "False"}},
            {"emails": [*ANN["emails"], {"type": "home", "value": "h@example.org"}], "active": False},
        ),
    ],
)
def test_an_operation_changes_a_user(operation: dict[str, Any], changed: dict[str, Any]) -> None:
    assert patch(ANN, operation) == {**ANN, **changed}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "name", "value": {"givenName": "Eve"}},
        {"op": "replace", "value": {"name": {"givenName": "Eve"}}},
        {"op": "add", "path": "name", "value": {"givenName": "Eve"}},
    ],
)
def test_the_parts_of_a_name_that_an_operation_leaves_out_stay(operation: dict[str, Any]) -> None:
    named = {**ANN, "name": {"givenName": "Ann", "familyName": "Lee"}}
    assert patch(named, operation) == {**ANN, "name": {"givenName": "Eve", "familyName": "Lee"}}


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ({"op": "Add", "path": "members", "value": [{"value": "3"}, {"value": "1"}]}, "123"),
        ({"op": "Remove", "path": 'members[value eq "1"]'}, "2"),
        ({"op": "Remove", "path": "members", "value": [{"value": "2"}]}, "1"),
        ({"op": "remove", "path": "members"}, ""),
        ({"op": "replace", "path": "members", "value": {"value": "9"}}, "9"),
        ({"op": "replace", "value": {"id": "x", "displayName": "team"}}, "12"),
    ],
)
def test_an_operation_changes_the_members(operation: dict[str, Any], members: str) -> None:
    assert [item["value"] for item in patch(TEAM, operation).get("members", ())] == list(members)


@pytest.mark.parametrize(
    ("operation", "kind", "message"),
    [
        ({"op": "set"}, "invalidSyntax", "op is 'set'. Use add, replace or remove."),
        ({"op": "remove"}, "noTarget", "An operation remove has no path."),
        ({"op": "remove", "path": "userName"}, "invalidValue", "userName is required."),
        ({"op": "replace", "path": "active", "value": "no"}, "invalidValue", "active is 'no'. Use true or false."),
        ({"op": "add", "path": "groups", "value": []}, "mutability", "groups is read-only."),
        (
            {"op": "replace", "path": 'emails[type eq "x"].value', "value": "b"},
            "noTarget",
            "No value of emails matches the path.",
        ),
        (
            {"op": "replace", "path": "userName", "value": "a\0"},
            "invalidValue",
            "userName contains a character that no text has.",
        ),
    ],
)
def test_a_wrong_operation_is_refused(operation: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(ScimError) as raised:
        patch(ANN, operation)
    assert (raised.value.scim_type, raised.value.detail) == (kind, message)


def test_the_work_of_a_patch_is_bounded() -> None:
    members = [{"op": "add", "path": "members", "value": [str(number) for number in range(40_000)]}] * 5
    assert len(patch(TEAM, *members[:4])["members"]) == 40_000
    with pytest.raises(ScimError, match="compare too many values"):
        patch(TEAM, *members)
    large = {**TEAM, "members": [{"value": str(number)} for number in range(5_000)]}
    removals = [{"op": "remove", "path": f'members[value eq "{number}"]'} for number in range(1_000)]
    assert len(patch(large, *removals)["members"]) == 4_000
    searches = [{"op": "remove", "path": f'members[value sw "x{number}"]'} for number in range(1_000)]
    with pytest.raises(ScimError, match="compare too many values"):
        patch(large, *searches)


TERMS = " or ".join(['value co "x"'] * 49)


class Uncomparable(str):
    """A value of an item that is stored. Each comparison is work that was to be refused before."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def lower(self) -> str:
        raise AssertionError("compared")


@pytest.mark.parametrize(
    ("resource", "operation", "message"),
    [
        (
            {**ANN, "emails": [{"value": Uncomparable(number)} for number in range(5_000)]},
            {"op": "remove", "path": f"emails[{TERMS}]"},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            {**TEAM, "members": [{"value": Uncomparable(number)} for number in range(5_000)]},
            {"op": "remove", "path": f"members[{TERMS}]"},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            {**ANN, "emails": [{"value": Uncomparable(number)} for number in range(5_000)]},
            {"op": "add", "path": "emails", "value": [{"value": f"{number}"} for number in range(50)]},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            {**ANN, "emails": [{"value": Uncomparable(number)} for number in range(5_000)]},
            {"op": "remove", "path": "emails", "value": [{"value": f"{number}"} for number in range(50)]},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            TEAM,
            {"op": "add", "path": "members", "value": [1] * 200_001},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            ANN,
            {"op": "add", "value": {f"urn:x:{number}": 1 for number in range(40_000)}},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            ANN,
            {"op": "add", "value": {"urn:x": {f"{number}": 1 for number in range(40_000)}}},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            ANN,
            {"op": "remove", "path": f"{'(' * 800_000}"},
            "The operations compare too many values. Send them in several requests.",
        ),
        (
            {**ANN, "emails": [{"value": str(number)} for number in range(90)]},
            {"op": "add", "path": "emails", "value": [{"value": f"new {number}"} for number in range(11)]},
            "emails has 101 values; 100 are allowed.",
        ),
    ],
)
def test_the_work_of_an_operation_is_refused_before_it_is_done(
    resource: dict[str, Any], operation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScimError) as refused:
        patch(resource, operation)
    assert (refused.value.scim_type, refused.value.detail) == ("tooMany", message)


def test_a_resource_keeps_what_is_used_and_one_primary_address() -> None:
    given = {
        "USERNAME": "ann",
        "password": "secret",
        "phoneNumbers": [{"value": "1"}],
        "emails": [{"value": "a@x.org", "primary": "True"}, {"value": "b@x.org", "primary": True}],
        ENTERPRISE_SCHEMA: {"costCenter": "4711", "division": "North"},
    }
    emails = [{"value": "a@x.org", "primary": True}, {"value": "b@x.org", "primary": False}]
    assert decode_resource("User", given) == {
        "userName": "ann",
        "emails": emails,
        "enterprise": {"costCenter": "4711"},
    }


def test_a_response_has_the_attributes_that_were_asked_for() -> None:
    document = {"schemas": [], "id": "1", "userName": "ann", "name": {"familyName": "Lee", "givenName": "Ann"}}
    assert project(document, list_names("name.givenName", "User"), frozenset()) == {
        "schemas": [],
        "id": "1",
        "name": {"givenName": "Ann"},
    }
    assert project(document, frozenset(), list_names("id,userName,name.givenName", "User")) == {
        "schemas": [],
        "id": "1",
        "name": {"familyName": "Lee"},
    }
    extended = {"schemas": [USER_SCHEMA], "id": "1", "userName": "ann", "enterprise": {"costCenter": "4711"}}
    shown = {"schemas": [USER_SCHEMA, ENTERPRISE_SCHEMA], "id": "1", ENTERPRISE_SCHEMA: {"costCenter": "4711"}}
    assert project(extended, list_names(f"{ENTERPRISE_SCHEMA}:costCenter", "User"), frozenset()) == shown
    assert project(extended, list_names(ENTERPRISE_SCHEMA, "User"), frozenset()) == shown
    assert project(extended, frozenset(), list_names(ENTERPRISE_SCHEMA, "User")) == {
        "schemas": [USER_SCHEMA],
        "id": "1",
        "userName": "ann",
    }
