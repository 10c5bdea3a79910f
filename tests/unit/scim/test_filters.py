"""Filters and paths, as identity providers send them."""

import pytest

from anthropic_proxy.console.scim.errors import ScimError
from anthropic_proxy.console.scim.filters import decode_filter, decode_path

ANN = {
    "id": "1",
    "userName": "Ann@example.org",
    "externalId": "A1",
    "active": True,
    "name": {"familyName": "Lee"},
    "emails": [{"value": "ann@example.org", "type": "work", "primary": True}, {"value": "a@home.org", "type": "home"}],
    "meta": {"lastModified": "2026-11-29T08:00:00.000Z"},
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('userName eq "ann@EXAMPLE.org"', True),
        ('USERNAME Eq "ann@example.org"', True),
        ('urn:ietf:params:scim:schemas:core:2.0:User:userName eq "ann@example.org"', True),
        ('userName eq "bob"', False),
        ('externalId eq "A1"', True),
        ('externalId eq "a1"', False),
        ("active eq true", True),
        ('active eq "True"', True),
        ("active eq false", False),
        ('userName sw "ann" and name.familyName co "EE"', True),
        ('userName ew "x" or emails.value eq "a@home.org"', True),
        ('emails eq "a@home.org"', True),
        ('emails[type eq "home" and value sw "a@"]', True),
        ('emails[type eq "home" and primary eq true]', False),
        ('not (userName eq "bob") and (active eq true or displayName pr)', True),
        ("displayName pr", False),
        ('userName ne "bob"', True),
        ('emails[type eq "home"].value eq "A@home.org"', True),
        ('emails[type eq "work"].value eq "a@home.org"', False),
        ('emails[type eq "work"].value ne "a@home.org"', True),
        ('active eq true and emails[type eq "home"].value pr', True),
        ('emails[type eq "other"].value pr', False),
        ('meta.lastModified gt "2026-11-28T00:00:00Z"', True),
        ('meta.lastModified ge "2026-11-29T08:00:00Z"', True),
        ('meta.lastModified lt "2026-11-29T08:00:00.001Z"', True),
        ('meta.lastModified eq "2026-11-29T09:00:00+01:00"', True),
        ('meta.lastModified sw "2026-11-29"', True),
        ('meta.lastModified co "T07"', False),
        (r'userName eq "a\"b"', False),
    ],
)
def test_a_filter_matches(text: str, *, matches: bool) -> None:
    assert decode_filter(text, "User").matches(ANN) == matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("password eq 1", "The filter has the attribute 'password', which this resource does not have."),
        ('userName is "a"', "The filter has the operator 'is'. Use eq, ne, co, sw, ew, gt, ge, lt, le, pr."),
        ("userName eq ann", "The filter has the value 'ann'. Use a text such as \"ann\"."),
        ("active gt true", "The filter has the operator 'gt' for active, which is true or false. Use eq, ne, pr."),
        ('meta.created gt "today"', "The filter has the value 'today'. Use a time such as \"2026-12-01T08:00:00Z\"."),
        ('emails[type eq "work"].phone eq "1"', "The filter has '.phone' in place of an attribute of emails."),
        ('userName eq "a" b', "The filter has 'b' after its end."),
        ('(userName eq "a"', "The filter has '' in place of ')'."),
        ('userName eq "a', "The filter cannot be read at ' \"a'."),
        (" or ".join(["active pr"] * 51), "The filter is too large: at most 50 comparisons and 10 levels are allowed."),
        ("(" * 300, "The filter is too large: at most 50 comparisons and 10 levels are allowed."),
        ("x" * 5_000, "The filter has 5,000 characters; 4,000 are allowed."),
    ],
)
def test_a_wrong_filter_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScimError) as raised:
        decode_filter(text, "User")
    assert (raised.value.detail, raised.value.scim_type, raised.value.status) == (message, "invalidFilter", 400)


def test_a_path_that_is_not_stored_is_ignored_and_an_unknown_one_refused() -> None:
    assert decode_path('phoneNumbers[type eq "work"].value', "User") is None
    assert decode_path("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", "User") is None
    with pytest.raises(ScimError) as raised:
        decode_path("salary", "User")
    assert raised.value.encode() == {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": "400",
        "scimType": "invalidPath",
        "detail": "The path 'salary' is not one of this resource.",
    }
