"""Classification of provider errors by tables of their status, codes and texts.

Servers change their texts, and gateways quote them. So a row of a table has typical words, not a complete text, and
unknown texts match too. Each row names the servers that send it. Each search takes time proportional to the text.

The first part of the module recognizes errors that reject a parameter, a role or an effort (level of reasoning). The
second recognizes errors of models and servers that accept no images, in the request or only inside tool results: the
proxy may repeat the request with a text in place of each image. The third recognizes refusals because of content,
which become a reply with the stop reason `refusal`, and used-up quotas: the credit of an account (`billing`), or the
use that a period or plan permits (`allowance`). At the end, `build_upstream_error` selects the status and the error
type for the client, by the first row of `_ROWS` that matches if the error is of none of these kinds.
"""

import re
from collections.abc import Container
from typing import Literal

from msgspec import Struct, structs

from anthropic_proxy.engine.efforts import EFFORTS
from anthropic_proxy.engine.messages.deltas import Stop
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault, remove_wrappers
from anthropic_proxy.engine.wires.failures.sizes import (
    RATE_LIMIT_WORDS,
    KnownTokenCounts,
    exceeds_other_limit,
    find_token_limit_fault,
    matches_any,
    names_full_context,
    reached_output_limit,
    regex,
    states_no_access,
)
from anthropic_proxy.engine.wires.reply_ends import build_blocked_reply_stop
from anthropic_proxy.errors import (
    ACCOUNT_STATUSES,
    STATED_IN_TEXT,
    UnreadableReply,
    UpstreamError,
    UpstreamErrorCause,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)

PARAMETER_ERROR_STATUSES = (400, 403, 404, 413, 422, 429, 451, 500, 501)
"""HTTP statuses with which providers reject a request parameter. Only after these errors may a changed request be sent.
Some servers use 404 or 500 for such an error (OpenRouter, llama.cpp; 2026-11)."""
PARAMETER_REJECTION_TEXTS = (
    # OpenAI, vLLM, llama.cpp (2026-11)
    regex(
        r"\b(?:un)?(?:supported|known|recogni[sz]ed|expected|permitted|allowed|available|implemented)\b"
        r"|\bun(?:supported|known|recogni[sz]ed|expected|available)"
    ),
    # xAI, Groq (2026-11)
    regex(r"\b(?:not|n't|cannot|never) (?:be )?(?:support|accept|allow|permit|recogni|set|use|combin|specif)"),
    # Z.ai (2026-11)
    regex(
        r"\b(?:invalid|illegal|incorrect|forbidden|disallowed|deprecated|removed|not one of|not valid|incompatible"
        r"|extra|no such|rejected)\b"
    ),
    # Moonshot, DeepSeek (2026-11)
    regex(r"\b(?:must be|should be|has to be|only|out of range|does not exist|no longer)\b"),
    regex(r"\bno endpoints found that support\b"),  # OpenRouter, 404 (2026-11)
)
"""Error texts that reject any parameter, value or role. Names are searched only in a text that matches one of them."""
ROLE_REJECTION_TEXTS = (
    regex(r"\bdeveloper\b"),  # Mistral, DeepSeek, Groq: the role is named (2026-11)
    # llama.cpp: chat templates (2026-11)
    regex(r"\b(?:unexpected|unknown|invalid|unsupported|illegal|incorrect)\b[^.\n]{0,30}\broles?\b"),
    # SGLang (2026-11)
    regex(r"\broles?\b[^.\n]{0,60}\b(?:must be|should be|expected|one of|not (?:supported|allowed|valid)|invalid)"),
)
"""Texts that reject the role `developer` of the first message, by name or as an unknown role."""
_ALTERNATION = compile_later(r"\balternat\w*|\brole ['\"`]?(?:user|assistant|tool)\b", re.IGNORECASE)
_WORD = compile_later(r"([`'\"]?)([A-Za-z_]\w*)([`'\"]?)(?:\s+(parameter|field|option|argument|property)\b)?")
_HUMP = compile_later(r"(?<=[a-z0-9])[A-Z]")
_LEVEL_LIST = compile_later(
    r"(?:\b(?:supported|allowed|valid|accepted|available|possible|permitted)(?: \w+){0,2}(?: are\b| is\b|:)"
    r"|\b(?:one of|use|must be|should be|expected|choose|either|only|options|try|among)\b"
    r"|(?<!not )\b(?:supports?|accepts?|allows?)\b)"
    r"(?=(.{0,300}))",
    re.IGNORECASE | re.DOTALL,
)
_LIST_ENDS = compile_later(r"\b(?:but|got|received|given|instead|was|found|does not|doesn't)\b|\.\s", re.IGNORECASE)
_LEVEL = compile_later(rf"\b({'|'.join(EFFORTS)}|default)\b(?![_-])", re.IGNORECASE)


def find_rejected_parameter(text: str, names: Container[str]) -> str | None:
    """Return the request parameter, one of `names`, that an error message rejects. None: it rejects none of them.

    If the message names several of these parameters, the result is the first of them.
    """
    if not matches_any(PARAMETER_REJECTION_TEXTS, text):
        return None
    for opened, word, closed, noun in _WORD.findall(text):
        # `maxTokens` is read as `max_tokens`.
        name = _HUMP.sub(lambda hump: f"_{hump[0].lower()}", word)
        # A name that is also an ordinary word counts only in quotes, or before a word such as `parameter`.
        if name in names and ("_" in name or name == "temperature" or (opened and closed) or noun):
            return name
    return None


def rejects_developer_role(text: str) -> bool:
    """Return True if an error message rejects the message role `developer`, by name or as an unknown role."""
    return (
        matches_any(PARAMETER_REJECTION_TEXTS, text)
        and matches_any(ROLE_REJECTION_TEXTS, text)
        and not _ALTERNATION.search(text)  # the order of roles: `roles must alternate`
    )


def find_replacement_effort(text: str, requested: str, sent: str) -> str | None:
    """Return the effort (level of reasoning) to send in place of a rejected one. None: no level can replace it.

    `text` is the error message, which may list accepted levels. `requested` is the level of the client request. `sent`
    is the level in the rejected upstream request, which can have another name.
    """
    listed: list[str] = []
    for match in _LEVEL_LIST.finditer(text):
        listed += [word.lower() for word in _LEVEL.findall(_LIST_ENDS.split(match[1], maxsplit=1)[0])]
    if requested not in EFFORTS or sent in listed or not listed:
        return None
    supported = [level for level in EFFORTS if level in listed]
    reasoning = [level for level in supported if level != "none"]
    if requested != "none" and not reasoning:
        return "default" if "default" in listed else next(iter(supported), None)
    below = [level for level in supported if EFFORTS.index(level) < EFFORTS.index(requested) and level != "none"]
    # The next lower listed level, else the lowest one. `none` is chosen only if no other level is listed.
    return below[-1] if below else next(iter(reasoning or supported), None)


