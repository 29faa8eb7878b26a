// The unmodified Vercel AI SDK against a gateway: node ai_sdk.mjs BASE_URL. Prints one JSON object.
import { createOpenAI } from "@ai-sdk/openai";
import * as ai from "ai";

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: "any" });
const name = "openai/gpt-4o-mini";
const out = {};
for (const kind of ["chat", "responses"]) {
  const model = openai[kind](name);
  const whole = await ai.generateText({ model, prompt: "hi" });
  const stream = ai.streamText({ model, prompt: "hi" });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  out[kind] = whole.text.length > 0 && text === whole.text && (await stream.usage).totalTokens > 0;
}

const ask = (id, model = name) => ({ id, type: "text", model, prompt: `hi ${id}` });
const started = await ai.experimental_startBatch({ provider: openai, requests: [ask("a"), ask("b")] });
let seen = started;
while (!["completed", "failed"].includes(seen.status)) seen = await ai.experimental_getBatchStatus({ provider: openai, batch: started });
out.batch = seen.status;
out.results = {};
for await (const one of ai.experimental_getBatchResults({ provider: openai, batch: started })) out.results[one.id] = [one.status, one.text?.length > 0];

const held = await ai.experimental_startBatch({ provider: openai, requests: [ask("c", `${name}@sim:delay=60000`)] });
await ai.experimental_cancelBatch({ provider: openai, batch: held });
do seen = await ai.experimental_getBatchStatus({ provider: openai, batch: held }); while (!["completed", "failed", "cancelled"].includes(seen.status));
out.cancelled = seen.status;
const ids = [];
let cursor;
do {
  const page = await ai.experimental_listBatches({ provider: openai, limit: 1, cursor });
  ids.push(...page.batches.map((one) => one.id));
  cursor = page.nextCursor;
} while (cursor);
out.listed = ids.includes(started.id) && ids.includes(held.id) && new Set(ids).size === ids.length;
try {
  await ai.generateText({ model: openai.chat(name), messages: [{ role: "user", content: "hi" }], temperature: 9, maxRetries: 0 });
} catch (error) {
  out.refused = [error.statusCode, error.data?.error?.param];
}
console.log(JSON.stringify(out));
