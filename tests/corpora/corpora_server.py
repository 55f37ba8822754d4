"""A web server on 127.0.0.1, in a thread, that does what a test tells it to, request by request."""

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; the server's plan answers it."""

    protocol_version = "HTTP/1.1"
    timeout = 10
    server: "_Server"

    def do_GET(self) -> None:
        owner = self.server.owner
        self.close_connection = True
        with owner.lock:
            owner.requests.append((self.path, dict(self.headers)))
            answer = owner.plan.pop(0) if len(owner.plan) > 1 else owner.plan[0]
        with suppress(OSError):  # the client may have gone
            answer(self)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; `Content_Length` stands for Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: "PlannedServer"


class PlannedServer:
    """Answers its requests with the answers of `plan`, one after the other; the last one again and again."""

    def __init__(self, *plan: Answer) -> None:
        self.plan = list(plan)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [headers.get("Range") for _, headers in self.requests]

    def __enter__(self) -> "PlannedServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def file(content: bytes, etag: str | None = '"1"', sends: int | None = None, **more: object) -> Answer:
    """A server that knows ranges and has `content`; it breaks off after `sends` bytes of the body."""

    def answer(request: Request) -> None:
        headers = {"ETag": etag, **more} if etag else more
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        start = 0
        if wanted and condition in (None, etag, more.get("Last_Modified")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0, **headers)
                return
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        request.head(206 if start else 200, **{"Content_Length": len(body), **headers})
        request.wfile.write(body[:sends])

    return answer


def without_ranges(content: bytes, sends: int | None = None) -> Answer:
    """A server that always sends all of it, whatever is asked for."""

    def answer(request: Request) -> None:
        request.head(200, Content_Length=len(content))
        request.wfile.write(content[:sends])

    return answer


def without_length(content: bytes) -> Answer:
    """A server that does not say how much it sends."""

    def answer(request: Request) -> None:
        request.head(200)
        request.wfile.write(content)

    return answer


def chunked(content: bytes, ends: bool = True) -> Answer:
    """A server that sends in chunks of unknown number; `ends`: the last, empty one comes too."""

    def answer(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(content), 1000):
            piece = content[start : start + 1000]
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if ends:
            request.wfile.write(b"0\r\n\r\n")

    return answer


def stalling(content: bytes, after: int) -> Answer:
    """A server that falls silent after `after` bytes (of what is asked for) and keeps the connection."""

    def answer(request: Request) -> None:
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        ranges = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        request.head(206 if start else 200, Content_Length=len(content) - start, **ranges)
        request.wfile.write(content[start : start + after])
        request.wfile.flush()
        request.server.owner.released.wait(60)

    return answer


def status(code: int, body: bytes = b"", **headers: object) -> Answer:
    """An answer that is no file."""
    return lambda request: (request.head(code, Content_Length=len(body), **headers), request.wfile.write(body))[0]
