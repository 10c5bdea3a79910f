import { betaZodTool, client, MODEL, said, tell, textOf, z, zodOutputFormat } from "./client.mjs";

const City = z.object({ name: z.string(), inhabitants: z.number().int(), rivers: z.array(z.string()) });
const options = { model: MODEL, max_tokens: 4000, messages: said("Name a city"), output_config: { format: zodOutputFormat(City) } };
const whole = await client.messages.parse(options);
const streamed = await client.messages.stream(options).finalMessage();

const add = betaZodTool({
  name: "add",
  description: "Add two numbers.",
  inputSchema: z.object({ a: z.number(), b: z.number() }),
  run: ({ a, b }) => String(a + b),
});
const runner = client.beta.messages.toolRunner({ model: MODEL, max_tokens: 4000, messages: said("Add 3, 4 and 5"), tools: [add] });
const steps = [];
for await (const message of runner) steps.push(message.stop_reason);
tell({ whole: whole.parsed_output, streamed: streamed.parsed_output, steps, sum: textOf(await runner.done()) });
