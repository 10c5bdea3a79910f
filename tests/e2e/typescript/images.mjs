import { client, MODEL, tell, textOf } from "./client.mjs";

// a picture in a message, whole and as a stream, another one in the result of a tool, and a count
const show = (data) => ({ type: "image", source: { type: "base64", media_type: "image/png", data } });
const question = { type: "text", text: "What is in the description?" };
const ask = (...content) => ({ model: MODEL, max_tokens: 4000, messages: [{ role: "user", content }] });

const request = ask(show(process.env.YELLOW), question);
const whole = await client.messages.create(request);
const streamed = await client.messages.stream(request).finalMessage();
const read = await client.messages.create({
  ...ask(),
  tools: [{ name: "Read", input_schema: { type: "object", properties: { path: { type: "string" } } } }],
  messages: [
    { role: "user", content: "Read shot.png" },
    { role: "assistant", content: [{ type: "tool_use", id: "toolu_1", name: "Read", input: { path: "shot.png" } }] },
    { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_1", content: [show(process.env.PURPLE)] }, question] },
  ],
});
const counted = await client.messages.countTokens({ model: MODEL, messages: request.messages });
tell({ texts: [whole, streamed, read].map(textOf), counted: counted.input_tokens });
