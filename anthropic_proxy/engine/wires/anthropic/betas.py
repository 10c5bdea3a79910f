"""Betas of the Messages API: which of the client's a server gets, and what a rejection says about them.

A beta is a name in the header `anthropic-beta` that switches on a feature. Servers other than Anthropic's have some of
them only, and reject a request with another one.

Theory of operation. What is known about the betas of a server is in its dialect: `select_betas` chooses by it, for each
attempt. `find_beta_adaptation` reads from a rejection what to change: for the repetition of the same request (`name` of
the `Adaptation`), and for later ones (`stored_name`). `apply_beta_adaptation` writes both into the dialect.

Some servers (Amazon Bedrock) say only that one of the betas is wrong. Example: a client always sends the betas a, b, c
and d, from the oldest to the newest, and the server does not know c.

    request  betas sent  server    repeated with  stored afterwards
    1        a b c d     refuses   none           one of a b c d is wrong        suspected_betas=((a, b, c, d),)
    2        a b         accepts                  one of c d is wrong            suspected_betas=((c, d),)
    3        a b c       refuses   a b            c is wrong                     suspected_betas=((c, d), (c,))
    4        a b d       accepts                  d is right: c alone stays out  suspected_betas=((c,), (c,))

Request 2 has the older half of the suspects. What was accepted (`accepted_betas`) is sent with each later request.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.messages.beta_tables import CONTEXT_BETA, FORM_BETAS, KEPT_BETAS
from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling
from anthropic_proxy.engine.messages.models import require_bounded_members
from anthropic_proxy.engine.messages.models.client_json import read_json
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.dialect import Adaptation, BaseDialect, RequestPart
from anthropic_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from anthropic_proxy.engine.messages.models.context_edits import ContextEdit

BETA_HEADER, BETA_FIELD = "anthropic-beta", "anthropic_beta"
"""Header with the betas, and the field of the body that clouds have for them."""
BETAS_OF_CONTEXT = ("context-management-", "compact-")
"""Beginnings of the betas of its edits."""
_THREADS_BETA = "message-threads-2026-08-12"
"""Beta of the field `thread`."""
EAGER_BETA = "fine-grained-tool-streaming-2025-05-14"
"""Beta that is the older form of `eager_input_streaming`, for all tools that do not have the field."""
_ALL_BETAS = ("*",)
_BETA_NAME = compile_anchored(r"[A-Za-z0-9_-]{1,100}")
_DROP, _SUSPECT, ACCEPTED = "betas", "suspects", "accepted"
"""First words of adaptations: the betas that follow are removed, have one that the server rejects, or were accepted."""
_MAX_BETAS = 100
"""Maximum number of betas of a request that are read. The official SDK knows about 40."""
_MAX_LEARNED_BETAS = 64
"""Maximum number of betas that are remembered because of one request."""
_NAMED_REFUSALS = 2
"""Number of rejections of betas of one request that remove only the betas that the server names."""
_REFUSED = compile_anchored(
    r"invalid beta flag|unsupported beta\b"
    r"|anthropic-beta\b(?=.*unexpected value)|unexpected value\b(?=.*anthropic-beta)"
    r"|unexpected value\(s\) `[\w-]+-20\d\d-\d\d-\d\d`",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
"""Pattern of errors about betas: Bedrock "invalid beta flag" (anthropics/claude-code issue 49370), Anthropic
"Unexpected value(s) `…` for the `anthropic-beta` header" and "Unsupported beta header: …" (docs.anthropic.com, "Beta
headers"). A long list of values is cut, so the name of the header may be missing. The pattern is matched at the start
of a message only: the rest may quote text of the client."""
_DATE_LENGTH = len("2025-05-14")
"""Length of the date at the end of the name of a beta."""
_DATED_NAME = compile_anchored(r"(?P<name>.+)-20\d\d-?[01]\d-?[0-3]\d")
_DATE_OF_BETA = compile_anchored(r"20\d\d-[01]\d-[0-3]\d")
_FIELDS_OF_BETAS: Mapping[str, tuple[Handling, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("cache_control.scope", *(f"{place}.cache_control.scope" for place in ("messages.content", "system", "tools"))),
        ("approximated", ("prompt-caching-scope-",)),
    ),
    "context_management": ("approximated", BETAS_OF_CONTEXT),
    "diagnostics": ("approximated", ("cache-diagnosis-",)),
    "fallbacks": ("approximated", ("server-side-fallback-",)),
    "mcp_servers": ("dropped", ("mcp-client-",)),
    "messages.clear_at": ("approximated", ("mid-conversation-system-clear-at-",)),
    "messages.output_config": ("approximated", ("mid-conversation-output-config-", "per-turn-control-")),
    "safeguards": ("emulated", ("dangerous-tool-use-",)),
    "speed": ("approximated", ("fast-mode-",)),
}
"""Name of a field (`rejected_fields.py`) → what its loss is, and the beginnings of the betas that it requires: a server
rejects it without them. Sources: code.claude.com/docs/en/llm-gateway-protocol, "Feature pass-through", read 2026-11-25;
maximhq/bifrost pull request 1558 (`scope`)."""
_MAX_LISTED_BETAS, _MAX_BETA_LENGTH = 10, 60
"""Maximum number of removed betas in a note, and of the characters of each. A client chooses both."""


class _Betas(Struct):
    anthropic_beta: list[str] = []


_decode_betas = msgspec.json.Decoder(_Betas).decode


def filters_betas(dialect: Dialect) -> bool:
    return dialect.betas != _ALL_BETAS or bool(dialect.removed_betas) or dialect.drops_rejected_fields


def accepts_beta(dialect: BaseDialect, beta: str) -> bool:
    """Return True if servers with this dialect have the Messages API, and are known to accept a beta of Anthropic."""
    if not isinstance(dialect, Dialect):
        return False
    is_refused = _matches(beta, dialect.removed_betas) or (beta,) in dialect.suspected_betas
    return _matches(beta, dialect.betas) and not is_refused


def makes_edits(dialect: BaseDialect, edits: "Sequence[ContextEdit]") -> bool:
    """Return True if servers with this dialect are known to make all these edits of a conversation. No edit, or only
    unknown ones: if they accept the field.
    """
    betas = {edit.beta for edit in edits if edit.beta}
    if not betas:
        return accepts_beta(dialect, CONTEXT_BETA)
    return (
        isinstance(dialect, Dialect)
        and all(accepts_beta(dialect, beta) and not _matches(beta, dialect.unproven_betas) for beta in betas)
        and not any(f"{edit.field}.".startswith(f"{name}.") for edit in edits for name in dialect.dropped_fields)
    )


def keeps_conversations(dialect: Dialect) -> bool:
    """Return True if the server is one of Anthropic's, or a gateway to these alone, and so keeps a `thread`."""
    return dialect.verifies_signatures and accepts_beta(dialect, _THREADS_BETA)


def remove_betas(headers: Mapping[str, str], beginnings: tuple[str, ...]) -> Mapping[str, str]:
    """Return headers without the betas that begin so."""
    given = [beta.strip() for beta in headers.get(BETA_HEADER, "").split(",")]
    kept = ",".join(beta for beta in given if not beta.startswith(beginnings))
    others = {name: value for name, value in headers.items() if name != BETA_HEADER}
    return {**others, BETA_HEADER: kept} if kept else others


class SelectedBetas(Struct, frozen=True):
    sent: list[str] = []
    """Betas for the server. Empty if `filters_betas` is False: the header of the client is forwarded."""
    tested: list[str] = []
    """The betas in `sent` that may be the cause of an earlier rejection."""
    held_back: list[str] = []
    """Betas that are left out of this request, although the server may accept them."""
    lost_fields: Mapping[str, Handling] = {}
    """Fields of the body that require a beta which is left out."""
    notes: Sequence[FidelityNote] = ()


def select_betas(call: RelayCall[Dialect]) -> SelectedBetas:
    """Choose the betas that the server accepts, of the header and of the body.

    If a server refuses a request without naming the beta (Amazon Bedrock), one or more of its betas are the cause.
    They are found by later requests that have such a set whole: these have the accepted betas and half of the smallest
    set. If that is accepted, the other half has the cause, else this one, until a set has one beta: the cause. Then
    all others are sent again. For n betas, each cause costs 1 + log2(n) refused requests at most.
    """
    dialect = call.dialect
    if not filters_betas(dialect):
        return SelectedBetas()
    names = dict(dialect.renamed_betas)
    given = list_betas(call.headers, call.body)
    found = dict[str, str]()  # name at the server → of the client
    refused = list[str]()
    for beta in islice(given, _MAX_BETAS):
        name = names.get(beta, beta)
        accepts = _BETA_NAME.fullmatch(name) and (_matches(name, dialect.betas) or _is_later(name, dialect))
        if accepts and not _matches(name, dialect.removed_betas) and (name,) not in dialect.suspected_betas:
            found.setdefault(name, beta)
        else:
            refused.append(beta)
    kept = _keep_unsuspected(found, dialect)
    sent = [name for name in found if name in kept]
    held_back = [name for name in found if name not in kept]
    lost = {
        field: handling
        for field, (handling, beginnings) in _FIELDS_OF_BETAS.items()
        if any(beta.startswith(beginnings) for beta in (*refused, *held_back))
        and not any(beta.startswith(beginnings) for beta in sent)
    }
    reasons = [f"{call.provider_prefix} does not accept {_list(refused)}"] if refused else []
    if len(given) > _MAX_BETAS:
        reasons.append(f"the proxy reads {_MAX_BETAS} betas of the {len(given):,}")
    if held_back:
        named = _list([found[name] for name in held_back])
        reasons.append(f"{call.provider_prefix} refuses one of {named} or of those that are sent")
    notes = [FidelityNote("approximated", BETA_HEADER, "; ".join(reasons))] if reasons else []
    tested = [name for name in sent if any(name in names for names in dialect.suspected_betas)]
    return SelectedBetas(sent, tested, held_back, lost, notes)


def list_betas(headers: Mapping[str, str], body: bytes) -> Collection[str]:
    """Return the betas of a request, in its header and in its body."""
    header = headers.get(BETA_HEADER, "").split(",")
    return dict.fromkeys(filter(None, (part.strip() for part in (*header, *_read_body_betas(body)))))


def list_beta_parts(dialect: Dialect, headers: Mapping[str, str], body: bytes) -> list[RequestPart]:
    """Return a part for each beta of a request that a plainer form may leave out, the newest first.

    What an unknown beta protects or restricts is not known, so it is left out only alone.
    """
    renamed = dict(dialect.renamed_betas)
    parts = list[RequestPart]()
    for beta in islice(list_betas(headers, body), _MAX_BETAS):
        name = renamed.get(beta, beta)
        if _BETA_NAME.fullmatch(name) and KEPT_BETAS.isdisjoint(map(_remove_date, (beta, name))):
            parts.append(RequestPart(name=f"{_DROP} {name}", is_single=_remove_date(name) not in FORM_BETAS))
    return sorted(parts, key=lambda part: part.name[-_DATE_LENGTH:], reverse=True)


def names_beta(part: str) -> str:
    """Return the beta that a part of a request is. "": it is another one."""
    verb, _, beta = part.partition(" ")
    return beta if verb == _DROP else ""


def _remove_date(beta: str) -> str:
    dated = _DATED_NAME.fullmatch(beta)
    return beta if dated is None else dated["name"]


def _keep_unsuspected(found: Collection[str], dialect: Dialect) -> set[str]:
    """Return the betas to send: all, or the accepted ones and half of the smallest set that has the cause."""
    suspects = [names for names in dialect.suspected_betas if names and {*found} >= {*names}]
    if not suspects:
        return {*found}
    smallest = min(suspects, key=len)
    by_date = sorted(smallest, key=lambda name: (name[-_DATE_LENGTH:], name))
    kept = {*dialect.accepted_betas, *by_date[: len(by_date) // 2]}
    if all(_is_later(name, dialect) for name in smallest):  # so the listed ones are not the cause
        kept |= {name for name in found if not _is_later(name, dialect)}.difference(*suspects)
    return kept


_WORD = compile_later(r"[\w-]+")


def find_beta_adaptation(call: RelayCall[Dialect], message: str) -> Adaptation | None:
    """Return the change that leaves out the betas that the server has rejected. None: the message is about no beta.

    A server that names one beta at a time would refuse a request as often as it has wrong betas. So only the first two
    rejections of a request remove just what is named. The next one removes all betas that were never accepted, for this
    request: later requests have them again, until each wrong one was named.

    If the server names none, betas that are newer than the list of the server's betas are removed before all others,
    which the client may need. If the server then refuses the others too, the newer ones are not suspected.
    """
    betas = select_betas(call)
    if not (betas.sent and _REFUSED.match(message)):
        return None
    dialect = call.dialect
    words = set(_WORD.findall(message))
    unknown = [beta for beta in betas.sent if beta not in dialect.accepted_betas] or betas.sent
    unknown = [beta for beta in unknown if _is_later(beta, dialect)] or unknown
    named = [beta for beta in betas.sent if beta in words]
    if named:
        removed, stored_name = named, ""
        earlier = [name for name in call.earlier_adaptations if name.partition(" ")[0] == _DROP]
        if len(earlier) >= _NAMED_REFUSALS:
            removed, stored_name = [*named, *unknown], " ".join((_DROP, *named))
    else:
        # the repetition must succeed, so it tries no others; later requests find out which one is the cause
        removed = [*unknown, *betas.held_back]
        stored_name = " ".join((_SUSPECT, *unknown))
    return Adaptation(
        " ".join((_DROP, *dict.fromkeys(removed))),
        persistent=len(named or unknown) <= _MAX_LEARNED_BETAS,
        stored_name=stored_name,
        stored_if_rejected=True,
    )


def apply_beta_adaptation(dialect: Dialect, verb: str, names: Sequence[str]) -> Dialect:
    if verb == _DROP:
        return structs.replace(dialect, removed_betas=tuple(dict.fromkeys((*dialect.removed_betas, *names))))
    accepted, suspected = dialect.accepted_betas, dialect.suspected_betas
    if verb == _SUSPECT:
        accepted = tuple(beta for beta in accepted if beta not in names)  # otherwise, the server has changed
        return structs.replace(dialect, accepted_betas=accepted, suspected_betas=(*suspected, tuple(names)))
    if verb == ACCEPTED:
        rests = (tuple(beta for beta in group if beta not in names) for group in suspected)
        accepted = (*accepted, *names)
        return structs.replace(dialect, accepted_betas=accepted, suspected_betas=tuple(filter(None, rests)))
    return dialect


def lacks_beta(field: str, sent: Sequence[str]) -> bool:
    """Return True if a field requires a beta that is not sent."""
    for name, (_, beginnings) in _FIELDS_OF_BETAS.items():
        parts = iter(field.split("."))  # the field is at or below `name`, and may also have roles and types of blocks
        if all(part in parts for part in name.split(".")) and not any(beta.startswith(beginnings) for beta in sent):
            return True
    return False


def _is_later(name: str, dialect: Dialect) -> bool:
    """Return True for a beta that is newer than the list of the server's betas."""
    date = name[-_DATE_LENGTH:]
    return bool(dialect.betas_listed_on and date > dialect.betas_listed_on and _DATE_OF_BETA.fullmatch(date))


def _list(betas: Sequence[str]) -> str:
    more = f" and {len(betas) - _MAX_LISTED_BETAS} more" if len(betas) > _MAX_LISTED_BETAS else ""
    return ", ".join(beta[:_MAX_BETA_LENGTH] for beta in betas[:_MAX_LISTED_BETAS]) + more


def _read_body_betas(body: bytes) -> list[str]:
    """Return the betas in the body, where clients of Amazon Bedrock put them. Texts that name no beta are left out."""
    if not json_spans.contains(body, BETA_FIELD.encode()):
        return []
    try:
        require_bounded_members(body)
        betas = read_json(body, _decode_betas).anthropic_beta
    except InvalidRequest:
        return []
    return [name for name in betas if _BETA_NAME.fullmatch(name)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
