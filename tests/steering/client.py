"""A client in a pod. Prints one JSON value: who answered each connect, and what the socket says of it.

connect ADDRESS PORT...     one after the other, each on a socket of its own
again ADDRESS PORT...       the same, on one socket that is connected again and again without waiting
storm ADDRESS PORT COUNT THREADS   many short connections; counts by what became of them
udp ADDRESS PORT            a datagram, connected and not; who has answered
tls ADDRESS PORT            a first byte of TLS; what comes back
owned ADDRESS PORT          with its socket in a sockhash of its own, as other tools have it
keep ADDRESS PORT COUNT     opens connections and holds them until stdin ends
"""

import errno
import json
import socket
import sys
import threading

ASK = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def who(stream):
    try:
        stream.sendall(ASK)
        first = stream.recv(64)
    except OSError as error:
        return "lost" if error.errno in (errno.ECONNRESET, errno.EPIPE) else errno.errorcode[error.errno]
    if first.startswith(b"HTTP/1.1"):
        return "agent"
    return first.decode() if first else "lost"


def once(address, port, **options):
    stream = socket.socket(family(address), socket.SOCK_STREAM)
    stream.settimeout(10)
    try:
        if options.get("v6only"):
            stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        stream.connect((address, port))
        found = {"peer": list(stream.getpeername()[:2]), "own": stream.getsockname()[0]}
        found["who"] = who(stream)
        return found
    except TimeoutError:
        return {"who": "timeout"}
    except OSError as error:
        return {"who": errno.errorcode.get(error.errno, str(error))}
    finally:
        stream.close()


def pairs(words):
    return [(words[at], int(words[at + 1])) for at in range(0, len(words), 2)]


def again(words):
    found = []
    stream = socket.socket(family(words[0]), socket.SOCK_STREAM)
    for address, port in pairs(words):
        # To no family: the socket may be connected again.
        if found:
            disconnect(stream)
        stream.settimeout(10)
        try:
            stream.connect((address, port))
            found.append({"peer": list(stream.getpeername()[:2])})
        except OSError as error:
            found.append({"peer": errno.errorcode.get(error.errno, str(error))})
    return found


def disconnect(stream):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.connect(stream.fileno(), b"\0" * 16, 16)


def storm(address, port, count, threads):
    counts, lock = {}, threading.Lock()

    def work(share):
        mine = {}
        for _ in range(share):
            what = once(address, port)["who"]
            mine[what] = mine.get(what, 0) + 1
        with lock:
            for what, number in mine.items():
                counts[what] = counts.get(what, 0) + number

    workers = [threading.Thread(target=work, args=(count // threads,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts


def udp(address, port):
    found = {}
    for kind in ("connected", "sendto"):
        stream = socket.socket(family(address), socket.SOCK_DGRAM)
        stream.settimeout(5)
        try:
            if kind == "connected":
                stream.connect((address, port))
                stream.send(b"x")
            else:
                stream.sendto(b"x", (address, port))
            found[kind] = stream.recv(64).decode()
        except OSError as error:
            found[kind] = str(error)
        stream.close()
    return found


def tls(address, port):
    stream = socket.create_connection((address, port), timeout=10)
    stream.sendall(b"\x16\x03\x01\x00\x05hello")
    found = b""
    while len(found) < 64:
        part = stream.recv(64)
        if not part:
            break
        found += part
    return found.decode()


def owned(address, port):
    import ctypes
    import platform
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    number = 280 if platform.machine() == "aarch64" else 321

    def bpf(command, attributes):
        buffer = ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120)
        return libc.syscall(number, command, buffer, 120)

    # BPF_MAP_CREATE of a sockhash of four, then BPF_MAP_UPDATE_ELEM of the established socket.
    table = bpf(0, struct.pack("=5I", 18, 4, 4, 4, 0))
    stream = socket.create_connection((address, port), timeout=10)
    key, value = ctypes.c_uint32(7), ctypes.c_uint32(stream.fileno())
    pointers = (ctypes.addressof(key), ctypes.addressof(value))
    put = bpf(2, struct.pack("=IIQQQ", table, 0, *pointers, 0))
    return {"owned": table >= 0 and put == 0, "who": who(stream), "peer": list(stream.getpeername()[:2])}


def keep(address, port, count):
    held = [socket.create_connection((address, port), timeout=10) for _ in range(count)]
    print(json.dumps(len(held)), flush=True)
    sys.stdin.read()


def main(verb, *words):
    if verb == "connect":
        return [once(address, port) for address, port in pairs(words)]
    if verb == "v6only":
        return [once(address, port, v6only=True) for address, port in pairs(words)]
    if verb == "again":
        return again(words)
    if verb == "storm":
        return storm(words[0], int(words[1]), int(words[2]), int(words[3]))
    if verb == "udp":
        return udp(words[0], int(words[1]))
    if verb == "tls":
        return tls(words[0], int(words[1]))
    if verb == "owned":
        return owned(words[0], int(words[1]))
    return keep(words[0], int(words[1]), int(words[2]))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
