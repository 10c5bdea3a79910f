"""`ScimError`, and the body of an error response (RFC 7644, section 3.12)."""

from typing import Any, Literal

ERROR_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:Error"
ScimType = Literal[
    "",
    "invalidFilter",
    "invalidPath",
    "invalidSyntax",
    "invalidValue",
    "mutability",
    "noTarget",
    "tooMany",
    "uniqueness",
]


class ScimError(Exception):
    def __init__(self, detail: str, scim_type: ScimType = "invalidValue", status: int = 400) -> None:
        super().__init__(detail)
        self.detail = detail
        self.scim_type = scim_type
        self.status = status

    def encode(self) -> dict[str, Any]:
        kind = {"scimType": self.scim_type} if self.scim_type else {}
        return {"schemas": [ERROR_SCHEMA], "status": str(self.status), **kind, "detail": self.detail}


def find_no_resource(kind: str, name: str) -> ScimError:
    return ScimError(f"{kind} {name[:80]!r} does not exist.", "", 404)
