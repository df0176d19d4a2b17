"""The app that the calls of calls.json reach: it tells what it saw.

usage: app.py NAME PORT    (PORT 0 is any free one; the port is the first line of output)
"""

import base64
import json
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        path, _, query = self.path.partition("?")
        body = self.body()
        if path.startswith("/echo") or self.server.name == "anything":
            self.send(200, "application/json", json.dumps(self.seen(path, query, body)).encode())
        elif path == "/mirror":
            self.send(200, "application/octet-stream", body)
        elif path.startswith("/status/"):
            status = int(path.removeprefix("/status/"))
            self.problem(status, {"problem": "as asked", "status": status})
        else:
            self.problem(404, {"problem": "no such path"})

    def seen(self, path, query, body):
        return {
            "app": self.server.name,
            "verb": self.command,
            "path": urllib.parse.unquote(path),
            "query": query,
            "arguments": urllib.parse.parse_qsl(query),
            "contentType": self.headers.get("content-type", ""),
            "bodyBase64": base64.b64encode(body).decode(),
            "caller": self.headers.get("dapr-caller-app-id"),
            "callerNamespace": self.headers.get("dapr-caller-namespace"),
            "token": self.headers.get("dapr-api-token"),
        }

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def problem(self, status, what):
        self.send(status, "application/json", json.dumps(what).encode())

    def send(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_):
        pass


def main():
    name, port = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), App)
    server.name = name
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