_IMAGE = r"(?:images?(?:[_ ]?(?:urls?|inputs?|content))?|vision|visual|multi-?\s?modal(?:ity)?|pictures?|photos?)"
_REFUSED = (
    r"(?:not (?:be )?(?:support\w*|accept\w*|allow\w*|enabled|available|capable|permitted|implemented|able|include"
    r"|recogni[sz]ed|known)"
    r"|(?:n't|not|never|cannot|can't|unable to) (?:support|accept|allow|handle|process|read|see|take|view|understand"
    r"|have|interpret)"
    r"|unsupported|disabled|turned off|switched off|lacks|without)"
)
_SEPARATOR = r"[`'\"]?(?:, ?| ?[|/] ?|,? (?:and|or) )[`'\"]?"
_LIST = (
    r"(?:values?|types?|supported|allowed|valid|accepted|expected|only|be|of|in)\b(?: (?:are|is|be|one of))?:? ?"
    rf"[\[({{]?[`'\"]?(?:input_)?text\b(?!(?:{_SEPARATOR}[\w-]{{1,40}}){{0,8}}?{_SEPARATOR}"
    r"(?:input_|output_)?(?:image|picture|media|vision))"
)
"""Pattern of a list of accepted values in an error text (`must be one of …`). The list contains `text` but no image
type."""
_OF_ONE_IMAGE = (
    r"[ _/-]?(?:[a-z]+put|gener\w+|urls?|links?|formats?|sizes?|details?|larger|bigger|of|with|over|above|from|that"
    r"|which|in|by|edit\w*|dimensions?|mime|media|resol\w+|type|/)"
)
"""Pattern of words after `images` that restrict an error to some images, such as a format or size."""
_MAKING = r"(?:generat|creat|edit|draw|produc|return|output)(?:e|s|es|ing|ting|ion)?\b"
"""Verbs (`generate`) before `images` in errors about images as output. Such errors do not concern images in the
request."""
_ONE_IMAGE = (
    r"(?:the|this|that|your|these) (?:\w+ )?(?:images?|pictures?|photos?)\b(?! (?:input|content|field|type|part))"
)
"""Pattern of words for an image of the request, about which an error says nothing of the model."""
IMAGES_UNSUPPORTED_TEXTS = (
    # llama.cpp, clients: this model does not support image input (2026-11)
    regex(
        rf"\b(?:model|endpoint|deployment|server|it)\b[^.\n]{{0,30}}\b{_REFUSED} (?!{_MAKING})(?!{_ONE_IMAGE})(?:\w+ )?"
        rf"(?:images?|pictures?|photos?)\b(?: (?:inputs?|content|understanding|processing)\b)?(?!{_OF_ONE_IMAGE})"
    ),
    # SGLang, clients: the model has no vision capability (2026-11)
    regex(
        r"\b(?:no|lacks|without) (?:\w+ )?(?:vision|multi-?modal|image) "
        r"(?:capabilit\w+|support|encoder|tower|projector)"
    ),
    # mlx_lm/server.py (2026-11)
    regex(r"\bonly [`'\"]?text[`'\"]? content type is supported\b"),
    # Groq, LM Studio (2026-11)
    regex(
        r"\btext[- ]only\b|\b(?:only|just) (?:supports?|accepts?|takes?|allows?) text\b(?! ?(?:,|/|and|or|plus|&|\+))"
    ),
)
"""Patterns of error texts which state that the model or server accepts no images. They count even if the text also
names another reason."""
IMAGE_REJECTION_TEXTS = (
    regex(rf"\b{_IMAGE}\b[^.\n]{{0,50}}\b{_REFUSED}"),  # llama.cpp (500), Groq, Mistral (2026-11)
    regex(rf"\b{_REFUSED}\b[^.\n]{{0,40}}\b{_IMAGE}\b"),  # LM Studio, SGLang, LiteLLM (2026-11)
    regex(rf"\b(?:not|n't) (?:an? )?(?:{_IMAGE}|vlm|vision-language)\b"),  # vLLM: is not a multimodal model (2026-11)
    regex(r"\bat most 0 image"),  # vLLM: At most 0 image(s) may be provided in one prompt (2026-11)
    # OpenRouter (404) (2026-11)
    regex(rf"\bno (?:\w+ ){{0,3}}(?:support\w*|accept\w*|with|for)\b[^.\n]{{0,20}}\b{_IMAGE}\b"),
    # OpenAI (2026-11)
    regex(rf"\b{_IMAGE}\b[^.\n]{{0,40}}\bonly (?:be )?(?:supported|available|accepted|allowed) (?:by|for|in|with)"),
    # LM Studio, Jan: Please use a model that does (2026-11)
    regex(r"\b(?:only|requires?|use|choose|need)\b[^.\n]{0,30}\b(?:vision|multi-?modal)\b[^.\n]{0,20}\bmodels?\b"),
    # Ollama (500): this model is missing data required for image input (2026-11)
    regex(rf"\b(?:no|missing data required for) {_IMAGE}\b"),
    # Z.ai, DashScope (2026-11)
    regex(r"不支持[^。，,\n]{0,8}(?:图片|图像|视觉|多模态)|(?:图片|图像|视觉|多模态)[^。，,\n]{0,8}不支持"),
    regex(r"\bmmproj\b"),  # llama.cpp: you may need to provide the mmproj (2026-11)
    regex(r"\bunknown variant [`'\"]?image_url"),  # DeepSeek (2026-11)
    # OpenAI, frameworks that list the content types: Invalid value: 'image_url'. Supported values are: 'text' (2026-11)
    regex(rf"\b(?:image_url|input_image|image)\b[^\n]{{0,60}}\b{_LIST}"),
    regex(rf"\b{_LIST}[^\n]{{0,60}}\b(?:image_url|input_image|image)\b"),
)
"""Error texts that reject images of any kind. They do not count if the text names another reason."""
PART_LIST_REJECTION_TEXTS = (
    # Groq, DeepSeek: content in parts; validators of Python and Rust (2026-11)
    regex(r"\bcontent\b[^\n]{0,40}\b(?:must|should) be (?:a |an? valid )?(?:valid )?string\b"),
    regex(rf"\b(?:content|part|messages?)\b[^\n]{{0,60}}\b{_LIST}"),
    # vLLM, SGLang: unknown part type (2026-11)
    regex(
        r"\b(?:unknown|unrecogni[sz]ed|unexpected|invalid|illegal|unsupported)\b[^.\n]{0,20}\b(?:content|part|block|item)"
        r"\b[^.\n]{0,20}\b(?:image_url|input_image|image)\b"
    ),
    regex(r"\binvalid type: sequence, expected a string"),
    # Bedrock Converse: also sent by models that accept images, if the image is in a tool result (2026-11)
    regex(r"\bdo(?:es not|esn't) support the images? (?:field|content block)\b"),
)
"""Patterns of error texts that reject a list of content parts, or images only at some places. The cause is uncertain,
because such lists contain images and other content."""
_OTHER_REASONS = compile_later(
    r"\b(?:too (?:large|big|many|small)|larger than|exceed\w*|size|format|media[_ ]?type|mime|dimensions?|pixels?"
    r"|resolution|corrupt\w*|invalid (?:image|base64)|malformed|decode|download|fetch|unreachable|could not process"
    r"|timed? ?out|generat\w+|detail|https?|remote|external|local files?|urls? (?:are|is)|images? urls?|data urls?"
    r"|base64"
    r"|(?:image/|\.)(?:bmp|tiff?|svg\S*|heic|avif|webp|gif|png|jpe?g)|bmp|tiff|heic|svg|avif|animated|policy|safety"
    rf"|{_MAKING} (?:\w+ )?(?:images?|pictures?)|images? (?:creation|editing)"
    r"|image outputs?|webp|gif|png|jpe?g|output modalit\w+|as output)\b",
    re.IGNORECASE,
)
"""Words for reasons that concern one image, not all images: size, format, address, content."""
_RESULTS = compile_later(
    r"\b(?:in|inside|within|of|for|as|multi-?modal) (?:an? |the |any )?[`'\"]?"
    r"(?:tool|function)(?:[ _-]?call)?[ _-]?(?:messages?|results?|responses?|outputs?|roles?)\b"
    r"|\brole:? ?[`'\"]?(?:tool|function)\b|\bfunction_?call_?output\b|\.function_?response\b",
    re.IGNORECASE,
)
_RESULT_PATH = compile_later(r"\boutput\b|\bfunction_?response\b", re.IGNORECASE)
"""Pattern of the path of a tool result as rejected parameter: `input[3].output[0]` (OpenAI Responses),
`contents[1].parts[0].function_response` (Gemini)."""
_CODES = frozenset(("image_not_supported", "images_not_supported", "vision_not_supported"))
_CODE_OF_ONE_FILE = compile_later(
    r"(?:image|file|document|pdf|media)\w{0,20}?(?:pars|decod|corrupt|format|siz|download|fetch|large|load|pages|valid|broken)"
    r"|(?:invalid|unsupported|bad|broken|corrupt\w*|unreadable|empty)_(?:image|file|document|pdf|media|base64)(?!s?_inputs?)",
    re.IGNORECASE,
)
"""Pattern of error codes about one image or document: `image_parse_error`, `unsupported_image`, `invalid_base64_image`
(OpenAI, 2026-11)."""
_UNNAMED_CODE = "1210"
"""Error code of Z.ai for `Invalid API parameter`, also sent if a text model receives an image (read 2026-11)."""
_ABSENT_MODEL = compile_later(
    r"\bmodel [`'\"]?[^\s`'\"]{1,200}[`'\"]?,? (?:does not exist|doesn't exist|(?:was |is )?not found)\b", re.IGNORECASE
)
"""Text of an error about a model that the server does not have. It may add that another model accepts images."""
_ABOUT_ANOTHER = compile_later(
    r"\bthink\w*|\breason\w*|\btools?\b|\bmax_tokens\b|\btemperature\b|\btop_p\b", re.IGNORECASE
)


