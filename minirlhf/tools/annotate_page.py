"""The page on which one annotator judges: a small HTTP server of the standard library, on 127.0.0.1 alone.

    GET  /TOKEN/        annotate.html, the same for every study: it holds no text of a model
    GET  /TOKEN/item    the item whose turn it is, as JSON
    POST /TOKEN/judge   {"event": id, "do", "place", "seconds"}, as for Session.act; the answer is the next item

200 and 409 carry an item. 409 says that the event was about another item; the page shows this one instead. A
repeated event id changes nothing, so the page sends it until it gets an answer. 410: the study is closed.
503: not saved, try again.

Other programs and web sites do not know the token. A host name that somebody's DNS points to 127.0.0.1 fails the check
of Host, another site's script that of Origin. The page may load nothing. Proved by tests/tools/test_annotate_page.py.
"""

import hmac
import json
import re
import socket
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Lock, Timer

from minirlhf.annotation.log import EVENT, Closed, Session, Stale, read_event
from minirlhf.harness.files import UserError

SECURITY = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
}  # fmt: skip


class Page(ThreadingTCPServer):
    """The server of one session. It is not an HTTPServer: that asks the DNS for the name of 127.0.0.1."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.session, self.lock = session, Lock()
        port = self.server_address[1]
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.address = f"http://{self.hosts[0]}/{session.token}/"
        self.html = Path(__file__).with_name("annotate.html").read_bytes()

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        """Ignore a reader that has left. Anything else is a defect and gets a traceback."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Page
    timeout = 10  # seconds after which a connection is given up, whether it is silent or drips

    def handle(self) -> None:
        """The request, if it is whole in time: a byte a second would hold the thread for hours."""
        end = Timer(self.timeout, self.connection.shutdown, [socket.SHUT_RDWR])
        end.daemon = True
        end.start()
        try:
            super().handle()
        finally:
            end.cancel()

    def do_GET(self) -> None:
        """The page or the item."""
        name = self.admit("", "item")
        if name == "":
            self.answer(200, self.server.html, "text/html")
        elif name == "item":
            with self.server.lock:
                self.show(200)

    def do_POST(self) -> None:
        """A judgement."""
        size = ",".join(self.headers.get_all("Content-Length", []))
        if not re.fullmatch("[0-9]{1,4}", size) or "Transfer-Encoding" in self.headers:
            return self.answer(413, "Content-Length is missing, above 9999, or not the only one")
        body = self.rfile.read(int(size))  # read first: closing a connection with unread bytes loses the answer
        if self.admit("judge") is None:
            return None
        if self.headers.get_all("Origin") != [f"http://{self.headers['Host']}"]:
            return self.answer(403, "from another origin")
        try:
            event = read_event(body)
        except ValueError as error:
            return self.answer(400, str(error))
        with self.server.lock:
            try:
                self.server.session.act(**{key: event[key] for key in EVENT})
            except Stale:
                return self.show(409)
            except Closed as error:
                return self.answer(410, str(error))
            except (OSError, UserError) as error:
                return self.answer(503, f"not saved: {error}")
            return self.show(200)

    def admit(self, *names: str) -> str | None:
        """Which of the names stands after the token in the path; None for a request that was refused."""
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            return self.answer(403, "not a name of this server")
        for name in names:
            wanted = f"/{self.server.session.token}/{name}"
            if hmac.compare_digest(self.path.encode(errors="replace"), wanted.encode()):
                return name
        return self.answer(404, "not found; open the address that annotate has printed")

    def show(self, status: int) -> None:
        """The item whose turn it is."""
        try:
            self.answer(status, json.dumps(self.server.session.item()), "application/json")
        except Closed as error:
            self.answer(410, str(error))

    def answer(self, status: int, text: str | bytes, kind: str = "text/plain") -> None:
        """Send any answer. All go through here, so all have the headers that keep others out."""
        body = text if isinstance(text, bytes) else text.encode(errors="replace")
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))} | SECURITY
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: the path holds the token."""
