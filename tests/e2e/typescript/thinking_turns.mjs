import { client, MODEL, tell } from "./client.mjs";

// three turns with thinking; the thinking of the first two is removed from the fourth
const tools = [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
const common = { model: MODEL, max_tokens: 4000, tools, thinking: { type: "adaptive" }, betas: ["context-management-2025-06-27"] };
const messages = [];
for (let turn = 0; turn < 3; turn++) {
  messages.push({ role: "user", content: "Compare the weather in Oslo and Rome" });
  const reply = await client.beta.messages.create({ ...common, messages });
  const calls = reply.content.filter((block) => block.type === "tool_use");
  messages.push({ role: "assistant", content: reply.content });
  messages.push({ role: "user", content: calls.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: "5 degrees" })) });
  const end = await client.beta.messages.create({ ...common, messages });
  messages.push({ role: "assistant", content: end.content });
}
messages.push({ role: "user", content: "Count to 3" });
const edited = { ...common, messages, context_management: { edits: [{ type: "clear_thinking_20251015", keep: { type: "thinking_turns", value: 1 } }] } };
await client.beta.messages.create({ ...common, messages });
const whole = await client.beta.messages.create(edited);
const streamed = await client.beta.messages.stream(edited).finalMessage();
tell({
  thinks: messages.some(({ content }) => content.some?.((block) => block.type === "thinking")),
  applied: [whole, streamed].map((message) => message.context_management.applied_edits.map((edit) => [edit.type, edit.cleared_thinking_turns])),
});
