"""The attributes of users and groups, and the documents of discovery (RFC 7643, sections 4 to 7).

The schemas have all attributes of RFC 7643, because clients build their requests from them. Only those are stored that
the proxy uses or shows. The others are accepted and dropped, so that telephone numbers and postal addresses of people
are in no database here: to clients, they can be written and are never returned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, structs

from anthropic_proxy.console.scim.paths import ENDPOINTS, Kind

USER_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE_SCHEMA = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
ENTERPRISE = "enterprise"
"""Name of the attribute that stands for the extension with this schema. Its parts are those of the extension."""
MAX_RESULTS = 200
"""Resources of one response, and the number of resources of one that asks for no number."""


class Attribute(Struct, frozen=True, kw_only=True):
    """Fields as in RFC 7643, section 7."""

    name: str
    type: Literal["string", "boolean", "dateTime", "complex", "reference", "binary"] = "string"
    multi_valued: bool = False
    required: bool = False
    case_exact: bool = False
    mutability: Literal["readWrite", "readOnly", "immutable", "writeOnly"] = "readWrite"
    returned: Literal["default", "never"] = "default"
    uniqueness: Literal["none", "server"] = "none"
    description: str = ""
    canonical_values: tuple[str, ...] = ()
    reference_types: tuple[str, ...] = ()
    parts: tuple["Attribute", ...] = ()
    max_values: int = 100
    is_stored: bool = True
    """False: a value that a client sends is dropped."""

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
            "returned": self.returned,
        }
        if self.canonical_values:
            document["canonicalValues"] = list(self.canonical_values)
        if self.type in ("string", "reference", "binary"):
            document |= {"caseExact": self.case_exact, "uniqueness": self.uniqueness}
        if self.reference_types:
            document["referenceTypes"] = list(self.reference_types)
        if self.parts:
            document["subAttributes"] = [part.encode() for part in self.parts]
        return document


def find_attribute(attributes: Sequence[Attribute], name: str) -> Attribute | None:
    """Upper and lower case are equal (RFC 7643, section 2.1)."""
    return next((attribute for attribute in attributes if attribute.name.lower() == name.lower()), None)


def _build_values(name: str, value: Attribute, kinds: Sequence[str], description: str) -> Attribute:
    """A multi-valued attribute with the parts of RFC 7643, section 2.4."""
    return Attribute(
        name=name,
        type="complex",
        multi_valued=True,
        description=description,
        parts=(
            value,
            Attribute(name="display", description="Text that people read."),
            Attribute(name="type", description="Kind of the value.", canonical_values=tuple(kinds)),
            Attribute(name="primary", type="boolean", description="True for the preferred value."),
        ),
    )


def _drop(attribute: Attribute, mutability: Literal["readOnly", "writeOnly"] = "writeOnly") -> Attribute:
    """Return the attribute as one that is accepted, and neither stored nor returned."""
    return structs.replace(
        attribute,
        mutability=mutability,
        returned="never",
        is_stored=False,
        parts=tuple(_drop(part, mutability) for part in attribute.parts),
    )


_VALUE = Attribute(name="value", description="The value.")
_PLACES = ("work", "home", "other")
_PHONES = ("work", "home", "mobile", "fax", "pager", "other")
_MESSENGERS = ("aim", "gtalk", "icq", "xmpp", "msn", "skype", "qq", "yahoo")
_EXTERNAL = ("external",)
_ADDRESS = Attribute(
    name="addresses",
    type="complex",
    multi_valued=True,
    description="Postal addresses.",
    parts=(
        Attribute(name="formatted", description="Whole address."),
        Attribute(name="streetAddress", description="Street and number."),
        Attribute(name="locality", description="City."),
        Attribute(name="region", description="State or region."),
        Attribute(name="postalCode", description="Postal code."),
        Attribute(name="country", description="Country, as a code of two letters."),
        Attribute(name="type", description="Kind of the address.", canonical_values=_PLACES),
        Attribute(name="primary", type="boolean", description="True for the preferred address."),
    ),
)
_LINK = Attribute(name="value", type="reference", reference_types=_EXTERNAL, case_exact=True, description="Its URL.")
_CERTIFICATE = Attribute(name="value", type="binary", case_exact=True, description="The certificate in Base64.")
_DROPPED = (
    Attribute(name="nickName", description="Casual name."),
    Attribute(
        name="profileUrl",
        type="reference",
        reference_types=_EXTERNAL,
        case_exact=True,
        description="Page about the person.",
    ),
    Attribute(name="title", description="Title of the position."),
    Attribute(name="userType", description="Relation to the company."),
    Attribute(name="preferredLanguage", description="Language that the person prefers."),
    Attribute(name="locale", description="Locale of dates and numbers."),
    Attribute(name="timezone", description="Time zone."),
    Attribute(name="password", case_exact=True, description="Password. People sign in at the identity provider."),
    _build_values("phoneNumbers", _VALUE, _PHONES, "Telephone numbers."),
    _build_values("ims", _VALUE, _MESSENGERS, "Addresses of messengers."),
    _build_values("photos", _LINK, ("photo", "thumbnail"), "Pictures of the person."),
    _ADDRESS,
    _build_values("entitlements", _VALUE, (), "Entitlements."),
    _build_values("roles", _VALUE, (), "Roles."),
    _build_values("x509Certificates", _CERTIFICATE, (), "Certificates."),
)
_DROPPED_OF_ENTERPRISE = (
    Attribute(name="employeeNumber", description="Number of the person."),
    Attribute(name="organization", description="Organization."),
    Attribute(name="division", description="Division."),
    Attribute(name="department", description="Department."),
    Attribute(
        name="manager",
        type="complex",
        description="Manager of the person.",
        parts=(
            Attribute(name="value", case_exact=True, description="Id of the manager."),
            Attribute(name="$ref", type="reference", reference_types=("User",), description="Address of the manager."),
            Attribute(name="displayName", description="Name of the manager."),
        ),
    ),
)
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
                Attribute(name="middleName", description="Middle names."),
                Attribute(name="honorificPrefix", description="Title before the name."),
                Attribute(name="honorificSuffix", description="Suffix of the name."),
            ),
        ),
        Attribute(name="displayName", description="Name that lists show."),
        Attribute(name="active", type="boolean", description="False: the person has no access."),
        _build_values("emails", _VALUE, _PLACES, "E-mail addresses."),
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
                Attribute(name="display", mutability="readOnly", description="Name of the group."),
                Attribute(
                    name="type",
                    mutability="readOnly",
                    canonical_values=("direct",),
                    description="How the user belongs to the group.",
                ),
            ),
        ),
        *(_drop(attribute) for attribute in _DROPPED),
        Attribute(
            name=ENTERPRISE,
            type="complex",
            description="Place of the person in the company.",
            parts=(
                Attribute(name="costCenter", description="Cost center to which requests are booked."),
                # a client that wrote them would expect all parts of a complex attribute back
                *(_drop(attribute, "readOnly") for attribute in _DROPPED_OF_ENTERPRISE),
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
                Attribute(
                    name="type",
                    mutability="immutable",
                    canonical_values=("User",),
                    description="Kind of the member.",
                    is_stored=False,
                ),
                Attribute(
                    name="display",
                    mutability="readOnly",
                    returned="never",
                    description="Name of the member, which the user has.",
                    is_stored=False,
                ),
            ),
        ),
    ),
}
SCHEMAS: Mapping[Kind, str] = {"User": USER_SCHEMA, "Group": GROUP_SCHEMA}


def list_all_attributes(kind: Kind) -> Sequence[Attribute]:
    return (EXTERNAL_ID, *ATTRIBUTES[kind])


def remove_schema(name: str, kind: Kind) -> str:
    """Return the name or path of an attribute without its schema: `userName`, `enterprise.costCenter`."""
    if name.lower() == ENTERPRISE_SCHEMA.lower():
        return ENTERPRISE
    for schema, prefix in ((SCHEMAS[kind], ""), (ENTERPRISE_SCHEMA, f"{ENTERPRISE}.")):
        if name.lower().startswith(f"{schema.lower()}:"):
            return prefix + name[len(schema) + 1 :]
    return name


def build_schemas(base: str) -> Sequence[dict[str, Any]]:
    of_enterprise = find_attribute(ATTRIBUTES["User"], ENTERPRISE)
    assert of_enterprise is not None
    core = {kind: [one for one in ATTRIBUTES[kind] if one is not of_enterprise] for kind in SCHEMAS}
    described = (
        (USER_SCHEMA, "User", "A person who may use models.", core["User"]),
        (GROUP_SCHEMA, "Group", "A group of people.", core["Group"]),
        (ENTERPRISE_SCHEMA, "EnterpriseUser", of_enterprise.description, of_enterprise.parts),
    )
    return [
        {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": schema,
            "name": name,
            "description": description,
            "attributes": [attribute.encode() for attribute in attributes],
            "meta": {"resourceType": "Schema", "location": f"{base}/Schemas/{schema}"},
        }
        for schema, name, description, attributes in described
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
            "schemaExtensions": [{"schema": ENTERPRISE_SCHEMA, "required": False}] if kind == "User" else [],
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
        # If-Match is respected, but not announced: Canaille 0.3 would send a version of its own with each change
        "etag": {"supported": False},
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