_NAMES_MODEL = regex(
    r"\b(?:models?|endpoints?|deployments?|servers?|backends?|engines?|providers?|hosts?|apis?|vlm|multi-?modal\w*"
    r"|vision|variants?|parameters?|fields?|values?|modalit\w+"
    r"|(?:content|input|message|part|block)[ _](?:types?|parts?|blocks?))\b"
)
"""Words for what accepts or has content in general. An error without them is about one image or document."""
_GENERAL_IMAGES = regex(
    r"\b(?:images|pictures|photos|vision|visual|multi-?\s?modal\w*"
    r"|(?:image|picture)[_ ]?(?:urls?|inputs?|content|types?))\b|image\(s\)|图片|图像|视觉|多模态"
)
_ONE_IMAGE_WORDS = regex(rf"\b{_ONE_IMAGE}")
_DOCUMENT = r"(?:pdfs?|documents?|files?|input_files?|file_(?:data|url|id)|document_urls?|attachments?)"
_DOCUMENT_WORD = regex(rf"\b{_DOCUMENT}\b")
_REJECTED_STATUSES = (None, 400, 415, 422)
_DOCUMENT_PARAMETERS = ("file", "file_data", "file_url", "input_file", "document_url", "document")
_TEXT_AND_IMAGES = regex(
    r"\b(?:content|parts?|blocks?|types?)\b[^\n]{0,60}\b(?:input_)?text\b[^\n]{0,30}\b(?:image|image_url|input_image)\b"
)
"""Pattern of a list of content that is accepted: text and images (Mistral and OpenRouter, 2026-11)."""
_REASONS_OF_DOCUMENTS = compile_later(
    r"\b(?:pages?|too (?:large|big|many|long)|exceed\w*|size|limit\w*|maximum|at most|password|encrypt\w*|corrupt\w*"
    r"|damaged|broken|malformed|unreadable|empty|blank|decod\w+|pars(?:e|ed|ing)|open|convert\w*|extract\w*|download"
    r"|fetch|unreachable|timed? ?out|https?|urls? (?:are|is)|base64|mime|media[_ ]?types?|extensions?|file ?names?"
    rf"|(?:the|this|that|your|these) (?:\w+ )?{_DOCUMENT}(?! (?:input|content|field|type|part|param\w*)s?\b)"
    r"|file[ _](?:types?|formats?)|formats?|versions?|expired|no such file|permission|policy|safety|could not|failed"
    rf"|(?:in)?valid (?:or \w+ )?(?:\w+ )?{_DOCUMENT}|{_DOCUMENT} (?:\w+ )?(?:is|was|are|seems?|must be|not) (?:an? )?"
    r"(?:in|un|not )?(?:valid|found|available|readable|supported pdf|pdf))\b",
    re.IGNORECASE,
)
"""Words for reasons that concern one document, as `_OTHER_REASONS` for images."""


def find_content_refusal(fault: UpstreamFault) -> UpstreamErrorCause | None:
    """Return the cause `images` or `documents`: the model accepts none. None: the request was rejected for another
    reason, such as one large image.
    """
    if rejects_tool_result_content(fault.message, fault.parameter) or _ABSENT_MODEL.search(fault.message):
        return None
    if _CODE_OF_ONE_FILE.search(" ".join(fault.codes - _CODES)):
        return None
    if _rejects_images(fault):
        return UpstreamErrorCause(kind="images")
    return UpstreamErrorCause(kind="documents") if _rejects_documents(fault) else None


def _rejects_images(fault: UpstreamFault) -> bool:
    text = f"{fault.message}\n{fault.parameter or ''}"
    if _UNNAMED_CODE in fault.codes and fault.parameter is None and not _ABOUT_ANOTHER.search(fault.message):
        return True
    if fault.codes & _CODES or matches_any(IMAGES_UNSUPPORTED_TEXTS, fault.message):
        return True
    if _OTHER_REASONS.search(fault.message):
        return False
    if matches_any(PART_LIST_REJECTION_TEXTS, text):
        return True
    if not _GENERAL_IMAGES.search(text) and (_ONE_IMAGE_WORDS.search(text) or not _NAMES_MODEL.search(text)):
        return False
    is_named = _find_last_name(fault) in ("image_url", "image", "input_image")
    if is_named and ("unsupported" in " ".join(fault.codes).lower() or matches_any(PARAMETER_REJECTION_TEXTS, text)):
        return True
    return matches_any(IMAGE_REJECTION_TEXTS, text)


def _rejects_documents(fault: UpstreamFault) -> bool:
    message = fault.message
    if fault.status not in _REJECTED_STATUSES and not (fault.status == 404 and "support" in message):
        return False
    if _REASONS_OF_DOCUMENTS.search(message) or not matches_any(PARAMETER_REJECTION_TEXTS, message):
        return False
    if _find_last_name(fault) in _DOCUMENT_PARAMETERS or _DOCUMENT_WORD.search(message):
        return _NAMES_MODEL.search(message) is not None
    return _TEXT_AND_IMAGES.search(message) is not None


