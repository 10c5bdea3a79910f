"""Facts about a client request from which the access policy of a plugin decides to admit or reject it.

`AdmissionRequest` has the facts, such as the requested model. `Client` is the sender of the request.
`AdmissionTarget` is a provider and model that may serve it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct, field


class Client(Struct, frozen=True):
    """The client of a request, after authentication."""

    name: str = "local"
    """Label for the log and metrics: `local`, or the label of the client's key. Never the key itself."""
    credential_forwardable: bool = False
    """True if the proxy requires no key. The key in the client request is then meant for the provider, and is
    forwarded."""
    role: Literal["owner", "member", "admin", "monitor"] = "owner"
    """Access of the client.

    `member`: a virtual key, only for the API below `/v1/`. `admin`: an admin key, for all other URL paths. `monitor`: a
    monitor key, which only reads `/metrics` and the paths below `/api/`. `owner`: any other client, for all paths
    except those of the administration.
    """
    key_id: str = ""
    """Id of the virtual key: `key_…`. "": another client."""
    team: str = ""
    """Team of the virtual key. "": none, or another client."""
    address_trusted: bool = False
    """True if the client is on this machine, or if no client needs a key. Only a trusted client sees the provider
    setup."""


class AdmissionTarget(Struct, frozen=True, kw_only=True):
    """A provider and model that may serve the request."""

    prefix: str
    """Prefix of the provider: `gemini`."""
    model: str
    """Model id at the provider, without a prefix."""
    max_output_tokens: int
    """Maximum output tokens of this request at the model."""


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """Facts about a client request from which a policy decides to admit or reject it."""

    client: Client
    """Client that sent the request."""
    model: str
    """Model id in the client request."""
    normalized_model: str = ""
    """Model id without the alias `claude-<prefix>/` and the suffix `[1m]`: `openai/gpt-4.1`. Routes compare this id."""
    body_bytes: int
    """Size of the client request body."""
    route: str = ""
    """Name of the matching route of the configuration file. "": no route matches, so the model mapping chose the
    targets."""
    request_id: str = ""
    """Id of the request in the response header `request-id`."""
    has_reply: bool = True
    """True if the request produces a reply of a model. False: a token count, which has limits of its own."""
    targets: Sequence[AdmissionTarget] = ()
    """Models that may serve the request: the first choice, then its fallbacks."""
    estimate_input_tokens: Callable[[], int] = lambda: 0
    """Returns the estimated input tokens. It reads the whole request, so call it only if the number is needed."""
    response_headers: dict[str, str] = field(default_factory=dict)
    """Headers that a policy adds to the response, also to an error response. Names are in lower case."""
