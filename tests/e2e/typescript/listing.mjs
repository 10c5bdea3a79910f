import { client, MODEL, said, tell } from "./client.mjs";

const counted = await client.messages.countTokens({ model: MODEL, messages: said("How many are these?"), system: "Be brief." });
const whole = [];
for await (const model of client.models.list({ limit: 1000 })) whole.push(model.id);
const paged = [];
for await (const model of client.models.list({ limit: 1 })) paged.push(model.id);
const one = await client.models.retrieve(whole.at(-1));
tell({ counted: counted.input_tokens, whole, paged, one: one.id });