def _find_last_name(fault: UpstreamFault) -> str:
    return (fault.parameter or "").rpartition(".")[2].lower()


def rejects_tool_result_content(message: str, parameter: str | None) -> bool:
    """Return True if an error rejects content in tool results only, for example images."""
    is_about_results = _RESULTS.search(message) or _RESULT_PATH.search(parameter or "")
    return bool(is_about_results) and matches_any(PARAMETER_REJECTION_TEXTS, message)


_IMAGE_WORD = regex(rf"\b{_IMAGE}\b")


def rejects_tool_result_images(message: str, parameter: str | None) -> bool:
    """Return True if an error rejects images in tool results."""
    return rejects_tool_result_content(message, parameter) and _IMAGE_WORD.search(message) is not None


_TEXT = (
    r"(?:content|prompts?|inputs?|outputs?|texts?|images?|conversation|query|questions?|completion|generation|words)"
)
"""Nouns that mean content of a request or reply (`prompt`, `image`)."""
_CONTENT = rf"(?:{_TEXT}|messages?|requests?|responses?|data|media)"
"""Nouns that mean content, and nouns that may also mean the API call itself (`request`)."""
_FINDING = (
    r"(?:violat\w+|flagged|inappropriate|prohibited|disallowed|moderat\w+|unsafe|harmful|sensitive|objectionable"
    r"|filtered|risk\w*|against|offensive|potentially)"
)
"""Words for a judgment that only content can receive (`harmful`, `flagged`)."""
_VERDICT = rf"(?:{_FINDING}|blocked|rejected|limited|not allowed|refus\w+|declined|denied)"
"""Words for a judgment of content or, ambiguously, of an API call (`blocked`, `denied`)."""
_CONTENT_RULE = (
    r"(?:(?:usage|content|use|safety)[ _]?(?:management[ _]?)?(?:polic(?:y|ies)|guidelines?|rules?|standards?)"
    r"|(?:content|safety|prompt|input|output|text|ai)[- ](?:filter\w*|system|reasons?|concerns?|grounds|risks?|check\w*"
    r"|settings?|safety"
    r"|classifier)"
    r"|moderation|responsible ai|guardrails?|safeguards?|community (?:guidelines|standards)|terms of (?:service|use)"
    r"|prohibited_content|harmful|abuse|abusive|unsafe|inappropriate|sensitive (?:content|words?|topics?|information)"
    r"|cyber\w*|biolog\w*|weapons?|illegal|violence|hate)"
)
"""Names of rules that concern content only (`content policy`)."""
_RULE = r"(?:polic(?:y|ies)|guidelines?|safety|terms|inspection|compliance|regulations|laws?|blocklist|sensitive)"
"""Names of rules that may also concern access, networks, plans or regions (`policy`, `terms`)."""


