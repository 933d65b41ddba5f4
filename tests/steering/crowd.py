"""Many pods at one time: each connection sends one span whose service names the pod and the connection.

all CONNECTIONS    reads a JSON list of pods ({uid, cgroup, namespace}) from stdin; each pod opens so many
                   connections at once, to one destination after the other, and then sends over all of them
reuse COUNT EVERY  reads two pods; both connect from the same few ports of the node's own address and reset each
                   connection, the first one COUNT times; every EVERYth connection sends a span

Prints one JSON object: how many spans were answered, how many connects were made, and what failed.
"""

import ctypes
import errno
import json
import os
import socket
import struct
import sys

DESTINATIONS = [("203.0.113.9", 4317), ("203.0.113.9", 4318), ("2001:db8:213::9", 4318), ("::ffff:203.0.113.9", 4317)]
CLONE_NEWNET = 0x40000000
LINGER = struct.pack("ii", 1, 0)
# Ports of the second mode: few, so that each is used again at once.
PORTS = range(20000, 20064)


def field(number, data):
    assert len(data) < 1 << 14
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def request(service):
    attribute = field(1, b"service.name") + field(2, field(1, service.encode()))
    span = field(1, os.urandom(16)) + field(2, os.urandom(8)) + field(5, b"span")
    body = field(1, field(1, field(1, attribute)) + field(2, field(2, span)))
    head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def export(stream, service):
    stream.settimeout(60)
    stream.sendall(request(service))
    answer = stream.recv(256)
    return answer.startswith(b"HTTP/1.1 200")


def enter(pod):
    # The cgroup of a socket is that of its process at its birth.
    with open(f"{pod['cgroup']}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    if pod.get("namespace"):
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{pod['namespace']}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def crowd(pod, connections):
    streams = []
    for number in range(connections):
        address = DESTINATIONS[number % len(DESTINATIONS)]
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.setblocking(False)
        found = stream.connect_ex(address)
        if found not in (0, errno.EINPROGRESS):
            raise OSError(found, "connect")
        streams.append((stream, address))
    answered = 0
    for number, (stream, address) in enumerate(streams):
        answered += export(stream, f"{pod['uid']} {number}")
        # The name that the application sees is that of the destination which it has asked for.
        if stream.getpeername()[:2] != address:
            raise AssertionError(f"{stream.getpeername()} is not {address}")
    return {"answered": answered, "connects": connections}


def reuse(pod, count, every, offset):
    answered, taken = 0, 0
    for number in range(count):
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        for attempt in range(len(PORTS) * 1000):
            try:
                stream.bind(("10.213.0.1", PORTS[(number * 7 + offset + attempt) % len(PORTS)]))
                stream.connect(("203.0.113.9", 4318))
                break
            except OSError as error:
                # The other pod has it at this moment, or has just had it.
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
                taken += 1
                stream.close()
                stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        if number % every == 0:
            answered += export(stream, f"{pod['uid']} {number}")
        stream.close()
    return {"answered": answered, "connects": count, "taken": taken}


def run(pod, work):
    """Forks a process that does the work in the pod; its answer comes through a pipe."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return read
    os.close(read)
    try:
        enter(pod)
        found = work()
    except BaseException as error:
        found = {"error": f"{pod['uid']}: {error!r}"}
    os.write(write, json.dumps(found).encode())
    os._exit(0)


def main(verb, *words):
    pods = json.load(sys.stdin)
    if verb == "all":
        pipes = [run(pod, lambda pod=pod: crowd(pod, int(words[0]))) for pod in pods]
    else:
        count, every = int(words[0]), int(words[1])
        shares = zip(pods, (count, count // 10), (0, 31))
        pipes = [run(pod, lambda of=(pod, share, every, offset): reuse(*of)) for pod, share, offset in shares]
    total = {"answered": 0, "connects": 0, "errors": []}
    for pipe in pipes:
        with os.fdopen(pipe) as stream:
            found = json.loads(stream.read() or "{\"error\": \"a child has died\"}")
        total["answered"] += found.get("answered", 0)
        total["connects"] += found.get("connects", 0)
        total["errors"] += [found["error"]] if "error" in found else []
    return total


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
