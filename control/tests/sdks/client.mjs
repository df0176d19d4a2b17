// The calls of calls.json through the JavaScript SDK.
//
// usage: node client.mjs CALLS.json    (prints a line of JSON per call: what the SDK gave back)

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// An import looks beside this file; the SDK is where NODE_MODULES says.
const { DaprClient } = createRequire(join(process.env.NODE_MODULES, "x"))("@dapr/dapr");

const client = new DaprClient({
  daprHost: "127.0.0.1",
  daprPort: process.env.DAPR_HTTP_PORT,
  daprApiToken: process.env.DAPR_API_TOKEN,
  logger: { level: "error" },
});

function body(call) {
  if (call.allBytes) return Buffer.from(Array.from({ length: 256 }, (_, index) => index));
  if (call.text === undefined) return undefined;
  return call.contentType === "application/json" ? JSON.parse(call.text) : call.text;
}

async function invoke(call) {
  const query = new URLSearchParams(call.query ?? []).toString();
  const method = query ? `${call.method}?${query}` : call.method;
  const options = call.contentType ? { headers: { "Content-Type": call.contentType } } : undefined;
  try {
    const answer = await client.invoker.invoke(call.app, method, call.verb.toLowerCase(), body(call), options);
    return { status: 200, body: typeof answer === "string" ? answer : JSON.stringify(answer) };
  } catch (error) {
    const { status, error_msg } = JSON.parse(error.message);
    return { status, body: error_msg };
  }
}

for (const call of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const { status, body } = await invoke(call);
  console.log(JSON.stringify({ name: call.name, status, body: Buffer.from(body).toString("base64") }));
}
await client.stop();
