"""Tool calls as models write them in text."""

import json
from typing import Any

import msgspec

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS, TOOL_CALL_FORMATS
from tests.support.decoding import new_limits

TOOLS: dict[str, dict[str, Any]] = {
    "Read": {"properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["path"]},
    "Run": {"properties": {"command": {"type": "string"}, "background": {"type": "boolean"}}, "required": ["command"]},
    "now": {"properties": {}},
}
READ = '{"path": "a.py", "limit": 3}'
RUN = '{"command": "echo \\"<hi>\\""}'
FORMS = {
    "hermes": f'<tool_call>\n{{"name": "Read", "arguments": {READ}}}\n</tool_call>\n'
    f'<tool_call>\n{{"arguments": {RUN}, "name": "Run"}}\n</tool_call>',
    "functions": "<tool_call>\n<function=Read>\n<parameter=path>\na.py\n</parameter>\n<parameter=limit>\n3\n"
    "</parameter>\n</function>\n</tool_call>\n<function=Run>\n<parameter=command>\n"
    'echo "<hi>"\n</parameter>\n</function>\n</tool_call>',
    "function_json": f"<function=Read>{READ}</function><function=Run>{RUN}</function>",
    "keys": "<tool_call>Read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n<arg_key>limit</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call><tool_call>Run<arg_key>command</arg_key>"
    '<arg_value>echo "<hi>"</arg_value></tool_call>',
    "python_tag": f'<|python_tag|>{{"name": "Read", "parameters": {READ}}}; {{"name": "Run", "parameters": {RUN}}}',
    "listed": f'[TOOL_CALLS] [{{"name": "Read", "arguments": {READ}}}, {{"name": "Run", "arguments": {RUN}}}]',
    "section": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.Read:0<|tool_call_argument_begin|>{READ}"
    f"<|tool_call_end|><|tool_call_begin|>functions.Run:1<|tool_call_argument_begin|>{RUN}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    "barred": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>Read\n```json\n{READ}\n```"
    "<｜tool▁call▁end｜>\n"
    f"<｜tool▁call▁begin｜>Run<｜tool▁sep｜>{RUN}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "tool_code": '```tool_code\nprint(default_api.Read(path="a.py", limit=3))\nRun(command=\'echo "<hi>"\')\n```',
    "channel": f"<|channel|>commentary to=functions.Read <|constrain|>json<|message|>{READ}<|call|>"
    f"<|start|>assistant to=functions.Run<|channel|>commentary json<|message|>{RUN}<|call|>",
    "invoke": '<function_calls>\n<invoke name="Read">\n<parameter name="path">a.py</parameter>\n'
    '<parameter name="limit">3</parameter>\n</invoke>\n<invoke name="Run">\n'
    '<parameter name="command">echo "<hi>"</parameter>\n</invoke>\n</function_calls>',
    "braces": '<|tool_call>call:Read{limit:3,path:<|"|>a.py<|"|>}<tool_call|>'
    '<|tool_call>call:Run{command:<|"|>echo "<hi>"<|"|>}<tool_call|>',
    "marked": ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="Read">]<]minimax[>[<path>a.py]<]minimax[>[</path>'
    ']<]minimax[>[<limit>3]<]minimax[>[</limit>]<]minimax[>[</invoke>\n]<]minimax[>[<invoke name="Run">\n'
    ']<]minimax[>[<command>echo "<hi>"]<]minimax[>[</command>\n]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>',
    "bare_json": f'{{"name": "Read", "parameters": {READ}}}\n{{"type": "function", "function": '
    f'{{"name": "Run", "arguments": {RUN}}}}}',
    "bare_python": '[Read(path="a.py", limit=3), Run(command=\'echo "<hi>"\')]',
}
MORE_FORMS = {
    "named lists": f"[TOOL_CALLS]Read[ARGS]{READ}[TOOL_CALLS]Run[CALL_ID]abc123DEF[ARGS]{RUN}",
    "lists without a mark for arguments": f"[TOOL_CALLS]Read{READ}[TOOL_CALLS]Run{RUN}",
    "built-in tools": '<|python_tag|>Read.call(path="a.py", limit=3)\nRun.call(command=\'echo "<hi>"\')',
    "calls without a section": f"<|tool_call_begin|>Read:0<|tool_call_argument_begin|>{READ}<|tool_call_end|>"
    f"<|tool_call_begin|>Run:1<|tool_call_argument_begin|>{RUN}<|tool_call_end|>",
    "one tag for both": f'<tool_call>{{"name": "Read", "arguments": {READ}}}\n'
    f'{{"name": "Run", "arguments": {RUN}}}</tool_call>',
    "no last tag": f'<tool_call>{{"name": "Read", "arguments": {READ}}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {RUN}}}',
    "arguments as text": f'<tool_call>{{"name": "Read", "arguments": {json.dumps(READ)}}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {json.dumps(RUN)}}}</tool_call>',
    "odd names": f'<tool_call>{{"name": "functions.read", "arguments": {READ}}}</tool_call>'
    f'<tool_call>{{"name": "RUN", "arguments": {RUN}}}</tool_call>',
    "a comma too many": '<tool_call>{"name": "Read", "arguments": {"path": "a.py", "limit": 3,}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {RUN}}}</tool_call>',
    "bars and names": '<｜DSML｜function_calls><｜DSML｜invoke name="Read">'
    '<｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>'
    '<｜DSML｜parameter name="limit" string="false">3</｜DSML｜parameter></｜DSML｜invoke>'
    '<｜DSML｜invoke name="Run"><｜DSML｜parameter name="command" string="true">echo "<hi>"</｜DSML｜parameter>'
    "</｜DSML｜invoke></｜DSML｜function_calls>",
    "bars and names of the next version": '<｜DSML｜tool_calls><｜DSML｜invoke name="Read">'
    '<｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>'
    '<｜DSML｜parameter name="limit" string="false">3</｜DSML｜parameter></｜DSML｜invoke>'
    '<｜DSML｜invoke name="Run"><｜DSML｜parameter name="command" string="true">echo "<hi>"</｜DSML｜parameter>'
    "</｜DSML｜invoke></｜DSML｜tool_calls>",
    "names between bars without a wrapper": '<｜DSML｜invoke name="Read">'
    '<｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>'
    '<｜DSML｜parameter name="limit" string="false">3</｜DSML｜parameter></｜DSML｜invoke>'
    '<｜DSML｜invoke name="Run"><｜DSML｜parameter name="command" string="true">echo "<hi>"</｜DSML｜parameter>'
    "</｜DSML｜invoke>",
    "names between bars of ASCII": '<|DSML|tool_calls><|DSML|invoke name="Read">'
    '<|DSML|parameter name="path" string="true">a.py</|DSML|parameter>'
    '<|DSML|parameter name="limit" string="false">3</|DSML|parameter></|DSML|invoke>'
    '<|DSML|invoke name="Run"><|DSML|parameter name="command" string="true">echo "<hi>"</|DSML|parameter>'
    "</|DSML|invoke></|DSML|tool_calls>",
    "elements of Kimi K3": '<|open|>tools<|sep|><|open|>call tool="Read" index="0"<|sep|>'
    '<|open|>argument key="path" type="string"<|sep|>a.py<|close|>argument<|sep|>'
    '<|open|>argument key="limit" type="number"<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|>'
    '<|open|>call tool="Run" index="1"<|sep|><|open|>argument key="command" type="string"<|sep|>echo "<hi>"'
    "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    "one tag for lines": f'<tool_calls>\n{{"name": "Read", "arguments": {READ}}}\n'
    f'{{"name": "Run", "arguments": {RUN}}}\n</tool_calls>',
    "a tag of LongCat": f'<longcat_tool_call>{{"name": "Read", "arguments": {READ}}}</longcat_tool_call>\n'
    f'<longcat_tool_call>\n{{"name": "Run", "arguments": {RUN}}}\n</longcat_tool_call>',
    "a wrapper of dots": '<dots_function_call>\n<invoke name="Read">\n<parameter name="path">a.py</parameter>\n'
    '<parameter name="limit">3</parameter>\n</invoke>\n<invoke name="Run">\n'
    '<parameter name="command">echo "<hi>"</parameter>\n</invoke>\n</dots_function_call>',
    "one tag for a list": f'<TOOLCALL>[{{"name": "Read", "arguments": {READ}}}, '
    f'{{"name": "Run", "arguments": {RUN}}}]</TOOLCALL>',
    "a token for a list": f'<|tool_call|>[{{"name": "Read", "arguments": {READ}}}, '
    f'{{"name": "Run", "arguments": {RUN}}}]<|/tool_call|>',
    "functions in another tag": "<seed:tool_call>\n<function=Read>\n<parameter=path>a.py</parameter>\n"
    "<parameter=limit>3</parameter>\n</function>\n</seed:tool_call>\n<seed:tool_call><function=Run>"
    '<parameter=command>echo "<hi>"</parameter></function></seed:tool_call>',
    "Python between tokens": '<|tool_call_start|>[Read(path="a.py", limit=3), Run(command=\'echo "<hi>"\')]'
    "<|tool_call_end|>",
    "an object behind a sign": f"<function=Read={READ}</function>\n<function=Run,{RUN}</function>",
    "an object in brackets": f"<function=Read({READ})></function><function=Run{RUN}></function>",
    "parameters without ends": "<tool_call>\n<function=Read>\n<parameter=path>\na.py\n<parameter=limit>\n3\n"
    "</function>\n</tool_call>\n<tool_call>\n<function=Run>\n<parameter=command>\n"
    'echo "<hi>"\n</tool_call>',
    "arguments without ends": '<invoke name="Read">\n<parameter name="path">a.py\n<parameter name="limit">3'
    '</parameter>\n</invoke>\n<invoke name="Run">\n<parameter name="command">echo "<hi>"</invoke>',
    "keys without ends": "<tool_call>Read\n<arg_key>path</arg_key>\n<arg_value>a.py\n<arg_key>limit</arg_key>\n"
    '<arg_value>3\n</tool_call>\n<tool_call>Run\n<arg_key>command</arg_key>\n<arg_value>echo "<hi>"\n</tool_call>',
    "words for channels": f"assistantcommentary to=functions.Read json{READ}"
    f"assistantcommentary to=functions.Runjson{RUN}<|call|>",
    "one word for a channel": f"commentary to=functions.Readjson{READ}\n"
    f"<|start|>assistantcommentary to=functions.Run {RUN}",
    "words for braces": 'call:Read{path: "a.py", limit: 3}\ncall:Run{command: "echo \\"<hi>\\""}',
    "escapes in braces": "<start_function_call>call:Read{path:<escape>a.py<escape>,limit:3}<end_function_call>"
    '<start_function_call>call:Run{command:<escape>echo "<hi>"<escape>}<end_function_call>',
    "braces without a last end": '<|tool_call>call:Read{path:<|"|>a.py<|"|>,limit:3}<tool_call|><|tool_call>call:Run{'
    'command:<|"|>echo "<hi>"<|"|>}<turn|>',
    "a mark before some tags": '<tool_call>\n]<]minimax[>[<invoke name="Read">'
    "]<]minimax[>[<path>a.py]<]minimax[>[</path>"
    '\n]<]minimax[>[<limit>3]<]minimax[>[</limit>\n</invoke>\n</tool_call>\n]<]minimax[>[<invoke name="Run">'
    ']<]minimax[>[<command>echo "<hi>"]<]minimax[>[</command>]<]minimax[>[</invoke>',
    "input for arguments": f'<tool_call>{{"name": "Read", "input": {READ}}}</tool_call>'
    f'<tool_call>{{"name": "Run", "args": {RUN}}}</tool_call>',
}


def new_call(**fields: Any) -> TranslatedCall:
    body = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": name, "input_schema": {"type": "object", **schema}} for name, schema in TOOLS.items()],
    } | fields
    prepared = prepare(decode_request(msgspec.json.encode(body)), new_limits())
    count = iter(range(1, 1_000_000))
    return TranslatedCall(
        request=prepared.request,
        model="m",
        dialect=openai_chat.Dialect(text_call_formats=TOOL_CALL_FORMATS, thinking_tags=OPENED_THINKING_TAGS),
        streams_upstream=True,
        client_tool_names=prepared.aliases,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider_prefix="somebody",
    )
