"""Words as the demo compares them: stemmed, and with their synonyms made one."""

import re
from collections.abc import Iterable
from functools import cache

_SYNONYMS = """
read open view show display cat contents content say print see inside summarize explain load inspect
run execute exec bash shell sh zsh powershell command cmd terminal launch console subprocess
list ls directory dir folder tree readdir
search find grep lookup look locate query seek
write create save store append make
edit replace change modify update substitute patch
delete remove erase rm
fetch download visit browse url uri http https
web website webpage internet online
weather forecast temperature rain sunny snow humid warm cold umbrella
compute calculate calculator math sum multiply times divide subtract minus evaluate arithmetic plus add product
file document path filename fs
mail email inbox
time clock hour
flight fly plane airline airfare
hotel room accommodation
price cost quote stock share ticker worth
customer client
order purchase
user person people employee contact
calendar event meeting appointment schedule
translate translation
currency exchange money fx dollar euro usd eur gbp
remind reminder todo task
"""
_CONCEPTS = {word: line.split()[0] for line in _SYNONYMS.strip().splitlines() for word in line.split()}


KNOWN = frozenset(_CONCEPTS.values())
"""What words can mean that have synonyms; all others stand for themselves."""


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


VERBS = word_set(
    "read list search write edit delete fetch get do call check send book set retrieve use create make give tell"
    " compute start new current run"
)
"""Concepts that say what is done, not to what; they weigh less when a tool is chosen."""
GENERAL = word_set("get do use call set retrieve current new text data record info information detail")
"""Those of them that nearly every name has."""
_EMPTY = word_set(
    "a an the of for to by in on with and or my your this that it is are be from as at its their i me you we us"
    " api function based please can could would will what who which how does do not no any if"
)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+|\d+")


def split_words(name: str) -> list[str]:
    """Cut an identifier or a sentence into words in lower case: `getCityWeather`, `get_city_weather`."""
    return [word.lower() for word in _PART.findall(name)]


def concepts(words: Iterable[str]) -> set[str]:
    """Return what the words mean, without those that mean nothing."""
    return {_concept(word) for word in words if word not in _EMPTY}


@cache
def _concept(word: str) -> str:
    if word in _CONCEPTS:
        return _CONCEPTS[word]
    stem = word
    doer = word[:-2] if word.endswith(("er", "or")) else ""  # `reader`, `converter`
    if doer in _CONCEPTS or doer + "e" in _CONCEPTS:
        return _CONCEPTS.get(doer) or _CONCEPTS[doer + "e"]
    for ending, replacement, least in (("ies", "y", 5), ("ing", "", 6), ("ed", "", 5), ("es", "", 5), ("s", "", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            stem = word.removesuffix(ending) + replacement
            break
    for candidate in (stem, word.removesuffix("s"), stem + "e", stem[:-1] if stem[-2:-1] == stem[-1:] else stem):
        if candidate in _CONCEPTS:
            return _CONCEPTS[candidate]
    return stem.removesuffix("e")
