"""A server and a proxy that fail in the ways in which networks do, at random from a seed."""

import contextlib
import itertools
import math
import random
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer

from serving import POLL_INTERVAL, RangeServer

FAULTS = ("dropped", "cut", "shortened", "error", "slow")
"""No answer; an answer that breaks off; a whole answer of half the bytes; 503; drop by drop. There is `stalled` too."""
SECONDS_TO_STALL = 10


class FaultyServer(RangeServer):
    """Answers like `RangeServer`, but for every request the server may draw one of its faults."""

    def send_head(self):
        self.fault = self.server.draw()
        if self.fault == "error":
            self.send_error(503)
            return None
        if self.fault == "dropped":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        return super().send_head()

    def send_header(self, keyword, value):
        if keyword == "Content-Length" and self.fault == "shortened" and self.command == "GET":
            value = str(int(value) // 2)
        super().send_header(keyword, value)

    def copyfile(self, source, outputfile):
        data = source.read()
        if self.fault in ("cut", "shortened", "stalled"):
            outputfile.write(data[: len(data) // 2])
            time.sleep(SECONDS_TO_STALL if self.fault == "stalled" else 0)
        elif self.fault == "slow":
            for start in range(0, len(data), len(data) // 4 + 1):
                outputfile.write(data[start : start + len(data) // 4 + 1])
                time.sleep(0.01)
        else:
            outputfile.write(data)

    def handle(self):
        with contextlib.suppress(OSError):  # the client has gone, or was sent away
            super().handle()


@contextmanager
def served_with_faults(directory, faults=FAULTS, rate=0.4, seed=0):
    """The server of `directory`: its `url`, `rate` (of requests that fail) and `drawn`, how often each fault came."""
    dice, in_turn, lock = random.Random(seed), itertools.cycle(faults), threading.Lock()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(FaultyServer, directory=str(directory))) as server:

        def draw():
            with lock:
                fault = next(in_turn) if dice.random() < server.rate else "none"
                server.drawn[fault] += 1
                return fault

        server.requests, server.failing, server.drawn = [], False, Counter()
        server.draw, server.rate = draw, rate
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[POLL_INTERVAL], daemon=True).start()
        yield server
        server.shutdown()


class CuttingProxy:
    """Passes connections on to a port of this machine; while `cutting`, each is cut after some bytes of its answers."""

    def __init__(self, port, seed=0):
        self._port, self.cutting, self._dice = port, False, random.Random(seed)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url, self.cuts = f"http://127.0.0.1:{self._socket.getsockname()[1]}", 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                cut_after = self._dice.randrange(1, 300_000)
                threading.Thread(target=self._pass_on, args=(client, server, math.inf), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, cut_after), daemon=True).start()

    def _pass_on(self, source, target, cut_after):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.cutting and passed + len(data) > cut_after:
                    self.cuts += 1
                    target.sendall(data[: max(0, cut_after - passed)])
                    break
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
