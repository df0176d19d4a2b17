// An echo server and a client that checks every byte.
// usage: peer.js serve | call URL COUNT
const http = require("http");
const [what, where, count] = process.argv.slice(2);

function body(number) {
  const size = number % 4 === 0 ? 1 + ((number * 7919) % 300000) : 1 + ((number * 31) % 2000);
  const bytes = Buffer.alloc(size);
  for (let place = 0; place < size; place++) {
    const at = place % 65536;
    bytes[place] = (number * 31 + at * 7 + (at >> 8)) & 255;
  }
  return bytes;
}

function call(agent, number) {
  return new Promise((resolve, reject) => {
    const sent = body(number);
    const headers = { "content-length": sent.length };
    const request = http.request(where, { agent, method: "POST", headers }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => {
        const read = Buffer.concat(parts);
        if (answer.statusCode === 200 && read.equals(sent)) return resolve();
        reject(new Error(`call ${number}: ${answer.statusCode}, ${read.length} of ${sent.length}`));
      });
    });
    request.on("error", reject);
    request.end(sent);
  });
}

async function main() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let number = 0; number < Number(count); number++) await call(agent, number);
  console.log("all right");
  agent.destroy();
}

if (what === "serve") {
  const server = http.createServer((request, answer) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      const read = Buffer.concat(parts);
      answer.writeHead(200, { "content-length": read.length });
      answer.end(read);
    });
  });
  server.listen(0, "127.0.0.1", () => console.log("listening at", server.address().port));
} else {
  main().catch((error) => {
    console.log(String(error));
    process.exit(1);
  });
}
