"""The attributes of users and groups, and the documents of discovery (RFC 7643, sections 4 to 7).

Only attributes are stored that the proxy uses or shows. Others that an identity provider sends are ignored, so that
telephone numbers and postal addresses of people are in no database here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

USER_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:Group"
BASE_PATH = "/scim/v2"
MAX_RESULTS = 200
"""Resources of one response, and the number of resources of one that asks for no number."""
Kind = Literal["User", "Group"]


class Attribute(Struct, frozen=True, kw_only=True):
    """Fields as in RFC 7643, section 7."""

    name: str
    type: Literal["string", "boolean", "complex", "reference"] = "string"
    multi_valued: bool = False
    required: bool = False
    case_exact: bool = False
    mutability: Literal["readWrite", "readOnly", "immutable"] = "readWrite"
    uniqueness: Literal["none", "server"] = "none"
    description: str = ""
    reference_types: tuple[str, ...] = ()
    parts: tuple["Attribute", ...] = ()
    max_values: int = 100

    def find_part(self, name: str) -> "Attribute | None":
        return find_attribute(self.parts, name)

    def encode(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "multiValued": self.multi_valued,
            "description": self.description,
            "required": self.required,
            "mutability": self.mutability,
            "returned": "default",
        }
        if self.type in ("string", "reference"):
            document |= {"caseExact": self.case_exact, "uniqueness": self.uniqueness}
        if self.reference_types:
            document["referenceTypes"] = list(self.reference_types)
        if self.parts:
            document["subAttributes"] = [part.encode() for part in self.parts]
        return document


def find_attribute(attributes: Sequence[Attribute], name: str) -> Attribute | None:
    """Upper and lower case are equal (RFC 7643, section 2.1)."""
    return next((attribute for attribute in attributes if attribute.name.lower() == name.lower()), None)


_TYPE = Attribute(name="type", description="Kind of the value, such as work.")
_DISPLAY = Attribute(name="display", mutability="readOnly", description="Name of the resource.")
EXTERNAL_ID = Attribute(name="externalId", case_exact=True, description="Id at the identity provider.")
ATTRIBUTES: Mapping[Kind, tuple[Attribute, ...]] = {
    "User": (
        Attribute(name="userName", required=True, uniqueness="server", description="Name at the identity provider."),
        Attribute(
            name="name",
            type="complex",
            description="Parts of the name.",
            parts=(
                Attribute(name="formatted", description="Whole name."),
                Attribute(name="familyName", description="Family name."),
                Attribute(name="givenName", description="Given name."),
            ),
        ),
        Attribute(name="displayName", description="Name that lists show."),
        Attribute(name="active", type="boolean", description="False: the person has no access."),
        Attribute(
            name="emails",
            type="complex",
            multi_valued=True,
            description="E-mail addresses.",
            parts=(
                Attribute(name="value", description="Address."),
                _TYPE,
                Attribute(name="primary", type="boolean", description="True for the preferred address."),
            ),
        ),
        Attribute(
            name="groups",
            type="complex",
            multi_valued=True,
            mutability="readOnly",
            description="Groups of the user.",
            parts=(
                Attribute(name="value", mutability="readOnly", description="Id of the group."),
                Attribute(
                    name="$ref",
                    type="reference",
                    mutability="readOnly",
                    reference_types=("Group",),
                    description="Address of the group.",
                ),
                _DISPLAY,
            ),
        ),
    ),
    "Group": (
        Attribute(name="displayName", required=True, uniqueness="server", description="Name of the group."),
        Attribute(
            name="members",
            type="complex",
            multi_valued=True,
            description="Users of the group.",
            max_values=50_000,
            parts=(
                Attribute(name="value", case_exact=True, mutability="immutable", description="Id of the user."),
                Attribute(
                    name="$ref",
                    type="reference",
                    mutability="immutable",
                    reference_types=("User",),
                    description="Address of the user.",
                ),
            ),
        ),
    ),
}
SCHEMAS: Mapping[Kind, str] = {"User": USER_SCHEMA, "Group": GROUP_SCHEMA}
ENDPOINTS: Mapping[Kind, str] = {"User": "/Users", "Group": "/Groups"}
_IGNORED = (
    "nickName profileUrl title userType preferredLanguage locale timezone password phoneNumbers ims photos addresses "
    "entitlements roles x509Certificates schemas id meta"
)
IGNORED_ATTRIBUTES = frozenset(name.lower() for name in _IGNORED.split())
"""Attributes of RFC 7643 that are accepted and not stored, also in a PATCH."""


def list_all_attributes(kind: Kind) -> Sequence[Attribute]:
    return (EXTERNAL_ID, *ATTRIBUTES[kind])


def build_schemas(base: str) -> Sequence[dict[str, Any]]:
    return [
        {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": SCHEMAS[kind],
            "name": kind,
            "description": "A person who may use models." if kind == "User" else "A group of people.",
            "attributes": [attribute.encode() for attribute in ATTRIBUTES[kind]],
            "meta": {"resourceType": "Schema", "location": f"{base}/Schemas/{SCHEMAS[kind]}"},
        }
        for kind in SCHEMAS
    ]


def build_resource_types(base: str) -> Sequence[dict[str, Any]]:
    return [
        {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
            "id": kind,
            "name": kind,
            "endpoint": ENDPOINTS[kind],
            "description": f"{kind}s of this proxy.",
            "schema": SCHEMAS[kind],
            "meta": {"resourceType": "ResourceType", "location": f"{base}/ResourceTypes/{kind}"},
        }
        for kind in SCHEMAS
    ]


def build_provider_config(base: str) -> dict[str, Any]:
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": {"supported": True},
        "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": MAX_RESULTS},
        "changePassword": {"supported": False},
        "sort": {"supported": False},
        "etag": {"supported": True},
        "authenticationSchemes": [
            {
                "type": "oauthbearertoken",
                "name": "Bearer token",
                "description": "One of SCIM_TOKEN, as Authorization: Bearer.",
                "primary": True,
            }
        ],
        "meta": {"resourceType": "ServiceProviderConfig", "location": f"{base}/ServiceProviderConfig"},
    }
