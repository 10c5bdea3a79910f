"""Errors of models and servers that accept no images.

After such an error, the proxy may repeat the request with a text in place of each image. Some servers accept images in
user messages, but not inside tool results; `rejects_tool_result_content` recognizes their errors.
"""

import re

from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault
from anthropic_proxy.engine.wires.failures.kinds import matches_any, regex
from anthropic_proxy.engine.wires.failures.kinds.parameters import PARAMETER_REJECTION_TEXTS
from anthropic_proxy.errors import UpstreamErrorCause

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
IMAGES_UNSUPPORTED_TEXTS = (
    # llama.cpp, clients: this model does not support image input (2026-11)
    regex(
        rf"\b(?:model|endpoint|deployment|server|it)\b[^.\n]{{0,30}}\b{_REFUSED} (?!{_MAKING})(?:\w+ )?"
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
    regex(
        r"不支持[^。，,\n]{0,8}(?:图片|图像|视觉|多模态)|(?:图片|图像|视觉|多模态)[^。，,\n]{0,8}不支持"
    ),  # Z.ai, DashScope (2026-11)
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
_OTHER_REASONS = re.compile(
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
_RESULTS = re.compile(
    r"\b(?:in|inside|within|of|for|as|multi-?modal) (?:an? |the |any )?[`'\"]?"
    r"(?:tool|function)(?:[ _-]?call)?[ _-]?(?:messages?|results?|responses?|outputs?|roles?)\b"
    r"|\brole:? ?[`'\"]?(?:tool|function)\b|\bfunction_?call_?output\b|\.function_?response\b",
    re.IGNORECASE,
)
_RESULT_PATH = re.compile(r"\boutput\b|\bfunction_?response\b", re.IGNORECASE)
"""Pattern of the path of a tool result as rejected parameter: `input[3].output[0]` (OpenAI Responses),
`contents[1].parts[0].function_response` (Gemini)."""
_CODES = frozenset(("image_not_supported", "images_not_supported", "vision_not_supported", "unsupported_image"))
_UNNAMED_CODE = "1210"
"""Error code of Z.ai for `Invalid API parameter`, also sent if a text model receives an image (read 2026-11)."""
_ABSENT_MODEL = re.compile(
    r"\bmodel [`'\"]?[^\s`'\"]{1,200}[`'\"]?,? (?:does not exist|doesn't exist|(?:was |is )?not found)\b", re.IGNORECASE
)
"""Text of an error about a model that the server does not have. It may add that another model accepts images."""
_ABOUT_ANOTHER = re.compile(
    r"\bthink\w*|\breason\w*|\btools?\b|\bmax_tokens\b|\btemperature\b|\btop_p\b", re.IGNORECASE
)


def find_image_refusal(fault: UpstreamFault) -> UpstreamErrorCause | None:
    """Return the cause `images`. None: the request was rejected for another reason, such as one large image."""
    text = f"{fault.message}\n{fault.parameter or ''}"
    if rejects_tool_result_content(fault.message, fault.parameter) or _ABSENT_MODEL.search(fault.message):
        return None
    if _UNNAMED_CODE in fault.codes and fault.parameter is None and not _ABOUT_ANOTHER.search(fault.message):
        return UpstreamErrorCause(kind="images", is_certain=False)
    if fault.codes & _CODES:
        return UpstreamErrorCause(kind="images")
    if matches_any(IMAGES_UNSUPPORTED_TEXTS, fault.message):
        return UpstreamErrorCause(kind="images")
    if _OTHER_REASONS.search(fault.message):
        return None
    last = (fault.parameter or "").rpartition(".")[2].lower()
    is_named = last in ("image_url", "image", "input_image") and "unsupported" in " ".join(fault.codes).lower()
    if matches_any(IMAGE_REJECTION_TEXTS, text) or is_named:
        return UpstreamErrorCause(kind="images")
    return UpstreamErrorCause(kind="images", is_certain=False) if matches_any(PART_LIST_REJECTION_TEXTS, text) else None


def rejects_tool_result_content(message: str, parameter: str | None) -> bool:
    return matches_any(PARAMETER_REJECTION_TEXTS, message) and bool(
        _RESULTS.search(message) or _RESULT_PATH.search(parameter or "")
    )


def rejects_tool_result_images(message: str, parameter: str | None) -> bool:
    return rejects_tool_result_content(message, parameter) and re.search(rf"\b{_IMAGE}\b", message, re.I) is not None
