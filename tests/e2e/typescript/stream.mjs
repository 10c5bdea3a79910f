import { client, MODEL, said, tell, textOf } from "./client.mjs";

const pieces = [];
const stream = client.messages.stream({ model: MODEL, max_tokens: 200, messages: said("Count to 40") });
stream.on("text", (piece) => pieces.push(piece));
const final = await stream.finalMessage();

const kinds = [];
const events = await client.messages.create({ model: MODEL, max_tokens: 50, messages: said("Count to 3"), stream: true });
for await (const event of events) kinds.push(event.type);
tell({ pieces: pieces.length, joined: pieces.join(""), text: textOf(final), stop: final.stop_reason, output: final.usage.output_tokens, kinds });
