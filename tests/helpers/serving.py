"""A folder served over HTTP on this machine, as a remote shard set is."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.requests
        server.shutdown()
