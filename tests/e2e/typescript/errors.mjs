import { Anthropic, client, MODEL, said, tell } from "./client.mjs";

const seen = {};
async function attempt(name, act) {
  try {
    await act();
    seen[name] = null;
  } catch (error) {
    const kind = error instanceof Anthropic.APIError ? error.constructor.name : `not an API error: ${error}`;
    seen[name] = { kind, status: error.status ?? null, type: error.type ?? error.error?.error?.type ?? null, request: error.requestID ?? null };
  }
}
for (const fault of ["unauthorized", "forbidden", "missing", "rate after=30", "server", "overloaded", "overflow"]) {
  for (const stream of [false, true]) {
    await client.messages.create({ model: MODEL, max_tokens: 5, messages: said("Count to 2") }); // or nobody is asked for a while
    await attempt(`${fault} ${stream}`, () =>
      client.messages.create({ model: MODEL, max_tokens: 5, messages: said(`hi [fault:${fault}]`), stream }));
  }
}
await attempt("no max_tokens", () => client.messages.create({ model: MODEL, messages: said("hi") }));
let came = "";
await attempt("cut", async () => {
  const stream = client.messages.stream({ model: MODEL, max_tokens: 90, messages: said("Count to 30 [fault:cut pieces=5]") });
  stream.on("text", (piece) => { came += piece; });
  await stream.finalMessage();
});
tell({ seen, came });
