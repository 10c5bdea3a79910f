import { readFileSync } from "node:fs";
import { Anthropic, client, MODEL, tell, textOf } from "./client.mjs";

// a PDF in a message, in the result of a tool, cited, and a damaged one
const source = (file) => ({ type: "base64", media_type: "application/pdf", data: file.toString("base64") });
const deed = { type: "document", title: "deed.pdf", source: source(readFileSync(process.env.PDF)) };
const said = { type: "text", text: "Count to 3" };
const ask = (content, more) => ({ model: MODEL, max_tokens: 4000, messages: [{ role: "user", content }], ...more });

const whole = await client.messages.create(ask([deed, said]));
const streamed = await client.messages.stream(ask([deed, said])).finalMessage();
const read = await client.messages.create({
  ...ask("Read deed.pdf"),
  tools: [{ name: "Read", input_schema: { type: "object", properties: { path: { type: "string" } } } }],
  messages: [
    { role: "user", content: "Read deed.pdf" },
    { role: "assistant", content: [{ type: "tool_use", id: "toolu_1", name: "Read", input: { path: "deed.pdf" } }] },
    { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_1", content: [deed] }, said] },
  ],
});
const seen = { texts: [whole, streamed, read].map(textOf) };
if (!process.env.READS_PDF) {
  const cited = [{ ...deed, citations: { enabled: true } }, { type: "text", text: 'Say exactly: It is <cite n="2">signed</cite>.' }];
  const final = await client.messages.stream(ask(cited)).finalMessage();
  seen.cited = final.content.filter((block) => block.type === "text").map((block) => [block.text, block.citations ?? []]);
  seen.refused = await client.messages.create(ask([{ ...deed, source: source(Buffer.from("%PDF-1.7 and nothing else")) }])).then(
    () => null, (error) => [error instanceof Anthropic.BadRequestError, error.error.error.message]);
}
tell(seen);
