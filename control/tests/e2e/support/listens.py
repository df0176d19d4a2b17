"""An app that begins to listen, and says how many milliseconds later its sidecar was ready."""

import socket
import sys
import time

port, sidecar = int(sys.argv[1]), int(sys.argv[2])
# Connected before, so that what is measured is what the sidecar knows.
client = socket.create_connection(("127.0.0.1", sidecar), timeout=10)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def status():
    client.sendall(b"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(4096)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
    length = int(lines.get(b"content-length", b"0"))
    while len(body) < length:
        body += client.recv(4096)
    return int(head.split()[1])


assert status() == 500
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
deadline = time.monotonic() + 10
while True:
    try:
        listener.bind(("127.0.0.1", port))
        break
    except OSError:
        # The kernel may have given it to somebody who dials, for as long as that lasts.
        assert time.monotonic() < deadline, "the port stays in use"
listener.listen(16)
begin = time.monotonic()
while status() != 204:
    assert time.monotonic() < begin + 10, "not ready in 10 s"
print((time.monotonic() - begin) * 1000)
