import { Anthropic, MODEL, said, tell } from "./client.mjs";

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: "the-clients-own" }); // with its own retries
const seen = [];
for (const stream of [false, true]) {
  try {
    await client.messages.create({ model: MODEL, max_tokens: 9, messages: said("hi"), stream });
  } catch (error) {
    seen.push([error.constructor.name, error.status ?? 0, error.error?.error?.type ?? ""]);
  }
}
tell({ seen });
