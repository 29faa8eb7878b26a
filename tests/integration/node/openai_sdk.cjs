// The unmodified OpenAI SDK for Node against a gateway: node openai_sdk.cjs BASE_URL. Prints one JSON object.
const { OpenAI } = require("openai");

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any" });
  const model = "openai/gpt-4o-mini";
  const messages = [{ role: "user", content: "hi" }];
  const whole = await client.chat.completions.create({ model, messages, store: true, metadata: { from: "node" } });
  let streamed = "";
  let usage = null;
  const options = { include_usage: true };
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options: options })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  const events = [];
  for await (const event of await client.responses.create({ model, input: "hi", background: true, stream: true })) events.push(event);
  const final = events.at(-1).response;
  let resumed = true;
  for (let at = 0; at < events.length - 1; at += 1) {
    const rest = [];
    for await (const event of await client.responses.retrieve(final.id, { stream: true, starting_after: at })) rest.push(event);
    resumed &&= JSON.stringify(rest) === JSON.stringify(events.slice(at + 1));
  }
  const helped = await client.responses.stream({ response_id: final.id, starting_after: 4 }).finalResponse();
  const listed = [];
  for await (const one of client.chat.completions.list({ metadata: { from: "node" }, limit: 1 })) listed.push(one.id);
  const { request_id } = await client.models.list().withResponse();
  const refused = {};
  const wrong = {
    empty: () => client.chat.completions.create({ model, messages: [] }),
    unknown: () => client.responses.retrieve("resp_nope"),
    model: () => client.models.retrieve("nope"),
    unserved: () => client.uploads.create({ bytes: 1, filename: "f", mime_type: "text/plain", purpose: "batch" }),
  };
  for (const [name, call] of Object.entries(wrong)) {
    try {
      await call();
    } catch (error) {
      refused[name] = [error.constructor.name, error.status, error.code, error.param, error.type, error.requestID?.slice(0, 4)];
    }
  }
  const made = [];
  for (let n = 0; n < 3; n += 1) made.push((await client.files.create({ file: new File([`${n}`], "f.txt"), purpose: "user_data" })).id);
  await client.files.waitForProcessing(made[0]);
  const pages = [];
  for await (const one of client.files.list({ limit: 1, order: "asc" })) pages.push(one.id);
  const text = whole.choices[0].message.content;
  console.log(JSON.stringify({
    text: text.length > 0 && streamed === text,
    usage: usage.total_tokens > 0,
    resumed,
    helped: helped.output_text === final.output_text || helped.output_text === final.output[0].content[0].text,
    stored: listed.includes(whole.id),
    request_id: request_id.startsWith("req_"),
    refused,
    paged: JSON.stringify(pages) === JSON.stringify(made),
  }));
}

main();
