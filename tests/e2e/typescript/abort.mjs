import { Anthropic, client, MODEL, said, tell } from "./client.mjs";

const stream = client.messages.stream({ model: MODEL, max_tokens: 90, messages: said("Count to 30 [fault:stall pieces=6 seconds=60]") });
stream.on("text", () => stream.abort());
let kind = "none";
try {
  await stream.finalMessage();
} catch (error) {
  kind = error instanceof Anthropic.APIUserAbortError ? "aborted" : String(error);
}
tell({ kind });
