import { client, MODEL, said, tell, textOf } from "./client.mjs";

const tools = [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
const turns = said("Compare the weather in Oslo and Rome");
const stream = client.messages.stream({ model: MODEL, max_tokens: 200, tools, messages: turns });
const first = await stream.finalMessage();
const calls = first.content.filter((block) => block.type === "tool_use");
const weather = { Oslo: "snow", Rome: "sun" };
const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: weather[call.input.city] })).reverse();
const second = await client.messages.create({
  model: MODEL, max_tokens: 200, tools,
  messages: [...turns, { role: "assistant", content: first.content }, { role: "user", content: results }],
});
tell({ stop: first.stop_reason, inputs: calls.map((call) => call.input), text: textOf(second) });
