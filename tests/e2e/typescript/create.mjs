import { client, MODEL, said, tell, textOf } from "./client.mjs";

const message = await client.messages.create({ model: MODEL, max_tokens: 100, messages: said("Say exactly: good day ☀") });
tell({ text: textOf(message), model: message.model, stop: message.stop_reason, usage: message.usage, id: message.id, request: message._request_id });
