"""A process of a test: listens, dials, and says what it sees. One command a line, one answer a line."""

import errno
import os
import socket
import struct
import sys
import threading

listeners, dialed, accepted, served = {}, {}, [], {}


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listen(host, port):
    listener = socket.socket(family_of(host))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(4096)
    bound = listener.getsockname()[1]
    listeners[bound] = listener
    return str(bound)


def close(port):
    listeners.pop(int(port)).close()
    return "closed"


def connect(host, port, protocol=0):
    client = socket.socket(family_of(host), socket.SOCK_STREAM, int(protocol))
    client.settimeout(10)
    client.connect((host, int(port)))
    dialed[client.getsockname()[1]] = client
    peer = client.getpeername()
    return f"{peer[0]} {peer[1]}"


def reconnect(host, port, then_host, then_port):
    """One socket, connected twice."""
    client = socket.socket(family_of(host))
    client.settimeout(10)
    client.connect((host, int(port)))
    # AF_UNSPEC dissolves the connection; Python has no name for it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(client.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "connect AF_UNSPEC")
    client.connect((then_host, int(then_port)))
    dialed[client.getsockname()[1]] = client
    peer = client.getpeername()
    return f"{peer[0]} {peer[1]}"


def fastopen(host, port):
    client = socket.socket(family_of(host))
    client.sendto(b"x", socket.MSG_FASTOPEN, (host, int(port)))
    return "sent"


def udp(host, port):
    client = socket.socket(family_of(host), socket.SOCK_DGRAM)
    client.connect((host, int(port)))
    peer = client.getpeername()
    return f"{peer[0]} {peer[1]}"


def gone(host, port):
    """A client that is closed before anybody accepted it."""
    connect(host, port)
    dialed.popitem()[1].close()
    return "gone"


def identity(connection):
    try:
        value = connection.getsockopt(0x5243, 1, 24)
    except OSError as e:
        # What the kernel says of an option that nobody knows.
        if e.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            return "nobody"
        return errno.errorcode[e.errno]
    cgroup, app, pid, target = struct.unpack("=QQII", value)
    if target == 0:
        return f"{cgroup} {app} {pid}"
    name = connection.getsockopt(0x5243, 3, 128).split(b"\0")[0].decode()
    return f"{cgroup} {app} {pid} {name}"


def accept(port):
    listener = listeners[int(port)]
    listener.settimeout(10)
    connection, _ = listener.accept()
    accepted.append(connection)
    return identity(connection)


def serve(port):
    """Accepts from here on, and counts who came."""
    listener = listeners[int(port)]
    listener.settimeout(None)
    counts = served.setdefault(int(port), {})

    def loop():
        while True:
            connection, _ = listener.accept()
            told = " ".join(identity(connection).split()[:2])
            counts[told] = counts.get(told, 0) + 1
            connection.close()

    threading.Thread(target=loop, daemon=True).start()
    return "serving"


def came(port):
    """Who came, once as many as are expected did."""
    return ", ".join(f"{who}: {count}" for who, count in sorted(served[int(port)].items())) or "nobody"


def storm(host, port, count):
    """Connects that come one after the other; how many were refused, by error."""
    refused = {}
    for _ in range(int(count)):
        client = socket.socket(family_of(host))
        # No TIME_WAIT, or the ports run out.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            client.connect((host, int(port)))
        except OSError as e:
            name = errno.errorcode[e.errno]
            refused[name] = refused.get(name, 0) + 1
        client.close()
    return " ".join(f"{name}={count}" for name, count in sorted(refused.items())) or "none"


def fork(group):
    """Goes on in a child that is in another group."""
    child = os.fork()
    if child != 0:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return move(group)


def move(group):
    with open(f"{group}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    return str(os.getpid())


def become(user):
    os.setgid(int(user))
    os.setuid(int(user))
    return user


COMMANDS = [listen, close, connect, reconnect, fastopen, udp, gone, accept, serve, came, storm, fork, move, become]
BY_NAME = {command.__name__: command for command in COMMANDS}

for line in sys.stdin:
    name, *arguments = line.split()
    try:
        answer = BY_NAME[name](*arguments)
    except OSError as e:
        answer = errno.errorcode.get(e.errno, str(e))
    print(answer, flush=True)
