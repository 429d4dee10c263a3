"""The page on which one annotator judges: a small HTTP server of the standard library, on 127.0.0.1 alone.

    GET  /TOKEN/        annotate.html, the same for every study: it holds no text of a model
    GET  /TOKEN/item    the item whose turn it is, as JSON
    POST /TOKEN/judge   {"event": id, "do", "place", "seconds"}, as for Session.act; once saved, the next item

200 and 409 carry an item: 409 says that the event was about another one, and the page shows this instead. A
repeated event id changes nothing, so the page sends until it hears an answer. 410: the study is closed.
503: not saved, try again.

Other programs and web sites cannot take part: they do not know the token; a name that somebody's DNS points
to 127.0.0.1 fails at Host, a form of another site at Origin, and the page may load nothing and stand in no
frame. Each connection serves one request. Proved by tests/tools/test_annotate_page.py.
"""

import hmac
import json
import math
import socket
import sys
from base64 import b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Lock

from minirlhf.annotation.log import CHOICES, EVENT, Closed, Session, Stale, has
from minirlhf.harness.files import UserError

MAX_BODY = 4096
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page(ThreadingTCPServer):
    """The server of one session. Not HTTPServer, which asks the DNS for the name of 127.0.0.1."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.session, self.lock = session, Lock()
        port = self.server_address[1]
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.address = f"http://{self.hosts[0]}/{session.token}/"
        self.html = Path(__file__).with_name("annotate.html").read_bytes()
        policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        policy += "frame-ancestors 'none'"
        for tag in ("script", "style"):
            policy += f"; {tag}-src 'sha256-{digest(self.html, tag.encode())}'"
        self.security = SECURITY | {"Content-Security-Policy": policy}

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        """A reader that left is no news; anything else is a defect, and has a traceback."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def digest(html: bytes, tag: bytes) -> str:
    """What a Content-Security-Policy knows the one <tag> of the page by."""
    inside = html.split(b"<" + tag + b">")[1].split(b"</" + tag + b">")[0]
    return b64encode(sha256(inside).digest()).decode()


def read_event(body: bytes) -> dict:
    """The arguments of Session.act. Raises ValueError for a body that is not such an event."""
    try:
        event = json.loads(body)
    except RecursionError:
        raise ValueError("too deep") from None
    if not has(event, EVENT) or len(event) > len(EVENT):
        raise ValueError(f"wanted are {', '.join(EVENT)}, each of its type")
    if event["do"] not in (*CHOICES, "undo"):
        raise ValueError("no such judgement")
    if not 8 <= len(event["event"]) <= 64 or not 0 <= event["seconds"] < math.inf:
        raise ValueError("event or seconds out of bounds")
    return event


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Page
    timeout = 10  # seconds of silence, after which a connection is given up

    def do_GET(self) -> None:
        """The page or the item."""
        name = self.admit("", "item")
        if name == "":
            self.answer(200, self.server.html, "text/html; charset=utf-8")
        elif name == "item":
            with self.server.lock:
                self.show(200)

    def do_POST(self) -> None:
        """A judgement."""
        size = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (size.isascii() and size.isdigit()):
            return self.refuse(411, "Content-Length is missing")
        if len(size) > 9 or int(size) > MAX_BODY:
            return self.refuse(413, f"at most {MAX_BODY} bytes")
        body = self.rfile.read(int(size))  # first: a connection closed on unread bytes loses the answer
        if self.admit("judge") is None:
            return None
        if self.headers.get_all("Origin") != [f"http://{self.headers['Host']}"]:
            return self.refuse(403, "from another origin")
        if self.headers.get_content_type() != "application/json":
            return self.refuse(415, "application/json is wanted")
        if len(body) < int(size):
            return self.refuse(400, "cut off")
        try:
            event = read_event(body)
        except ValueError as error:
            return self.refuse(400, str(error))
        with self.server.lock:
            try:
                self.server.session.act(**event)
            except Stale:
                return self.show(409)
            except Closed as error:
                return self.refuse(410, str(error))
            except (OSError, UserError) as error:
                return self.refuse(503, f"not saved: {error}")
            return self.show(200)

    def admit(self, *names: str) -> str | None:
        """The one of the names that stands behind the token; None for a request that was refused."""
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            return self.refuse(403, "not a name of this server")
        for name in names:
            wanted = f"/{self.server.session.token}/{name}"
            if hmac.compare_digest(self.path.encode(errors="replace"), wanted.encode()):
                return name
        return self.refuse(404, "not found; open the address that annotate has printed")

    def show(self, status: int) -> None:
        """The item whose turn it is."""
        try:
            item = self.server.session.item()
        except Closed as error:
            return self.refuse(410, str(error))
        except (OSError, UserError) as error:
            return self.refuse(503, str(error))
        return self.answer(status, json.dumps(item).encode(), "application/json")

    def refuse(self, status: int, why: str) -> None:
        """A line of text."""
        self.answer(status, f"{why}\n".encode(errors="replace"), "text/plain; charset=utf-8")

    def answer(self, status: int, body: bytes, kind: str) -> None:
        """The one way out: every answer has the headers that keep others out."""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body))} | self.server.security
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: a request line that is none, or a method other than GET and POST."""
        self.refuse(int(code), "not a request that is understood here")

    def version_string(self) -> str:
        """Nobody needs to know which Python this is."""
        return "minirlhf"

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence: the path holds the token."""
