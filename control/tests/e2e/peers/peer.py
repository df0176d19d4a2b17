# An echo server and a client that checks every byte, with plain blocking sockets.
# usage: peer.py serve | call URL COUNT
import http.client, http.server, sys, urllib.parse


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def body(number):
    size = 1 + number * 7919 % 300_000 if number % 4 == 0 else 1 + number * 31 % 2000
    period = bytes((number * 31 + place * 7 + (place >> 8)) & 255 for place in range(65536))
    return (period * (size // 65536 + 1))[:size]


def call(url, count):
    to = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(to.hostname, to.port)
    for number in range(count):
        sent = body(number)
        connection.request("POST", to.path, sent)
        got = connection.getresponse()
        read = got.read()
        assert got.status == 200, (got.status, read[:200])
        assert read == sent, f"call {number}: {len(read)} of {len(sent)} bytes, or others"
    print("all right", flush=True)


if sys.argv[1] == "serve":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    print("listening at", server.server_address[1], flush=True)
    server.serve_forever()
else:
    call(sys.argv[2], int(sys.argv[3]))
