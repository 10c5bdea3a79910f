import { betaTool, client, MODEL, said, tell, textOf } from "./client.mjs";

const sums = [];
const add = betaTool({
  name: "add",
  description: "Add two numbers.",
  inputSchema: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } }, required: ["a", "b"] },
  run: ({ a, b }) => { sums.push([a, b]); return String(a + b); },
});
const texts = [];
for (const stream of [false, true]) {
  const runner = client.beta.messages.toolRunner({ model: MODEL, max_tokens: 200, messages: said("Add 3, 4 and 5"), tools: [add], stream });
  texts.push(textOf(await runner.runUntilDone()));
}
tell({ sums, texts });
