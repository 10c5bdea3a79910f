import csv
import io
import json
from decimal import Decimal

import msgspec
import pytest

from anthropic_proxy.console.ledger.api import build_schemas
from anthropic_proxy.console.ledger.export import (
    FORMATS,
    ExportTable,
    build_request_object,
    encode_json,
    tabulate_requests,
)
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import stream_stored_requests
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Cost
from tests.support.ledger import new_receipt, reading, store

NOTE = FidelityNote("dropped", "top_k", "not supported")
COST = Cost(123_456_789_012_345, 1, "list")
"""Amounts that a binary floating point number cannot represent, or only as 1e-09."""


async def test_both_formats_have_the_same_columns_and_values(sqlite: Settings) -> None:
    await store(
        sqlite,
        new_receipt(1, project="=1+1", fidelity=FidelityReport(notes=[NOTE]), failed_attempts=["groq: 429"]),
        new_receipt(2, first_token_seconds=None, output_tokens=0),
        cost=COST,
    )
    with reading(sqlite) as engine, engine.connect() as connection:
        table = tabulate_requests(stream_stored_requests(connection))
    first, second = csv.DictReader(io.StringIO(table.build_download("requests", "csv").body.decode()))
    objects = json.loads(table.build_download("requests", "json").body, parse_float=Decimal)
    assert [*objects[0]] == [*first]
    assert (first["started_at"], objects[0]["started_at"]) == ("2026-11-21T12:00:00.001Z",) * 2
    assert (first["cost"], objects[0]["cost"]) == ("123456.789012345", Decimal("123456.789012345"))
    assert (first["requested_cost"], objects[0]["requested_cost"]) == ("0.000000001", Decimal("0.000000001"))
    assert (first["project"], objects[0]["project"]) == ("'=1+1", "=1+1")
    assert (first["duration_seconds"], objects[0]["duration_seconds"]) == ("1.5", Decimal("1.5"))
    assert json.loads(first["notes"]) == objects[0]["notes"] == [msgspec.to_builtins(NOTE)]
    assert json.loads(first["failed_attempts"]) == objects[0]["failed_attempts"]
    assert (second["first_token_seconds"], objects[1]["first_token_seconds"]) == ("", None)
    assert (second["notes"], objects[1]["notes"]) == ("", [])


async def test_one_request_has_the_values_of_a_list(sqlite: Settings) -> None:
    await store(sqlite, new_receipt(1))
    with reading(sqlite) as engine, engine.connect() as connection:
        (row,) = stream_stored_requests(connection)
    assert json.loads(encode_json(build_request_object(row))) == json.loads(
        encode_json(tabulate_requests([row]).list_json_objects()[0])
    )
    assert build_request_object(row)["cost"] is None


@pytest.mark.parametrize("form", FORMATS)
def test_a_download_is_a_file_with_a_name(form: str) -> None:
    response = ExportTable(("model", "cost"), [("＝1", Decimal("1E-7")), ("@x", None), (" -2", 0)]).build_download(
        "models", form
    )
    assert response.headers["content-disposition"] == f'attachment; filename="models.{form}"'
    assert response.headers["cache-control"] == "no-store"
    assert (
        response.body
        == {
            "csv": "model,cost\r\n'＝1,0.0000001\r\n'@x,\r\n' -2,0\r\n".encode(),
            "json": '[{"model":"＝1","cost":1E-7},{"model":"@x","cost":null},{"model":" -2","cost":0}]'.encode(),
        }[form]
    )


def test_no_cell_begins_a_formula_if_a_program_separates_cells_by_semicolons() -> None:
    texts = ["a;=1", "a; @x", 'a;"+1', "a\n-1", "a; b", "a=1"]
    table = ExportTable(("text",), [*([text] for text in texts), [["a;=1"]]])
    *cells, listed = [row["text"] for row in csv.DictReader(io.StringIO(table.encode_csv(), newline=""))]
    assert cells == ["a;'=1", "a; '@x", "a;\"'+1", "a\n'-1", "a; b", "a=1"]
    assert ";=" not in listed
    assert json.loads(listed) == ["a;=1"]


def test_no_cell_controls_the_terminal_that_shows_it() -> None:
    table = ExportTable(("text",), [["a\x1b[2Jb\x9bc"], [["d\x9be"]]])
    assert table.encode_csv() == 'text\r\na\\x1b[2Jb\\x9bc\r\n"[""d\\u009be""]"\r\n'


def test_the_schema_of_a_request_has_every_field_of_its_calls_and_blocks() -> None:
    row = StoredRequest(attempt_times='[[1,2,"groq","small",200,"",""]]', reply_blocks='[["text","",5]]')
    row.checks, row.tool_times = '[{"call":"toolu_1","tool":"Bash","verdict":"flagged"}]', '[["Bash",1166000]]'
    found, schema = build_request_object(row), build_schemas()["Request"]
    assert list(found) == list(schema["properties"])
    for name in ("attempt_times", "reply_blocks", "checks", "tool_times"):
        assert found[name][0].keys() == schema["properties"][name]["items"]["properties"].keys()
