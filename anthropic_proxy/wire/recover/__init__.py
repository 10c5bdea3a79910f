"""What a model meant where a server did not understand it: calls and reasoning in text, odd names, broken arguments."""

from anthropic_proxy.wire.recover.answer_text import AnswerText
from anthropic_proxy.wire.recover.arguments import is_object, mend_arguments
from anthropic_proxy.wire.recover.call_mender import CallMender
from anthropic_proxy.wire.recover.conventions import TEXT_CONVENTIONS, TextConvention
from anthropic_proxy.wire.recover.offered import UNNAMED, OfferedTools
from anthropic_proxy.wire.recover.text_calls import TextCalls
from anthropic_proxy.wire.recover.thinking import TAGS, ThinkingTags, ThinkTags

__all__ = [
    "TAGS",
    "TEXT_CONVENTIONS",
    "UNNAMED",
    "AnswerText",
    "CallMender",
    "OfferedTools",
    "TextCalls",
    "TextConvention",
    "ThinkTags",
    "ThinkingTags",
    "is_object",
    "mend_arguments",
]