def _elements(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(regex(rf"\b{pattern}\b") for pattern in patterns)


REFUSAL_PATTERN_TRIPLES = (_elements(_CONTENT, _VERDICT, _CONTENT_RULE), _elements(_TEXT, _FINDING, _RULE))
"""Groups of three patterns: subject, verdict and reason. A sentence in which all three match is a refusal (xAI 403,
Azure, OpenRouter 403, Groq, OpenAI, Bedrock guardrails; 2026-11). `Request blocked by policy` does not match, because
networks send it for access rules (403 texts of Cloudflare, AWS and Google; 2026-11)."""
REFUSAL_TEXTS = (
    # DashScope (2026-11)
    regex(r"\b(?:inappropriate|sensitive|unsafe|harmful|prohibited|objectionable) (?:content|input|text|prompt)"),
    regex(rf"\b{_CONTENT}\b[^.\n]{{0,40}}\b(?:was|were|been|is|be) flagged\b"),  # OpenRouter 403, Mistral (2026-11)
    # gateways with lists of words (2026-11)
    regex(r"\bcontains? (?:\w+ ){0,3}(?:words?|terms|phrases|topics)\b[^.\n]{0,40}\b(?:blocked|banned|not allowed)\b"),
    regex(r"\bcontent exists? risk"),  # DeepSeek 400: Content Exists Risk (2026-11)
    regex(r"\b(?:failed check: )?safety_check_type"),  # xAI 403 (2026-11)
    # Azure, OpenAI (2026-11)
    regex(r"\b(?:blocked|rejected|stopped|filtered) by (?:our |the |a )?(?:safety|content|moderation)"),
    regex(r"\bdata inspection failed|\bdata may contain inappropriate"),  # DashScope: data_inspection_failed (2026-11)
    # Gemini (2026-11)
    regex(r"\b(?:blocked|finish) ?reason:? (?:safety|prohibited_content|blocklist|spii|recitation)\b"),
    # OpenAI, Codex (2026-11)
    regex(r"\bcyber(?:security)? (?:policy|risk|misuse)|\bflagged\b[^.\n]{0,60}\b(?:cyber\w*|bio\w*)"),
    # Moonshot (2026-11)
    regex(r"\b(?:high|new)[ _]?risk\b[^.\n]{0,40}\brejected|\brejected\b[^.\n]{0,40}\b(?:high|considered) risk"),
    # MiniMax: input new_sensitive (1026); moderation by category (2026-11)
    regex(r"new_?sensitive|\b(?:hate speech|violence|self-harm|sexual content)\b[^.\n]{0,30}\b(?:detected|found)"),
    # StepFun (451), also through OpenRouter (2026-11)
    regex(r"\bcontent you provided or (?:the )?machine output(?:ted)? is blocked"),
    regex("敏感内容|不安全|违规|内容安全|敏感信息"),  # Z.ai and BigModel 1301, Qianfan, Volcengine (2026-11)
)
"""Error texts of a refusal because of content. One match in a sentence suffices."""
REFUSAL_CODES = regex(  # OpenAI, Azure, DashScope, Mistral, Moonshot, Volcengine, StepFun: error codes (2026-11)
    r"content_?policy|content_?filter|content_?moderation|moderation_?(?:blocked|failed|error|flagged)|invalid_prompt"
    r"|bio_?policy|cyber_?policy|misalignment_?policy|policy_violation|responsibleaipolicy|data_?inspection_?failed"
    r"|content_?safety|safety_?(?:check|violation|block)|sensitive_?(?:content|words|information)|prompt_?blocked"
    r"|prohibited_content|usage_?guidelines|unsafe_?content|datainspectionfailed|guardrail_?interven|censorship_?block"
)
_SENTENCE_END = compile_later(r"[.!?;]\s|\n")
_FLAGGED_PARAMETER = "safety_identifier"
"""Parameter that OpenAI names in a refusal because of cyber risk (Codex logs, read 2026-11)."""
_FILTERED_CODE = "1301"
"""Code of Z.ai and BigModel for filtered content. The body also has `contentFilter` (docs.z.ai, errors, 2026-11)."""
_OTHER_SUBJECTS = compile_later(
    r"\b(?:unsupported|unknown|unrecognized|unexpected|not permitted|not supported|extra inputs|invalid type|api key"
    r"|(?:your|this) (?:account|organization|project|team)\b[^.\n]{0,60}\b(?:suspend\w*|deactivat\w*|disabled|banned"
    r"|blocked|terminated|violat\w*)|account (?:has been|is)|data policy|retention|privacy"
    r"|(?:accept\w*|agree\w*)\b[^.\n]{0,30}\bterms|roles?|max_\w+"
    r"|models? [\w./-]{1,80} (?:is |are )?(?:not|prohibited|denied)|rate[ _-]?limit|quota"
    r"|content-type|media type|no endpoints|accept the|string too long|must be|permission"
    r"|per minute|context (?:length|window)|ip address|vpc|firewall|country|region|retry|slow down"
    r"|too many requests)\b",
    re.IGNORECASE,
)
"""Subjects of errors that are not about content: accounts, parameters, networks, limits. A sentence that names one is
skipped."""
_ACCESS = compile_later(
    r"\b(?:verif(?:y|ied|ication)|(?:un|not )authori[sz]ed|authenticat\w+|administrator|subscription|not found|waf"
    r"|(?:access|access control|security|egress|network|organization|resource|tool|budget|identity-based)"
    r" (?:rules?|polic(?:y|ies)))\b",
    re.IGNORECASE,
)
"""Words for conditions of access. If the error text contains one, `REFUSAL_PATTERN_TRIPLES` is not searched."""


def is_policy_refusal(fault: UpstreamFault) -> bool:
    if fault.status in (401, 402):
        return False
    if REFUSAL_CODES.search(" ".join(fault.codes)):
        return True
    if fault.parameter == _FLAGGED_PARAMETER and fault.message:
        return not _OTHER_SUBJECTS.search(f"{fault.message} {' '.join(fault.codes).replace('_', ' ')}")
    if _FILTERED_CODE in fault.codes and fault.is_content_filtered:
        return True
    sentences = [one for one in _SENTENCE_END.split(fault.message) if not _OTHER_SUBJECTS.search(one)]
    if any(matches_any(REFUSAL_TEXTS, sentence) for sentence in sentences):
        return True
    return not _ACCESS.search(fault.message) and any(
        all(pattern.search(sentence) for pattern in triple)
        for sentence in sentences
        for triple in REFUSAL_PATTERN_TRIPLES
    )


_USED_UP = (
    r"(?:depleted|exhausted|used up|run out|ran out|insufficient|exceeded|reached|too low|empty|negative|expired|spent)"
)
BILLING_TEXTS = (
    # Anthropic, OpenAI (2026-11)
    regex(r"\bcredit balance\b|\bspending (?:limit|cap)\b|\bpayment (?:is )?required\b|\bin arrears\b"),
    # DeepSeek, OpenAI (2026-11)
    regex(r"\binsufficient[ _](?:balance|funds|credits?|quota)|\bnot enough (?:balance|credits?|funds)"),
    # Gemini: prepayment credits are depleted; OpenRouter, xAI (2026-11)
    regex(rf"\b(?:credits?|balance|prepayment|pre-?paid|funds|wallet)\b[^.\n]{{0,40}}\b{_USED_UP}\b"),
    # xAI: run out of credits (2026-11)
    regex(rf"\b{_USED_UP}\b[^.\n]{{0,30}}\b(?:credits?|balance|funds|prepayment)\b"),
    # xAI (2026-11)
    regex(r"\bused all (?:of )?(?:your )?(?:available )?credits|\b(?:add|purchase|buy) (?:more )?credits|\btop up\b"),
    # OpenAI, Google (2026-11)
    regex(r"\bbilling (?:hard )?limit|\bbilling (?:is )?(?:disabled|not (?:active|enabled))"),
    # Alibaba: Arrearage; gateways (2026-11)
    regex(
        r"\b(?:overdue payment|arrearage|recharge your|no (?:remaining |more |available )?(?:credits?|balance|funds))\b"
    ),
    regex("余额不足|欠费"),  # Z.ai and BigModel 1113 (2026-11)
)
"""Error texts for an account without credit, or with an unpaid or inactive billing account."""
BILLING_CODES = frozenset(
    (
        *("insufficient_quota", "exceeded_current_quota_error", "billing_hard_limit_reached", "billing_not_active"),
        *("1113", "insufficient_balance", "insufficient_credits", "payment_required", "Arrearage", "CreditsError"),
        *("NOT_ENOUGH_BALANCE", "customer_verification_required"),
    )
)
_ACCOUNT_CODES = regex(
    r"account|api_?key|billing|credit|quota|balance|payment|arrear|deactivat|suspend|organi[sz]ation|subscription"
    r"|budget_?exceeded|exceeded_?budget|per_?(?:day|week|month|project|account|user|key)|\b11(?:1[0-3]|20)\b"
)
"""Words of error codes about a key or an account: `insufficient_user_quota` (One API), `account_deactivated` (OpenAI),
`GenerateRequestsPerDayPerProjectPerModel` (Gemini), 1110 to 1120 (Z.ai; read 2026-11)."""
_POLICY_CODES = regex(
    r"polic(?:y|ies)|safety|moderat|terms_?(?:of|violat)|content_?(?:filter|check(?!sum))|unsafe|harmful"
    r"|(?<!case)(?<!case_)(?<!casein)(?<!case_in)sensitive|prohibited|guardrail|inspection|censor|flagged"
    r"|blocked|blocklist|abuse|csam|(?-i:(?<![a-z])risk|Risk|(?<![A-Z])RISK)|\b13(?:01|13)\b"
)
"""Words of error codes about the content of a request and the rules for its use: `content_policy_violation` (OpenAI),
`InputTextSensitiveContentDetected` (Volcengine), 1301 and 1313 (Z.ai; read 2026-11). Not parts of other words:
`content_block` is a part of a message, `asterisk` a character."""


def _names_account(codes: frozenset[str]) -> bool:
    """Return True if a code names the key or account of the call, whatever its request was."""
    codes_of_account = BILLING_CODES | ALLOWANCE_CODES
    return not codes.isdisjoint(codes_of_account) or _ACCOUNT_CODES.search(" ".join(codes)) is not None


def _may_be_about_form(codes: frozenset[str]) -> bool:
    """Return False if a code says that content or account are refused: no repair of the request can help then."""
    return not _names_account(codes) and _POLICY_CODES.search(" ".join(codes)) is None


_PERIOD = (
    r"(?:hourly|daily|weekly|monthly|session|subscription|\d+[- ]?(?:h|hours?|days?)|per[- ](?:day|week|month)|plan"
    r"|(?:five|one|two)[- ]hours?|cloud|free[- ]tier)"
)
_EXCEEDED, _LIMIT = r"(?:reached|exceed(?:s|ed))", r"(?:quota|limit|allowance)"
_PER_DAY = r"per[- ](?:day|week|month)"
ALLOWANCE_TEXTS = (
    # Z.ai (2026-11)
    regex(
        r"\busage limit\b[^.\n]{0,40}\b(?:reached|exceeded|hit)|\b(?:reached|hit|exceeded)\b[^.\n]{0,40}\busage limit"
    ),
    # Z.ai 1310, Ollama's cloud, Kimi Code (2026-11)
    regex(
        rf"\b{_PERIOD}\b[^.\n]{{0,40}}\b(?:limit|quota|allowance|cap|usage)\b[^.\n]{{0,40}}"
        r"\b(?:reached|exceeded|exhausted|hit|used|expired)\b"
    ),
    # Ollama's cloud: you have reached your hourly usage limit (2026-11)
    regex(
        rf"\b(?:reached|exceed(?:s|ed)|exhausted|hit|used)\b[^.\n]{{0,40}}\b{_PERIOD}\b[^.\n]{{0,30}}"
        r"\b(?:limit|quota|allowance|cap|usage)\b"
    ),
    # OpenRouter: Rate limit exceeded: free-models-per-day (2026-11)
    regex(r"\blimit\b[^.\n]{0,20}\b(?:reached|exceeded|hit)\b[^.\n]{0,40}\b(?:daily|per[- ](?:day|week|month))\b"),
    # gateways: reached its quota of 2,000,000 input tokens per day; tokens per day has exceeded your quota (2026-11)
    regex(rf"\b{_EXCEEDED}\b[^.\n]{{0,20}}\b{_LIMIT}\b[^.\n]{{0,40}}\b{_PER_DAY}\b"),
    regex(rf"\b{_PER_DAY}\b[^.\n]{{0,20}}\b{_EXCEEDED}\b[^.\n]{{0,20}}\b{_LIMIT}\b"),
    # Gemini, gateways (2026-11)
    regex(r"\b(?:quota|allowance)\b[^.\n]{0,30}\b(?:exhausted|depleted|used up|consumed)|\bno (?:remaining )?quota\b"),
    regex(r"\b(?:plan|subscription|trial)\b[^.\n]{0,30}\b(?:has )?expired"),  # Z.ai 1309 (2026-11)
)
"""Error texts for a used-up allowance of a period (hours, day, week, month) or of a plan."""
ALLOWANCE_CODES = frozenset(("1304", "1308", "1309", "1310"))
"""Error codes of Z.ai for used-up allowances of a day, five hours or a week, and for an expired plan (docs.z.ai, error
codes, read 2026-11)."""
_STATUSES = (None, 400, 403, 404, 412, 413, 422, 429, 451, 500)
"""HTTP statuses of provider errors that are searched for a used-up quota. None: no status reported."""
_LONG_SECONDS = 60.0
"""Minimum retry delay in seconds of a used-up allowance. After a shorter delay, the official SDKs retry by
themselves."""
_SHORT = compile_later(
    r"\bper[- ](?:minute|min|second)\b|\b[tr]pm\b|concurren|try again in (?:\d+m)?[\d.]+ ?(?:ms|s\b|sec)", re.IGNORECASE
)


def find_exhausted_quota(fault: UpstreamFault) -> Literal["billing", "allowance"] | None:
    """Return the kind of quota that is used up. None: the error has another cause."""
    if fault.status not in _STATUSES and not (fault.status == 401 and fault.codes & BILLING_CODES):  # OpenCode Zen
        return None
    is_short = _SHORT.search(fault.message) is not None
    if fault.codes & BILLING_CODES or (not is_short and matches_any(BILLING_TEXTS, fault.message)):
        return "billing"
    if states_no_access(fault.message):  # a retry cannot help, although Gemini states a short retry delay (2026-11)
        return "allowance"
    if is_short or (fault.retry_after or _LONG_SECONDS) < _LONG_SECONDS:
        return None
    return "allowance" if fault.codes & ALLOWANCE_CODES or matches_any(ALLOWANCE_TEXTS, fault.message) else None


MAX_MESSAGE_CHARACTERS = 2_000
MAX_PROXY_RETRY_DELAY_SECONDS = 5
"""The proxy itself retries if the provider asks for a delay up to this number of seconds. After a longer delay, only
the client may retry."""
DEFAULT_503_RETRY_AFTER_SECONDS = 2.0
"""Seconds before a retry, of the proxy and of the client, if a provider answered status 503 without a delay."""


class _Row(Struct, frozen=True):
    """Conditions on a provider error, and the error for the client. One true condition suffices."""

    status: int
    kind: str
    statuses: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None
    """Searched in the provider's error message. None: no condition on the message."""
    only: tuple[int | None, ...] = ()
    """HTTP statuses of the provider with which `text` is searched. Empty: any status. None: an error in a stream."""
    should_retry: bool | None = None
    """Value of the header `x-should-retry` for the client. None: the header is not sent."""
    code: str = ""
    """Code of the error. "": that of the status."""
    parameters: tuple[str, ...] = ()
    """Rejected parameters with one of the statuses `only`."""

    def matches(self, fault: UpstreamFault) -> bool:
        if fault.status in self.statuses or not fault.codes.isdisjoint(self.codes):
            return True
        if fault.parameter in self.parameters and fault.status in self.only:
            return True
        pattern = self.text
        if pattern is None or (self.only and (fault.status not in self.only or _asks_wrong(fault))):
            return False
        # patterns of a beginning are meant for the text of the server behind a gateway
        return any(pattern.search(text) is not None for text in {fault.message, remove_wrappers(fault.message)})


def _asks_wrong(fault: UpstreamFault) -> bool:
    """Return True for an error in a stream that the request has caused. It has a type in place of a status."""
    return fault.status is None and not fault.codes.isdisjoint(("invalid_request_error", "INVALID_ARGUMENT"))


_PLACES = ("property", "field", "key", "argument", "parameter")
_NO_PLACE = "".join(f"(?<!{place} )" for place in _PLACES) + r"(?<!\w\.)(?!(?<=[`'\"])model[`'\"])"
"""Before the word `model`: it is not the name of a place in the request (`property 'model'`, `properties.model`)."""
_IN_A_SCHEMA = r" in [^.\n]{0,40}\b(?:enum|schema|tools?|propert(?:y|ies)|parameters?|arguments?|definitions?)\b"
_NAMED_MODEL = rf"{_NO_PLACE}\bmodel\b(?!['’]s)(?:[: ] ?[`'\"]?[^\s`'\"]{{1,200}}[`'\"]?)?"
_REGION = "unsupported_country_region_territory"
_BILLING, _ALLOWANCE = _Row(402, "billing_error", should_retry=False), _Row(429, "rate_limit_error", should_retry=False)
_ROWS = (
    # The codes include the error types of the Messages API, which an error in a stream has instead of a status, and
    # names of errors of Amazon Bedrock (docs.aws.amazon.com, "InvokeModelWithResponseStream", read 2026-11).
    _Row(402, "billing_error", (402,), ("billing_error",), should_retry=False),
    _Row(
        *(401, "authentication_error", (401,), ("invalid_api_key", "API_KEY_INVALID", "authentication_error")),
        text=regex(
            r"api key not valid|incorrect api key|\binvalid api[ _-]?key\b|\bapi[ _-]?key is (?:invalid|incorrect)\b"
        ),
        should_retry=False,
    ),
    # Z.ai 1000 to 1004, also with status 200 (docs.z.ai, error codes, read 2026-11)
    _Row(
        *(401, "authentication_error"),
        text=regex(r"^(?:invalid )?authentication (?:failed|token|parameter not received)\b"),
        only=(None, 400, 500),
        should_retry=False,
    ),
    # OpenAI, 403 (songquanpeng/one-api issue 1692, continuedev/continue issue 11449; 2026-11)
    _Row(
        *(403, "permission_error"),
        codes=(_REGION,),
        text=regex(r"^user location is not supported for the api use\b|^country, region, or territory not supported\b"),
        only=(None, 400, 403),
        code="region",
    ),
    _Row(403, "permission_error", (403,), ("PERMISSION_DENIED", "permission_error", "AccessDeniedException")),
    _Row(
        *(404, "not_found_error", (404, 410)),
        ("model_not_found", "NOT_FOUND", "not_found_error", "ResourceNotFoundException"),
        regex(r"^model [\"'`].*[\"'`] not found|^the model [\"'`][^\"'`]{1,200}[\"'`] does not exist\b"),
    ),
    # Bedrock (sst/opencode issue 396, mlcommons/modelbench issue 1654), Vertex AI, DeepSeek, OpenRouter, Groq, Azure
    # (Azure-Samples/azure-search-openai-demo issue 3057, microsoft/Generative-AI-for-beginners-dotnet issue 302;
    # 2026-11)
    _Row(
        *(404, "not_found_error"),
        codes=("model_decommissioned", "unavailable_model", "unknown_model", "invalid_model", "OperationNotSupported"),
        text=regex(
            r"^invalid model: |^the provided model identifier is invalid\b|^model not exist\b"
            r"|\bis not a valid model id\b|\bon-demand throughput is(?:n['’]t| not) supported\b"
            r"|\bdoes(?:n['’]t| not) support on-demand throughput\b"
            r"|\bpublisher model\b.{0,300}\bis not servable in region\b|^the model .{1,200} has been decommissioned\b"
        ),
        only=(None, 400, 500),
    ),
    # The model is not one of the server's: Z.ai, SiliconFlow, xAI, GitHub Copilot, LiteLLM, MiniMax, CLIProxyAPI
    # (openclaw/openclaw issue 64840, anthropics/claude-code-action issue 594; 2026-11)
    _Row(
        *(404, "not_found_error"),
        codes=("1211", "20012", "model_not_supported", "model_not_exist", "invalid_model_error", "model_unavailable"),
        text=regex(
            r"\b(?:unknown|invalid|no such|unrecogni[sz]ed|non-?existent|unavailable|unsupported|not a valid|no)\b"
            rf"(?: \w+ for)? (?:\w+ )?{_NO_PLACE}model(?:[ -](?:name|id|code|identifier))?\b"
            r"(?! (?:parameter|output|response|type|feature|option|config|version|setting|argument|input|param|propert"
            r"|field|key\b)\w*)(?![\w-]| (?:does|is|can|supports?|has)\b)"
            rf"|{_NAMED_MODEL},? (?:(?:does|do|did) not |doesn['’]t |not )exist\b(?!{_IN_A_SCHEMA})"
            rf"|{_NAMED_MODEL},? (?:(?:is|was|has) )?(?:not|n['’]t) (?:yet |been )?(?:found\b(?!{_IN_A_SCHEMA})"
            r"|(?:available|deployed|served|loaded|registered|configured|hosted|offered|enabled|supported)"
            r"(?= ?(?:$|[.,;!:(]|on (?:this|the|our)|by (?:this|the|our)|in (?:this|your|the)|here|for (?:your|this))))"
            r"|模型[^。，,\n]{0,12}(?:不存在|未找到|无效|不可用)|(?:未知|无效|找不到)[^。，,\n]{0,6}模型"
        ),
        only=(None, 400, 422, 500),
        parameters=("model",),
    ),
    # Bedrock (repost.aws, "InvokeModel API error"), Vertex AI (yym68686/uni-api issue 41) (2026-11)
    _Row(
        *(403, "permission_error"),
        text=regex(r"^operation not allowed\b|\bproject\b.{0,200}\bis not allowed to use publisher model\b"),
        only=(None, 400),
    ),
    _Row(429, "rate_limit_error", text=RATE_LIMIT_WORDS, only=(413,), should_retry=False),
    _Row(413, "request_too_large", (413,), ("request_too_large",), regex(r"^request payload size exceeds")),
    _Row(
        *(529, "overloaded_error", (498, 529)),
        (
            *("engine_overloaded_error", "overloaded_error", "insufficient_system_resource", "network_error"),
            *("UNAVAILABLE", "ServiceUnavailableException", "server_is_overloaded", "slow_down", "1305"),
        ),
        regex(r"overload|capacity|too busy|high demand"),
        only=(503,),
    ),
    # The same failure as an event of a stream or with a general status: OpenAI (zyycn/codex-proxy-rs issue 90), Gemini,
    # gateways (2026-11)
    _Row(
        *(529, "overloaded_error"),
        text=regex(r"\boverloaded\b|\b(?:at|over|insufficient|no|out of) capacity\b|\btoo busy\b|\bhigh demand\b"),
        only=(None, 500, 502),
    ),
    _Row(
        *(429, "rate_limit_error", (429,)),
        (
            *("RESOURCE_EXHAUSTED", "rate_limit_exceeded", "rate_limit_reached_error", "rate_limit_error"),
            *("ThrottlingException", "ServiceQuotaExceededException", "ModelNotReadyException"),
            *("1302", "1303"),  # Z.ai: concurrency and frequency (docs.z.ai, error codes, read 2026-11)
        ),
    ),
    # The same as an event of a stream or in a body with status 200, and from gateways with a general status (2026-11).
    _Row(
        *(429, "rate_limit_error"),
        text=regex(
            r"\brate[ _-]?limit(?:s|ed)?\b[^.\n]{0,40}\b(?:reached|exceeded|hit)\b"
            r"|\b(?:reached|exceeded|hit)\b[^.\n]{0,40}\brate[ _-]?limits?\b|\brate[ _-]?limited\b"
            r"|\btoo many (?:concurrent |parallel )?requests\b|\bhigh (?:concurrency|frequency) usage\b"
            r"|\bconcurren\w+\b[^.\n]{0,30}\b(?:limit|exceed\w*|reached|too high)\b"
            r"|\b(?:reached|exceed\w*|hit)\b[^.\n]{0,40}\bconcurren\w+|并发数?过高|频率过高|请求过于频繁"
        ),
        only=(None, 500, 502),
    ),
    _Row(503, "api_error", (503,)),
    _Row(508, "api_error", (508,)),
    _Row(502, "api_error", codes=("tool_use_failed",)),
    _Row(504, "timeout_error", (504, 408), ("DEADLINE_EXCEEDED", "timeout_error", "ModelTimeoutException")),
    # 424: what the server depends on has failed, not the request. Bedrock sends it for a `ModelErrorException`.
    # 499: Google has cancelled the request.
    _Row(500, "api_error", (424, 499), ("ModelErrorException", "ModelStreamErrorException", "CANCELLED")),
    _Row(409, "conflict_error", (409,)),
    # RFC 9110 (407, 421), RFC 8470 (425), RFC 6585 (511), RFC 7725 (451)
    *(_Row(status, "api_error", (status,), should_retry=False) for status in (407, 421, 425, 511)),
    _Row(451, "permission_error", (451,), should_retry=False),
    _Row(400, "invalid_request_error", tuple(range(400, 500)), ("ValidationException",)),
)
_WHOLE_TEXTS = tuple(
    (compile_anchored(text, re.IGNORECASE), code)
    for text, code in (
        # xAI, 400 (2026-11)
        (
            r"incorrect api key provided: \S{0,20}\*{3}\S{0,20}\. you can obtain an api key from https://console\.x\.ai\.?",
            "invalid_api_key",
        ),
        # Gemini at its path for OpenAI's SDK, 400 (2026-11)
        (r"api key not valid\. please pass a valid api key\.", "invalid_api_key"),
        # Anthropic, 400 `invalid_request_error` (2026-11)
        (
            r"your credit balance is too low to access the [a-z]{1,20} api\."
            r"(?: please go to plans & billing to upgrade or purchase credits\.)?",
            "billing_error",
        ),
        # Gemini, 400 FAILED_PRECONDITION (google-gemini/gemini-cli issue 24641, langgenius/dify issue 25946; 2026-11)
        (r"user location is not supported for the api use\.?", _REGION),
    )
)
"""Complete error messages without a code of their own, and the code that has their meaning. The client cannot cause
them: what quotes a client has words around the quote."""
_NO_KINDS = (401, 402)
"""HTTP statuses with a fixed meaning: 401 (invalid key) and 402 (payment). These errors are not searched for wrong
sizes or images."""
_SERVER_FAILED, _CLIENT_FAILED = _Row(500, "api_error"), _Row(400, "invalid_request_error")


def build_upstream_error(
    fault: UpstreamFault,
    provider: str,
    known: KnownTokenCounts = KnownTokenCounts(),  # noqa: B008  # frozen
) -> UpstreamError:
    """Return the error for the client that corresponds to a provider error."""
    error = _build_error(fault, provider, known)
    error.provider_text = fault.message[:MAX_MESSAGE_CHARACTERS]
    stated = _read_without_texts(fault)
    error.stated_status, error.stated_retry_after = _find_stated_status(stated), stated.retry_after
    error.is_repairable = _may_be_about_form(fault.codes)
    error.states_account = stated.has_used_up_limit or _names_account(stated.codes)
    if error.status in ACCOUNT_STATUSES and error.stated_status not in ACCOUNT_STATUSES:
        error.code = STATED_IN_TEXT
    return error


def _find_stated_status(stated: UpstreamFault) -> int:
    """Return the status that an error has by its status and codes. One without a row of its own stays: 415, 422."""
    row = _find_row(stated)
    is_general = row.status == 400 and stated.status is not None and 400 <= stated.status < 500
    return stated.status if is_general and stated.status is not None else row.status


def _read_without_texts(fault: UpstreamFault) -> UpstreamFault:
    stated = fault.without_texts or UpstreamFault()
    code = next((code for pattern, code in _WHOLE_TEXTS if pattern.fullmatch(fault.message)), None)
    return stated if code is None else structs.replace(stated, codes=stated.codes | {code})


def _build_error(fault: UpstreamFault, provider: str, known: KnownTokenCounts) -> UpstreamError:
    if fault.is_unreadable_output:
        return UnreadableReply(
            f"{provider}: the model's reply could not be read ({fault.message})"[:MAX_MESSAGE_CHARACTERS],
            provider=provider,
        )
    cause: UpstreamErrorCause | None = None
    if fault.status not in _NO_KINDS:
        if (shortage := find_token_limit_fault(fault, known)) is not None:
            is_overflow = shortage.cause.kind == "overflow"
            error: UpstreamError = UpstreamRefused(
                shortage.message or f"{provider}: {fault.text}"[:MAX_MESSAGE_CHARACTERS],
                code="prompt-too-long" if is_overflow else "",
                provider=provider,
                status=400,
                kind="invalid_request_error",
                parameter="messages" if is_overflow else "max_tokens",
            )
            error.cause = shortage.cause
            if RATE_LIMIT_WORDS.search(fault.message):
                # Anthropic's text has no word for a rate limit, so the log shows the original
                error.add_note(fault.text[:200])
            return error
        cause = find_content_refusal(fault)
    if cause is not None:
        row = _CLIENT_FAILED
    else:
        row = _find_row(fault)
        cause = UpstreamErrorCause(kind="quota") if row in (_BILLING, _ALLOWANCE) else None
        if cause is None and row.status == 429 and exceeds_other_limit(fault.message):
            row, cause = _ALLOWANCE, UpstreamErrorCause(kind="too_many")
    error = _build_error_of_row(row, fault, provider)
    error.cause = cause
    return error


def _find_row(fault: UpstreamFault) -> _Row:
    quota = find_exhausted_quota(fault)
    if quota is not None:
        return _BILLING if quota == "billing" else _ALLOWANCE
    general = _CLIENT_FAILED if _asks_wrong(fault) else _SERVER_FAILED
    return next((row for row in _ROWS if row.matches(fault)), general)


def _build_error_of_row(row: _Row, fault: UpstreamFault, provider: str) -> UpstreamError:
    text = f"{provider}: {fault.text}" if fault.text else f"{provider} returned HTTP {fault.status or row.status}"
    delay = fault.retry_after
    # the error is temporary, and its retry delay short; status 429 requires a stated delay
    is_passing = delay is not None if row.status == 429 else row.status in (502, 503, 529) or fault.status == 502
    is_final = fault.is_permanent or row.should_retry is False or (delay or 0) > MAX_PROXY_RETRY_DELAY_SECONDS
    if row.status == 503 and delay is None:
        delay = DEFAULT_503_RETRY_AFTER_SECONDS
    per_day = row.status == 429 and any("perday" in code.lower() for code in fault.codes)
    kinds = {529: UpstreamOverloaded, 504: UpstreamTimeout}
    error = kinds.get(row.status, UpstreamRefused)(
        text[:MAX_MESSAGE_CHARACTERS],
        code=row.code,
        provider=provider,
        status=row.status,
        kind=row.kind,
        retryable=is_passing and not is_final,
        retry_after=delay,
        should_retry=False if per_day or fault.is_permanent else row.should_retry,
        parameter=fault.parameter,
    )
    error.provider_status = fault.status
    if fault.excerpt:
        error.add_note(fault.excerpt)
    return error


def build_call_error(fault: UpstreamFault, call: TranslatedCall[BaseDialect]) -> UpstreamError:
    """`build_upstream_error` with the provider and the token counts of a call."""
    known = KnownTokenCounts(call.effective_max_input_tokens, call.estimate_input_tokens, call.request.max_tokens)
    return build_upstream_error(fault, call.provider_prefix, known)


def find_reply_end(fault: UpstreamFault, provider: str, *, has_content: bool = False) -> Stop | None:
    """Return the end of the reply that a provider reports as an error. None: the error is a failure.

    The ends are: a refusal of the content, a reached output limit and, if content was received (`has_content`), a full
    context window. The client receives a reply with this stop reason, and no other provider is tried.
    """
    if fault.is_unreadable_output:
        return None
    if is_policy_refusal(fault):
        return build_blocked_reply_stop(provider, fault.text or "content policy")
    if reached_output_limit(fault):
        return Stop("max_tokens")
    return Stop("model_context_window_exceeded") if has_content and names_full_context(fault) else None
