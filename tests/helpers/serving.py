"""A folder served over HTTP on this machine, as a remote shard set is."""

import io
import os
import re
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

POLL_INTERVAL = 0.01
"""Seconds that a server takes to notice that it shall stop; the library's own half second is paid by every test."""


class Recorder(SimpleHTTPRequestHandler):
    def log_request(self, code="-", size="-"):
        if self.command == "GET":
            self.server.requests.append(self.path)

    def log_message(self, *arguments):
        pass


@contextmanager
def served(directory):
    """The address of `directory`, and the paths that were fetched from it so far."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Recorder, directory=str(directory))) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, args=[POLL_INTERVAL], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.requests
        server.shutdown()


class RangeServer(Recorder):
    """Answers requests for byte ranges, as object stores do; after `server.failing` is set, with status 503."""

    def send_head(self):
        if self.server.failing:
            self.send_error(503)
            return None
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not os.path.isfile(self.translate_path(self.path)):
            return super().send_head()
        with open(self.translate_path(self.path), "rb") as file:
            whole = file.read()
        part = whole[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return io.BytesIO(part)


@contextmanager
def served_by_ranges(directory):
    """The server of `directory`, with its address in `url` and the paths fetched so far in `requests`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeServer, directory=str(directory))) as server:
        server.requests, server.failing = [], False
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[POLL_INTERVAL], daemon=True).start()
        yield server
        server.shutdown()
