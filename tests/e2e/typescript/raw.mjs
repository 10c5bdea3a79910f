import { Anthropic, client, MODEL, said, tell, textOf } from "./client.mjs";

const options = { model: MODEL, max_tokens: 4000, messages: said("Count to 5") };
const { data, response, request_id } = await client.messages.create(options).withResponse();
let slow = "none";
try {
  await client.messages.create({ ...options, messages: said("Count to 5 [fault:late seconds=60]") }, { timeout: 700 });
} catch (error) {
  slow = error instanceof Anthropic.APIConnectionTimeoutError ? "timed out" : String(error);
}
const patient = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: "x", maxRetries: 1 });
const again = await patient.messages.create({ ...options, messages: said("Count to 5 [fault:rate after=1 times=2]") });
const stalled = said(`Count to 30 [fault:stall pieces=${process.env.PIECES} seconds=60]`);
// the first block may be thinking
const stream = await client.messages.create({ ...options, messages: stalled, stream: true, thinking: { type: "adaptive" } });
for await (const event of stream) if (event.type === "content_block_start") break;
tell({ text: textOf(data), header: response.headers.get("request-id"), request: request_id, slow, again: textOf(again) });
