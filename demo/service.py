"""A small HTTP service on Python's standard library: keep-alive, one thread a connection, JSON answers."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    """Answers with what `answer` returns: a status and a value that becomes JSON."""

    protocol_version = "HTTP/1.1"  # HTTP/1.0, the default, would close the connection after each answer
    disable_nagle_algorithm = True  # an answer is small: it must not wait for more to send

    def do_GET(self):
        length = int(self.headers.get("Content-Length", 0))
        status, value = self.server.answer(self.command, self.path, self.rfile.read(length))
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_):
        """No line per request: `answer` prints what is worth reading."""


def serve(name, port, answer):
    """Answers requests on `port` of this machine until SIGTERM or Ctrl-C."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Request)
    print(f"{name} listens on port {port}", flush=True)
    server.daemon_threads = True
    server.answer = answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
