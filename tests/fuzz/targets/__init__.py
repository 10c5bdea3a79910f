"""All targets of the fuzzer, by name."""

from collections.abc import Mapping

from tests.fuzz.targets import answers, head, requests, texts, wires
from tests.fuzz.targets.target import Target

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (*wires.TARGETS, *texts.TARGETS, *requests.TARGETS, *head.TARGETS, *answers.TARGETS)
}
