"""The demonstration finds its way among tools that nobody has shown it: one tool a row, and what to call it with."""

import random
from typing import Any

import pytest

from tests.test_demo import (
    CODE_AGENT,
    ENVIRONMENT,
    FILES,
    HOUSE,
    OFFICE,
    STRING,
    Json,
    answered,
    calls_of,
    complete,
    tool,
)

NUMBER: Json = {"type": "number"}
INTEGER: Json = {"type": "integer"}
TEXTS: Json = {"type": "array", "items": STRING}
DAY: Json = {"type": "string", "format": "date"}
MOMENT: Json = {"type": "string", "format": "date-time"}
CURRENCY: Json = {"type": "string", "enum": ["EUR", "USD"]}
TODAY = {"role": "system", "content": "Today's date is 2026-11-20."}

READ, RUN, LIST = "Read the file notes/todo.md", "Run the command: uname -a", "list the files in src"
WEATHER, FLIGHT = "What's the weather in Paris?", "book a flight from Oslo to Rome on 2026-12-01"
CUSTOMER, MONEY = "look up customer 4711", "convert 12 USD to EUR"
EVENT, SEARCH = "create a calendar event tomorrow", "search the web for octopus facts"


def referring(name: str, argument: str, *, whole: bool) -> Json:
    """Return a tool without any description whose argument, or whole schema, stands under a reference."""
    inner: Json = {"type": "object", "properties": {argument: STRING}, "required": [argument]}
    parts: Json = {**inner, "properties": {argument: {"$ref": "#/$defs/It"}}, "$defs": {"It": STRING}}
    schema = {"$ref": "#/$defs/It", "$defs": {"It": inner}} if whole else parts
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def texts(*names: str) -> Json:
    return dict.fromkeys(names, STRING)


ONE_TOOL: list[tuple[str, Json, Json]] = [
    (READ, tool("fetch_document", "Loads a document by its URI", uri=STRING), {"uri": "notes/todo.md"}),
    (READ, tool("get_file_contents", "", filename=STRING), {"filename": "notes/todo.md"}),
    (READ, tool("view", "", target_file=STRING), {"target_file": "notes/todo.md"}),
    (READ, tool("load", "", resource=STRING), {"resource": "notes/todo.md"}),
    (READ, tool("file_reader", "", location=STRING), {"location": "notes/todo.md"}),
    (READ, tool("file_viewer", "", input=STRING), {"input": "notes/todo.md"}),
    (READ, tool("read_text", "", source=STRING), {"source": "notes/todo.md"}),
    (READ, tool("slurp", "Reads the contents of a file", name=STRING), {"name": "notes/todo.md"}),
    (READ, tool("read_many", "Reads files", paths=TEXTS), {"paths": ["notes/todo.md"]}),
    (
        READ,
        tool("fs_read", "", parts={"type": "array", "items": {"type": "object", "properties": {"path": STRING}}}),
        {"parts": [{"path": "notes/todo.md"}]},
    ),
    ("read a.txt", referring("mcp__x__read", "path", whole=False), {"path": "a.txt"}),
    ("read a.txt", referring("mcp__x__read", "input", whole=False), {"input": "a.txt"}),
    ("read a.txt", referring("mcp__x__read", "value", whole=True), {"value": "a.txt"}),
    (RUN, tool("terminal", "", input=STRING), {"input": "uname -a"}),
    (RUN, tool("execute_command", "", command=STRING), {"command": "uname -a"}),
    (RUN, tool("bash", "", code=STRING), {"code": "uname -a"}),
    (RUN, tool("sh", "", c=STRING), {"c": "uname -a"}),
    ("please run: uname -a", tool("run_shell", "", line=STRING), {"line": "uname -a"}),
    ("execute uname -a", tool("console", "Sends a line to the console", text=STRING), {"text": "uname -a"}),
    ("run `ls -la /tmp`", tool("run", "Run a program", argv=TEXTS), {"argv": ["ls", "-la", "/tmp"]}),
    (
        "run `grep 'a b' x.txt`",
        tool("shell", "", required=["command"], command=TEXTS, workdir=STRING),
        {"command": ["grep", "a b", "x.txt"]},
    ),
    (
        "run `ls -la /tmp`",
        tool("execute", "", program=STRING, args=TEXTS),
        {"program": "ls", "args": ["-la", "/tmp"]},
    ),
    (LIST, tool("list_dir", "", dir=STRING), {"dir": "src"}),
    (LIST, tool("ls", "", path=STRING), {"path": "src"}),
    (LIST, tool("readdir", "", p=STRING), {"p": "src"}),
    (LIST, tool("browse_folder", "", location=STRING), {"location": "src"}),
    (LIST, tool("bash", "", command=STRING), {"command": "ls -la src"}),
    ("What files are in src?", tool("list_files", "", uri=STRING), {"uri": "src"}),
    ("show me the files in the src folder", tool("directory_tree", "", root=STRING), {"root": "src"}),
    ("list files in `src`", tool("list_files", "", directory=STRING), {"directory": "src"}),
    ("list the files here", tool("list_dir", "", dir=STRING), {"dir": "."}),
    (WEATHER, tool("get_weather", "", location=STRING), {"location": "Paris"}),
    (WEATHER, tool("forecast", "", q=STRING), {"q": "Paris"}),
    ("Will it rain in Paris tomorrow?", tool("lookup_temperature", "", town=STRING), {"town": "Paris"}),
    (
        WEATHER,
        tool("weather", "", place={"type": "object", "properties": texts("city"), "required": ["city"]}),
        {"place": {"city": "Paris"}},
    ),
    (
        FLIGHT,
        tool("book_flight", "", origin=STRING, destination=STRING, date=DAY),
        {"origin": "Oslo", "destination": "Rome", "date": "2026-12-01"},
    ),
    (
        FLIGHT,
        tool("flights_reserve", "", **texts("from_city", "to_city", "when")),
        {"from_city": "Oslo", "to_city": "Rome", "when": "2026-12-01"},
    ),
    (CUSTOMER, tool("lookup_customer", "", customer_id=STRING), {"customer_id": "4711"}),
    (CUSTOMER, tool("fetch_customer_record", "", customerNumber=INTEGER), {"customerNumber": 4711}),
    (
        MONEY,
        tool("fx", "Converts money", quantity=NUMBER, **texts("src", "dst")),
        {"quantity": 12, "src": "USD", "dst": "EUR"},
    ),
    (
        MONEY,
        tool("convert_currency", "", amount=NUMBER, **{"from": CURRENCY, "to": CURRENCY}),
        {"amount": 12, "from": "USD", "to": "EUR"},
    ),
    (
        "convert 12 miles to km",
        tool("convert_units", "", value=NUMBER, **texts("from_unit", "to_unit")),
        {"value": 12, "from_unit": "miles", "to_unit": "km"},
    ),
    (EVENT, tool("create_event", "", title=STRING, date=DAY), {"title": "Calendar event", "date": "2026-11-21"}),
    (EVENT, tool("calendar_create", "", name=STRING, when=STRING), {"name": "Calendar event", "when": "tomorrow"}),
    (
        "schedule a meeting with Bob tomorrow at 3 pm",
        tool("create_calendar_event", "", summary=STRING, start=MOMENT, end=MOMENT),
        {"summary": "Meeting with Bob", "start": "2026-11-21T15:00:00Z", "end": "2026-11-21T16:00:00Z"},
    ),
    (
        'put an event "Lunch" into my calendar next Monday',
        tool("add_event", "Day as YYYY-MM-DD", title=STRING, day={"type": "string", "description": "YYYY-MM-DD"}),
        {"title": "Lunch", "day": "2026-11-23"},
    ),
    (SEARCH, tool("web_search", "", query=STRING), {"query": "octopus facts"}),
    (SEARCH, tool("tavily_search", "", query=STRING), {"query": "octopus facts"}),
    (SEARCH, tool("google", "Searches the web", text=STRING), {"text": "octopus facts"}),
    (SEARCH, tool("internet_search", "", input=STRING), {"input": "octopus facts"}),
]


