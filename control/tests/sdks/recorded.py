"""The calls of calls.json as clients send them that cannot run here: .NET's SDK, PHP's, and `dapr invoke`.

usage: recorded.py dotnet|php|cli CALLS.json    (prints a line of JSON per call: what came back)

Each request is written byte for byte as that client of Dapr 1.18 writes it: its lines, their order, its framing.
"""

import base64
import http.client
import json
import os
import socket
import sys
import urllib.parse

PORT = int(os.environ["DAPR_HTTP_PORT"])
TOKEN = os.environ.get("DAPR_API_TOKEN")


def dotnet(verb, path, query, body, content_type):
    """HttpClient: a body of unknown length goes in chunks, the token is one of the request's own lines."""
    lines = [f"Host: 127.0.0.1:{PORT}", "User-Agent: dapr-sdk-dotnet/v1.18.0"]
    if TOKEN:
        lines.append(f"dapr-api-token: {TOKEN}")
    if body:
        if content_type == "application/json":
            content_type = "application/json; charset=utf-8"
        lines += ["Transfer-Encoding: chunked", f"Content-Type: {content_type}"]
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif verb != "GET":
        lines.append("Content-Length: 0")
    return head(verb, path, query, lines) + body


def php(verb, path, query, body, content_type):
    """Guzzle over curl; each segment of the path goes through rawurlencode."""
    path = "/".join(urllib.parse.quote(segment, safe="-_.~") for segment in path.split("/"))
    lines = [
        f"Host: 127.0.0.1:{PORT}",
        "User-Agent: DaprPHPSDK/v1.2",
        "Accept: application/json",
        f"Content-Type: {content_type or 'application/json'}",
    ]
    if TOKEN:
        lines.append(f"dapr-api-token: {TOKEN}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return head(verb, path, query, lines) + body


def cli(verb, path, query, body, content_type):
    """Go's net/http, as `dapr invoke` uses it: a request without a body still names a type."""
    lines = [f"Host: 127.0.0.1:{PORT}", "User-Agent: Go-http-client/1.1"]
    if body or verb in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    lines.append(f"Content-Type: {content_type or 'application/json'}")
    if TOKEN:
        lines.append(f"Dapr-Api-Token: {TOKEN}")
    lines.append("Accept-Encoding: gzip")
    return head(verb, path, query, lines) + body


def head(verb, path, query, lines):
    target = f"{path}?{query}" if query else path
    return ("\r\n".join([f"{verb} {target} HTTP/1.1", *lines]) + "\r\n\r\n").encode()


CLIENTS = {"dotnet": dotnet, "php": php, "cli": cli}
# What each asks before its first call, and must be told.
PROBES = {
    "dotnet": ("/v1.0/healthz/outbound", 204),
    "php": ("/v1.0/healthz", 204),
    "cli": ("/v1.0/metadata", 200),
}


def exchange(stream, verb, request):
    stream.sendall(request)
    answer = http.client.HTTPResponse(stream, method=verb)
    answer.begin()
    return answer.status, answer.read()


def main():
    client, calls = sys.argv[1:]
    write = CLIENTS[client]
    with open(calls, encoding="utf-8") as file:
        calls = json.load(file)
    with socket.create_connection(("127.0.0.1", PORT), timeout=10) as stream:
        path, expected = PROBES[client]
        status, _ = exchange(stream, "GET", write("GET", path, "", b"", None))
        assert status == expected, f"{path} is answered with {status}"
        for call in calls:
            body = bytes(range(256)) if call.get("allBytes") else call.get("text", "").encode()
            path = f"/v1.0/invoke/{call['app']}/method/{call['method']}"
            query = urllib.parse.urlencode([tuple(pair) for pair in call.get("query", [])])
            request = write(call["verb"], path, query, body, call.get("contentType"))
            status, body = exchange(stream, call["verb"], request)
            body = base64.b64encode(body).decode()
            print(json.dumps({"name": call["name"], "status": status, "body": body}), flush=True)


if __name__ == "__main__":
    main()
