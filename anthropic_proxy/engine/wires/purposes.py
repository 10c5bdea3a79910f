"""What the proxy sends a request to another server for."""

from typing import Literal, get_args

CheckPurpose = Literal["auto_mode_check", "confirmation"]
"""A question about a tool call. `confirmation`: that to the second model of auto mode."""
OwnPurpose = Literal[CheckPurpose, "image_description", "compaction"]
"""A request of the proxy to a model because of the request of a client, with a record of its own. `image_description`:
what is in a picture. `compaction`: for a summary of the conversation."""
CHECK_PURPOSES: tuple[CheckPurpose, ...] = get_args(CheckPurpose)
OWN_PURPOSES: tuple[OwnPurpose, ...] = get_args(OwnPurpose)
AdmittedPurpose = OwnPurpose | Literal["message", "classifier", "probe", "token_count", "model_list", "resource"]
"""What passes the admission by itself. `classifier`: a question of Claude Code's own classifier. `probe`: a request of
the doctor, which takes the way of a client. `resource`: batches, files and skills."""
InnerPurpose = Literal["further_call", "web_search", "web_fetch", "media"]
"""What belongs to an admitted request. `media`: the files to which it links."""
ClientPurpose = AdmittedPurpose | InnerPurpose
"""What the proxy sends because of the request of a client."""
OperatorPurpose = Literal[
    "access_token",
    "alert",
    "guardrail",
    "identity_provider",
    "model_facts",
    "model_list",
    "plugin",
    "price_list",
    "server_probe",
    "setup",
    "siem",
    "telemetry",
    "traces",
]
"""What the proxy sends because of its operator. `guardrail`: the service of an inspector. `plugin`: a plugin of others.
`setup`: `init` tests a key. `siem`: audit log and verdicts. `server_probe`: whether a server has the API at its
address. `telemetry`: that of Claude Code."""
