"""Connects from a pod on a schedule until stdin ends: ADDRESS PORT RATE.

Keeps RATE connects a second as well as the machine can; one that is late is made all the same. Each asks one
question and reads one answer. Prints one JSON value at the end: how many connects there were, what became of
each, and the rate that was reached.
"""

import errno
import json
import os
import selectors
import socket
import struct
import sys
import time

ASK = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PATIENCE = 30
# Connects that are begun in one turn at most, so that answers are read in time.
BURST = 16


def first_byte(stream):
    """What the answer says; None while there is none."""
    try:
        data = stream.recv(64)
    except BlockingIOError:
        return None
    except OSError:
        return "reset"
    if data.startswith(b"HTTP/1.1"):
        return "agent"
    return data.decode() if data else "reset"


class Load:
    def __init__(self, address, port, rate):
        self.target, self.rate = (address, port), rate
        self.selector = selectors.DefaultSelector()
        self.counts, self.attempts, self.open, self.late = {}, 0, {}, 0.0

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def begin(self):
        self.attempts += 1
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.setblocking(False)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        failed = stream.connect_ex(self.target)
        if failed not in (0, errno.EINPROGRESS):
            self.failed(stream, failed)
            return
        self.open[stream] = time.monotonic() + PATIENCE
        self.selector.register(stream, selectors.EVENT_WRITE)

    def failed(self, stream, number):
        self.count(errno.errorcode.get(number, str(number)))
        stream.close()

    def end(self, stream, what):
        self.selector.unregister(stream)
        del self.open[stream]
        self.count(what)
        stream.close()

    def turn(self, stream, mask):
        if mask & selectors.EVENT_WRITE:
            number = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                # A refusal is ECONNREFUSED; a reset ends what was established (RFC 9293 3.10.7.3, 3.10.7.4).
                what = "reset" if number == errno.ECONNRESET else errno.errorcode.get(number, str(number))
                return self.end(stream, what)
            try:
                stream.send(ASK)
            except OSError:
                # It may have answered before it went.
                return self.end(stream, first_byte(stream) or "reset")
            self.selector.modify(stream, selectors.EVENT_READ)
        else:
            what = first_byte(stream)
            if what:
                self.end(stream, what)
        return None

    def run(self):
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        begun, running, ended = time.monotonic(), True, None
        while running or self.open:
            now = time.monotonic()
            due = begun + self.attempts / self.rate
            if running:
                for _ in range(BURST):
                    if due > now:
                        break
                    self.late = max(self.late, now - due)
                    self.begin()
                    due = begun + self.attempts / self.rate
            wait = max(0.0, due - time.monotonic()) if running else 0.2
            for key, mask in self.selector.select(wait):
                if key.fileobj is sys.stdin:
                    if not os.read(0, 4096):
                        self.selector.unregister(sys.stdin)
                        running, ended = False, time.monotonic()
                else:
                    self.turn(key.fileobj, mask)
            now = time.monotonic()
            for stream in [stream for stream, until in self.open.items() if until < now]:
                self.end(stream, "timeout")
        seconds = ended - begun
        return {
            "attempts": self.attempts,
            "seconds": round(seconds, 2),
            "rate": round(self.attempts / seconds),
            "late_ms": round(self.late * 1000),
            "became": self.counts,
        }


if __name__ == "__main__":
    print(json.dumps(Load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])).run()))
