import { client, MODEL, said, tell } from "./client.mjs";

const seen = { connect: 0, text: 0, thinking: 0, inputJson: 0, contentBlock: 0, message: 0, finalMessage: 0, end: 0 };
const tools = [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
const stream = client.messages.stream({
  model: MODEL, max_tokens: 4000, tools, messages: said("Compare the weather in Oslo and Rome"),
  thinking: { type: "enabled", budget_tokens: 2000 },
});
for (const name of Object.keys(seen)) stream.on(name, () => { seen[name] += 1; });
const final = await stream.finalMessage();
await stream.done();
tell({ seen, blocks: final.content.map((block) => block.type), inputs: final.content.filter((block) => block.type === "tool_use").map((block) => block.input) });
