// The official TypeScript SDK from where the suite installed it, and how a case says what it saw.
import { pathToFileURL } from "node:url";

const place = (file) => import(pathToFileURL(`${process.env.SDK}/${file}`).href);

export const { default: Anthropic } = await place("index.mjs");
export const { betaTool } = await place("helpers/beta/json-schema.mjs");
export const { betaZodTool } = await place("helpers/beta/zod.mjs");
export const { zodOutputFormat } = await place("helpers/zod.mjs");
export const { z } = await import(pathToFileURL(`${process.env.SDK}/../../zod/v4/index.js`).href);

export const MODEL = "claude-sonnet-5-5";
export const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: "the-clients-own", maxRetries: 0 });
export const said = (text) => [{ role: "user", content: text }];
export const textOf = (message) => message.content.map((block) => block.text ?? "").join("");
export const tell = (seen) => console.log(JSON.stringify(seen));
