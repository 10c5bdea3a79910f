import { client, MODEL, tell, textOf } from "./client.mjs";

// a conversation of five calls, with edits that the model's side makes, as a whole message, as a stream, and counted
const cities = ["Oslo", "Rome", "Bern", "Kyiv", "Riga"];
const tools = [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
const messages = [{ role: "user", content: "Tell the weather of five cities." }];
for (const city of cities) {
  const id = `toolu_${city}`;
  messages.push({ role: "assistant", content: [{ type: "tool_use", id, name: "get_weather", input: { city } }] });
  messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: id, content: `${city}: ${"rain and wind, ".repeat(200)}` }] });
}
messages.at(-1).content.push({ type: "text", text: "Count to 3" });
const common = { model: MODEL, tools, messages, betas: ["context-management-2025-06-27"] };
const edited = { ...common, context_management: { edits: [
  { type: "clear_tool_uses_20250919", trigger: { type: "tool_uses", value: 3 }, keep: { type: "tool_uses", value: 2 }, clear_tool_inputs: true },
] } };

const plain = await client.beta.messages.create({ ...common, max_tokens: 4000 });
const whole = await client.beta.messages.create({ ...edited, max_tokens: 4000 });
const streamed = await client.beta.messages.stream({ ...edited, max_tokens: 4000 }).finalMessage();
const none = await client.beta.messages.create({ ...common, context_management: { edits: [] }, max_tokens: 4000 });
const counted = await client.beta.messages.countTokens(edited);
tell({
  texts: [plain, whole, streamed].map(textOf),
  applied: [whole, streamed, none].map((message) => message.context_management.applied_edits),
  unasked: plain.context_management ?? null,
  input: [plain, whole, streamed].map((message) => message.usage.input_tokens + (message.usage.cache_read_input_tokens ?? 0)),
  counted: [counted.context_management?.original_input_tokens ?? null, counted.input_tokens],
});
