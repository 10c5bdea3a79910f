"""Results as JUnit XML, which CI systems show: one test suite for each group, one test case for each check."""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from messages_conformance.results import describe_failure
from messages_conformance.runner import Outcome, Result


def write_junit(results: Sequence[Result], expected: Mapping[str, str]) -> str:
    """Return the report. A known failure is a skipped case, and a known failure that passes is a failed one."""
    root = ET.Element("testsuites", name="messages-conformance")
    for group in dict.fromkeys(result.check.group for result in results):
        suite = ET.SubElement(root, "testsuite", name=group)
        for result in results:
            if result.check.group == group:
                _add_case(suite, result, expected.get(result.check.id))
        suite.set("tests", str(len(suite)))
        for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(len(suite.findall(f"testcase/{kind}"))))
        suite.set("time", f"{sum(float(case.attrib['time']) for case in suite):.3f}")
    ET.indent(root, " ")
    return ET.tostring(root, "unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, result: Result, known: str | None) -> None:
    check = result.check
    case = ET.SubElement(
        suite, "testcase", classname=f"messages.{check.group}", name=check.id, time=f"{result.seconds:.3f}"
    )
    reason = "; ".join(result.reasons)
    match result.outcome:
        case Outcome.FAILED if known is not None:
            ET.SubElement(case, "skipped", message=f"expected failure: {known}")
        case Outcome.FAILED:
            failure = ET.SubElement(case, "failure", message=reason, type=check.level.value)
            failure.text = describe_failure(result)
        case Outcome.PASSED if known is not None:
            message = "it passes: remove it from the expected failures"
            ET.SubElement(case, "failure", message=message, type="stale")
        case Outcome.PASSED:
            pass
        case Outcome.SKIPPED | Outcome.MODEL | Outcome.UNFINISHED:
            ET.SubElement(case, "skipped", message=reason)
        case Outcome.FAULT:
            error = ET.SubElement(case, "error", message="a fault of the suite, not of the server", type="fault")
            error.text = reason
