import { client, MODEL, tell, textOf } from "./client.mjs";

// a conversation above the smallest trigger: summarized within a reply, before it with a pause, and at once
const LIMIT = "Never write to the disk";
const messages = [
  { role: "user", content: `${LIMIT}. ${"Rain and wind. ".repeat(14_400)}` },
  { role: "assistant", content: "It is wet." },
  { role: "user", content: "Say exactly: Sunny" },
];
const dry = { role: "user", content: "Say exactly: Dry" };
const edit = { type: "compact_20260112", trigger: { type: "input_tokens", value: 50_000 } };
const within = (...edits) => ({ betas: ["compact-2026-01-12"], context_management: { edits } });
const paused = { ...edit, pause_after_compaction: true };
const atOnce = { betas: ["compact-2026-09-04"], compaction: { type: "summarize" } };
const ask = (fields, sent = messages) => ({ model: MODEL, max_tokens: 4000, messages: sent, ...fields });

async function streamed(fields) {
  const stream = client.beta.messages.stream(ask(fields));
  const seen = { compaction: [], blocks: [], kinds: [] };
  stream.on("compaction", (text) => seen.compaction.push(text));
  stream.on("contentBlock", (block) => block.type === "compaction" && seen.blocks.push(block));
  stream.on("streamEvent", (event) => event.type.startsWith("content_block_") && seen.kinds.push(event.delta?.type ?? event.type));
  return [await stream.finalMessage(), seen];
}

const shown = ({ content, stop_reason, usage, context_management }) => ({
  types: content.map((block) => block.type),
  block: content[0],
  stop: stop_reason,
  top: [usage.input_tokens + (usage.cache_read_input_tokens ?? 0), usage.output_tokens],
  iterations: usage.iterations.map((one) => [one.type, one.input_tokens + (one.cache_read_input_tokens ?? 0), one.output_tokens]),
  applied: context_management?.applied_edits ?? null,
});

const seen = {};
for (const [name, fields] of Object.entries({ within: within(edit), paused: within(paused), atOnce })) {
  const whole = await client.beta.messages.create(ask(fields));
  const [message, events] = await streamed(fields);
  // a signed block replaces what it summarizes, another one follows it
  const sent = [...(name === "atOnce" ? [] : messages), { role: "assistant", content: message.content }, dry];
  const { compaction, ...rest } = fields;
  const later = await client.beta.messages.create(ask(rest, sent));
  seen[name] = { whole: shown(whole), streamed: shown(message), events, later: textOf(later) };
}
tell(seen);
