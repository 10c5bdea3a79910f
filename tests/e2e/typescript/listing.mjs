import { client, MODEL, said, tell } from "./client.mjs";

const counted = await client.messages.countTokens({ model: MODEL, messages: said("How many are these?"), system: "Be brief." });
const whole = [];
for await (const model of client.models.list({ limit: 1000 })) whole.push(model.id);
const paged = [];
for await (const model of client.models.list({ limit: 3 })) paged.push(model.id);
const one = await client.models.retrieve("claude-openai/gpt-4.1");
tell({ counted: counted.input_tokens, whole, paged, one: one.id });
