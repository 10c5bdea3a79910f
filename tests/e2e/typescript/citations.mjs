import { client, MODEL, tell } from "./client.mjs";

const citations = { enabled: true };
const content = [
  { type: "document", title: "Nature", citations, source: { type: "text", media_type: "text/plain", data: "The grass is green. The sky is blue." } },
  { type: "search_result", source: "https://example.org/sea", title: "The sea", citations, content: [{ type: "text", text: "The sea is blue." }] },
  { type: "text", text: 'Say exactly: The <cite n="2">sky</cite> and <cite n="3">the sea</cite> are.' },
];
const request = { model: MODEL, max_tokens: 4000, messages: [{ role: "user", content }] };
const blocks = (message) => message.content.filter((block) => block.type === "text").map((block) => [block.text, block.citations ?? []]);

const whole = await client.messages.create(request);
const quoted = []; // what the helper had of the text when each quotation came
const stream = client.messages.stream(request);
stream.on("citation", (citation, snapshot) => quoted.push([citation.cited_text, snapshot.length]));
const streamed = await stream.finalMessage();

let refused = null;
content.push({ type: "document", source: { type: "text", media_type: "text/plain", data: "Not cited." } });
try {
  await client.messages.create(request);
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, message: error.error.error.message };
}
tell({ whole: blocks(whole), streamed: blocks(streamed), quoted, refused });