@pytest.mark.parametrize(
    ("prompt", "offered", "arguments"), ONE_TOOL, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_one_unknown_tool_is_called_as_it_wants(prompt: str, offered: Json, arguments: Json) -> None:
    history = [TODAY, {"role": "user", "content": prompt}]
    choice = await complete(history, [offered])
    assert calls_of(choice) == [(offered["function"]["name"], arguments)]
    assert calls_of(await complete(answered(history, choice, "done"), [offered])) == []


READS = """
Lies die Datei notes/todo.md
Lies bitte notes/todo.md vor
Was steht in notes/todo.md?
Zeig mir den Inhalt von notes/todo.md
Kannst du die Datei notes/todo.md lesen?
Lis le fichier notes/todo.md
Ouvre le fichier notes/todo.md
Peux-tu lire notes/todo.md ?
Lee el archivo notes/todo.md
Muestra el contenido de notes/todo.md
¿Qué dice notes/todo.md?
"""
RUNS = """
Führe den Befehl `uname -a` aus
Führe uname -a aus
Bitte den Befehl uname -a ausführen
Exécute la commande `uname -a`
Lance la commande uname -a
Ejecuta el comando `uname -a`
Ejecuta uname -a
"""
LISTS = """
Liste die Dateien in src auf
Zeige die Dateien im Ordner src
Welche Dateien sind in src?
Liste les fichiers dans src
Quels fichiers y a-t-il dans src ?
Lista los archivos en src
¿Qué archivos hay en src?
"""
FOREIGN = [
    *((prompt, ("read_file", {"path": "notes/todo.md"})) for prompt in READS.strip().splitlines()),
    *((prompt, ("execute_command", {"command": "uname -a"})) for prompt in RUNS.strip().splitlines()),
    *((prompt, ("list_directory", {"path": "src"})) for prompt in LISTS.strip().splitlines()),
]


@pytest.mark.parametrize(("prompt", "call"), FOREIGN)
async def test_plain_wishes_in_german_french_and_spanish_are_understood(prompt: str, call: tuple[str, Json]) -> None:
    assert calls_of(await complete(prompt, FILES)) == [call]


ODD = [
    tool("fetch_document", "Loads a document by its URI", uri=STRING),
    tool("terminal", "", input=STRING),
    tool("list_dir", "", dir=STRING),
    tool("web_search", "Search the web", query=STRING),
    tool("create_event", "Creates a calendar event", title=STRING, start=MOMENT),
    tool("convert_currency", "", amount=NUMBER, **texts("from", "to")),
    tool("get_weather", "Current weather", location=STRING),
    tool("book_flight", "Books a flight", origin=STRING, destination=STRING, date=DAY),
    tool("lookup_customer", "", customer_id=STRING),
    tool("send_email", "Sends an e-mail", **texts("to", "subject", "body")),
    tool("translate_text", "Translates text", **texts("text", "target_language")),
    tool("set_timer", "Starts a timer", minutes=INTEGER),
    tool("delete_file", "Deletes a file", path=STRING),
]
AMONG_MANY: list[tuple[str, list[tuple[str, Json]]]] = [
    (READ, [("fetch_document", {"uri": "notes/todo.md"})]),
    ("read https://example.com/a", [("fetch_document", {"uri": "https://example.com/a"})]),
    (RUN, [("terminal", {"input": "uname -a"})]),
    (LIST, [("list_dir", {"dir": "src"})]),
    (WEATHER, [("get_weather", {"location": "Paris"})]),
    (FLIGHT, [("book_flight", {"origin": "Oslo", "destination": "Rome", "date": "2026-12-01"})]),
    (CUSTOMER, [("lookup_customer", {"customer_id": "4711"})]),
    (MONEY, [("convert_currency", {"amount": 12, "from": "USD", "to": "EUR"})]),
    (EVENT, [("create_event", {"title": "Calendar event", "start": "2026-11-21T09:00:00Z"})]),
    (SEARCH, [("web_search", {"query": "octopus facts"})]),
    ('translate "good day" to French', [("translate_text", {"text": "good day", "target_language": "French"})]),
    ("set a timer for 5 minutes", [("set_timer", {"minutes": 5})]),
    ("delete the file old.txt", [("delete_file", {"path": "old.txt"})]),
    (
        "find customer 4711 and tell me the weather in Oslo",
        [("lookup_customer", {"customer_id": "4711"}), ("get_weather", {"location": "Oslo"})],
    ),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("prompt", "expected"), AMONG_MANY, ids=[prompt for prompt, _ in AMONG_MANY])
async def test_the_right_one_of_many_is_called_in_whatever_order_they_stand(
    prompt: str, expected: list[tuple[str, Any]], seed: int
) -> None:
    offered = random.Random(seed).sample(ODD, len(ODD))
    assert calls_of(await complete([TODAY, {"role": "user", "content": prompt}], offered)) == expected


@pytest.mark.parametrize(
    "tools", [ODD, CODE_AGENT, FILES, OFFICE, HOUSE], ids=["odd", "code", "files", "office", "house"]
)
@pytest.mark.parametrize(
    "prompt",
    [
        "He lies about everything",
        "the report lies in src",
        "Lee is my friend, is he yours?",
        "list three reasons to learn Rust",
        "list the planets in order",
        "what files should I look at?",
        "look at the bright side",
        "run faster",
        "run the tests",
        "read my mind",
        "search your memory",
        "open the door",
        "create a function that adds two numbers",
        "How do I convert a document?",
        "What is a calendar?",
        "What can you do?",
    ],
)
async def test_talk_is_no_wish(tools: list[Json], prompt: str) -> None:
    assert calls_of(await complete([ENVIRONMENT, {"role": "user", "content": prompt}], tools)) == []


LAST = tool(
    "StructuredOutput",
    "Use this tool to return your final response in the requested structured format. "
    "You MUST call this tool exactly once at the end of your response to provide the structured output.",
    colour=STRING,
    brightness={"type": "integer", "minimum": 0, "maximum": 9},
)


async def test_a_tool_that_must_end_every_answer_is_called_once_at_its_end() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt"}]
    tools = [LAST, *CODE_AGENT]
    choice = await complete(history, tools)
    assert [name for name, _ in calls_of(choice)] == ["Read"]
    history = answered(history, choice, "apples")
    choice = await complete(history, tools)
    ((name, arguments),) = calls_of(choice)
    assert name == "StructuredOutput"
    assert isinstance(arguments["colour"], str)
    assert 0 <= arguments["brightness"] <= 9
    for result in ("Structured output provided successfully", "[tool error] Output does not match the schema"):
        assert calls_of(await complete(answered(history, choice, result), tools)) == []


async def test_values_of_a_structured_answer_come_from_the_prompt_where_they_can() -> None:
    choice = await complete("Which brightness? 7, and the colour is blue", [LAST])
    assert calls_of(choice) == [("StructuredOutput", {"colour": "blue", "brightness": 7})]
