"""The page's server against a friendly browser and a hostile network, over real sockets."""

import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest
from forked import Forked

from minirlhf.annotation import log
from minirlhf.annotation.log import Session, read_logs
from minirlhf.tools import annotate_page
from minirlhf.tools.annotate_page import Page

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</script><script>alert(1)</script>\u2028<img src=x onerror=alert(2)>"
SERVE = """
import sys
from minirlhf.annotation.log import Session
from minirlhf.tools.annotate_page import Page
with Session(sys.argv[1], "ann") as session, Page(session) as page:
    print(page.address, flush=True)
    page.serve_forever()
"""


def make_study(folder, n=5):
    places = [{"prompt": f"p{i} 好", "left": HOSTILE, "right": f"r{i}"} for i in range(n)]
    secret = [{"item": f"id{i}", "kind": "pair", "left": "a", "good": None} for i in range(n)]
    log.create(folder, {"question": "which?", "places": places},
                      {"models": ["model_one", "model_two"], "identical": {}, "places": secret})  # fmt: skip
    return folder


class Client:
    """What a browser, or anybody, says to a server at an address."""

    def __init__(self, address):
        self.port = int(re.match(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        self.token = address.split("/")[3]
        self.host = f"127.0.0.1:{self.port}"

    def raw(self, data):
        """All bytes of the answer to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: s.recv(65536), b""))

    def ask(self, method, path, body=b"", version="HTTP/1.1", **headers):
        """(status, headers, body). A header that is None is left out."""
        given = {"Host": self.host} | {k.replace("_", "-"): v for k, v in headers.items()}
        lines = [f"{method} {path} {version}", *(f"{k}: {v}" for k, v in given.items() if v is not None)]
        answer = self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        assert re.fullmatch(r"HTTP/1\.[01] \d{3} .+", first)
        return int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body

    def get(self, name="item", **headers):
        return self.ask("GET", f"/{self.token}/{name}", **headers)

    def post(self, event, name="judge", **headers):
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        good = {"Origin": f"http://{self.host}", "Content_Type": "application/json"}
        good["Content_Length"] = len(body)
        return self.ask("POST", f"/{self.token}/{name}", body, **good | headers)

    def judge(self, do, place, event=""):
        return self.post({"event": event or f"{do} of {place}", "do": do, "place": place, "seconds": 1.5})


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study")


@pytest.fixture
def page(study):
    with Session(study, "ann") as session, Page(session) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield page
        page.shutdown()
        thread.join()


@pytest.fixture
def client(page):
    return Client(page.address)


def said(study):
    return [event["do"] for event in read_logs(study).get("ann", [])]


def test_it_listens_on_this_machine_alone(page):
    assert page.server_address[0] == "127.0.0.1" and page.socket.family == socket.AF_INET
    assert page.address == f"http://127.0.0.1:{page.server_address[1]}/{page.session.token}/"


def test_a_judgement_is_answered_with_the_next_item(client, study):
    status, headers, body = client.get()
    assert status == 200 and headers["Content-Type"] == "application/json; charset=utf-8"
    first = {"annotator": "ann", "place": 0, "total": 5, "question": "which?"}
    first |= {"prompt": "p0 好", "left": HOSTILE, "right": "r0"}
    assert json.loads(body) == first
    status, _, body = client.judge("left", 0)
    assert status == 200 and json.loads(body) == first | {"place": 1, "prompt": "p1 好", "right": "r1"}
    (event,) = read_logs(study)["ann"]
    assert (event["do"], event["seconds"]) == ("left", 1.5)


def test_all_that_can_be_said_is_understood(client, study):
    for place, do in enumerate(log.ACTIONS):
        assert client.judge(do, place)[0] == 200
    assert said(study) == list(log.ACTIONS)
    end = {"annotator": "ann", "place": 5, "total": 5, "question": "which?"}
    assert json.loads(client.get()[2]) == end
    assert json.loads(client.judge("undo", 4)[2])["place"] == 4
    assert said(study) == list(log.ACTIONS)[:4]


def test_it_is_saved_and_synced_before_it_is_answered(client, study, monkeypatch):
    steps, answer = [], annotate_page.Handler.answer

    def fsync(descriptor):
        steps.append((study / "ann.log").read_bytes().count(b"\n"))

    def answer_and_tell(self, status, *arguments):
        steps.append(f"status {status}")
        answer(self, status, *arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(annotate_page.Handler, "answer", answer_and_tell)
    client.judge("left", 0)
    assert steps == [2, "status 200"]


def test_a_repeated_post_changes_nothing(client, study):
    """A double click or a retry: the same event id, the same answer, one line."""
    answers = [client.judge("left", 0, "the event") for _ in range(3)]
    assert [status for status, *_ in answers] == [200] * 3 and len({body for *_, body in answers}) == 1
    assert said(study) == ["left"] and (study / "ann.log").read_bytes().count(b"\n") == 2


def test_a_judgement_of_another_item_is_answered_with_the_one_whose_turn_it_is(client, study):
    client.judge("left", 0)
    for do, place in (("tie", 0), ("tie", 2), ("tie", -1), ("undo", 1), ("tie", 10**30)):
        status, _, body = client.judge(do, place, f"stale {do} {place}")
        assert status == 409 and json.loads(body)["place"] == 1
    assert said(study) == ["left"]


def test_of_parallel_judgements_of_one_item_one_is_taken(client, study):
    statuses = []

    def click(k):
        statuses.append(client.judge("left", 0, f"click no. {k}")[0])

    threads = [threading.Thread(target=click, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(statuses) == [200] + [409] * 11 and said(study) == ["left"]


def test_of_pipelined_requests_the_first_alone_is_served(client, study):
    """One connection, one request: nobody can smuggle a second one in the body of the first."""
    body = b'{"event": "pipelined", "do": "left", "place": 0, "seconds": 0}'
    one = (f"POST /{client.token}/judge HTTP/1.1\r\nHost: {client.host}\r\nOrigin: http://{client.host}\r\n"
           "Connection: keep-alive\r\nContent-Type: application/json\r\n"
           f"Content-Length: {len(body)}\r\n\r\n").encode()
    answer = client.raw(one + body + one + body.replace(b'pipelined", "do": "left", "place": 0',
                                                        b'pipelined2", "do": "left", "place": 1'))
    assert answer.count(b"HTTP/1.0 ") == 1 and b" 200 " in answer.split(b"\r\n")[0]
    assert said(study) == ["left"]


def test_a_closed_study_says_so(client, study):
    client.judge("left", 0)
    log.close(study, early=True)
    for answer in (client.judge("left", 1), client.judge("undo", 0), client.get()):
        assert answer[0] == 410 and b"closed" in answer[2]
    assert said(study) == ["left"]


def test_a_disk_that_is_full_is_said_and_the_same_event_can_come_again(client, study, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, _, body = client.judge("left", 0, "the event")
        assert status == 503 and b"not saved" in body and b"No space left" in body
    assert said(study) == [] and client.judge("left", 0, "the event")[0] == 200 and said(study) == ["left"]


def test_a_log_that_is_gone_is_said(client, study):
    (study / "ann.log").unlink()
    status, _, body = client.judge("left", 0)
    assert status == 503 and b"is gone" in body


def test_kill_9_of_the_server_after_each_answer_loses_nothing_and_the_token_stays(tmp_path):
    study = make_study(tmp_path / "study", 4)
    tokens = set()
    for place in range(4):
        server = Forked(SERVE, str(study))
        try:
            client = Client(server.stdout.readline().strip())
            tokens.add(client.token)
            if place:  # the page does not know whether its last event got through, and sends it again
                again = client.judge("tie", place - 1, f"event no. {place - 1}")
                assert json.loads(again[2])["place"] == place
            assert client.judge("tie", place, f"event no. {place}")[0] == 200
        finally:
            server.kill()
            server.communicate()
        assert said(study) == ["tie"] * (place + 1)
    assert len(tokens) == 1 and (study / "ann.log").read_bytes().count(b"\n") == 5


def check_refused(client, study, answer, status):
    """The status, a short line, the headers of every answer; and nothing was done."""
    assert answer[0] == status and len(answer[2]) < 200 and b"Traceback" not in answer[2]
    check_headers(answer[1])
    assert client.token.encode() not in answer[2] and b"p0" not in answer[2] and said(study) == []


def check_headers(headers):
    for name, value in {
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
        "X-Frame-Options": "DENY",
    }.items():  # fmt: skip
        assert headers[name] == value
    policy = [part.strip() for part in headers["Content-Security-Policy"].split(";")]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "base-uri 'none'" in policy and "form-action 'none'" in policy


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost",
    "127.0.0.1:{port}.evil.example", "localhost.evil.example:{port}", "0.0.0.0:{port}", "[::1]:{port}", "",
    None, "user@127.0.0.1:{port}",
])  # fmt: skip
def test_a_host_that_is_not_this_machine_is_refused(client, study, host):
    """A site whose name is made to point to 127.0.0.1 comes with its own name."""
    host = host and host.format(port=client.port)
    check_refused(client, study, client.get(Host=host), 403)
    event = {"event": "x" * 8, "do": "left", "place": 0, "seconds": 1}
    check_refused(client, study, client.post(event, Host=host, Origin=f"http://{host}"), 403)


def test_two_hosts_are_refused(client, study):
    head = f"GET /{client.token}/item HTTP/1.1\r\nHost: {client.host}\r\nHost: evil.example\r\n\r\n"
    assert b" 403 " in client.raw(head.encode()).split(b"\r\n")[0]


def test_localhost_is_this_machine(client):
    host = f"localhost:{client.port}"
    event = {"event": "x" * 8, "do": "left", "place": 0, "seconds": 1}
    assert client.get(Host=host)[0] == client.post(event, Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("origin", [
    None, "null", "", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1",
    "http://127.0.0.1:1", "http://localhost:{port}", "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}/",
])  # fmt: skip
def test_a_judgement_from_another_origin_is_refused(client, study, origin):
    event = {"event": "x" * 8, "do": "left", "place": 0, "seconds": 1}
    check_refused(client, study, client.post(event, Origin=origin and origin.format(port=client.port)), 403)


@pytest.mark.parametrize("path", [
    "/", "/item", "//item", "/{token}", "/{token}x/item", "/{short}/item", "/{upper}/item", "/{token}/item/",
    "/{token}/../{token}/item", "/{token}/..", "/{token}/study.json", "/{token}/key.json",
    "/{token}/%2e%2e/key.json", "/../../../etc/passwd", "/{token}/../../etc/passwd", "/{token}/item?x=1",
    "/{token}//item", "/favicon.ico", "/caf\xe9/item", "*", "http://127.0.0.1:{port}/{token}/item", "item",
    "/{token}/item%00", "/{token}\\item", "/%s/item",
])  # fmt: skip
def test_any_other_path_is_not_found(client, study, path):
    token = client.token
    path = path.format(token=token, short=token[:-1], upper=token.swapcase(), port=client.port)
    check_refused(client, study, client.ask("GET", path), 404)
    good = {"Origin": f"http://{client.host}", "Content_Type": "application/json", "Content_Length": 2}
    check_refused(client, study, client.ask("POST", path, b"{}", **good), 404)


def test_the_token_is_compared_in_constant_time(client, monkeypatch):
    seen, compare = set(), annotate_page.hmac.compare_digest

    def compare_and_tell(a, b):
        seen.add((a, b))
        return compare(a, b)

    monkeypatch.setattr(annotate_page.hmac, "compare_digest", compare_and_tell)
    assert client.get()[0] == 200 and client.ask("GET", "/wrong/item")[0] == 404
    wanted = f"/{client.token}/item".encode()
    assert seen >= {(wanted, wanted), (b"/wrong/item", wanted)}


@pytest.mark.parametrize("method, name", [("GET", "judge"), ("POST", "item"), ("POST", "")])
def test_a_method_that_does_not_belong_to_the_path_is_refused(client, study, method, name):
    check_refused(client, study, client.ask(method, f"/{client.token}/{name}", Content_Length=0), 404)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS", "DELETE", "TRACE"])
def test_a_method_that_there_is_not_is_refused(client, study, method):
    status, _, body = client.ask(method, f"/{client.token}/judge", Content_Length=0)
    assert status == 501 and client.token.encode() not in body and said(study) == []


@pytest.mark.parametrize("headers, status", [
    ({"Content_Length": None}, 413),
    ({"Content_Length": None, "Transfer_Encoding": "chunked"}, 413),
    ({"Content_Length": "-1"}, 413),
    ({"Content_Length": "1e3"}, 413),
    ({"Content_Length": "\xb2"}, 413),
    ({"Content_Length": str(10**9)}, 413),
    ({"Content_Length": "9" * 5000}, 413),
    ({"Content_Length": "10000"}, 413),
    ({"Content_Length": "20"}, 400),
])  # fmt: skip
def test_a_body_that_is_huge_or_cut_off_is_refused(client, study, headers, status):
    event = {"event": "x" * 8, "do": "left", "place": 0, "seconds": 1}
    check_refused(client, study, client.post(event, **headers), status)


GOOD = {"event": "x" * 8, "do": "left", "place": 0, "seconds": 1}


@pytest.mark.parametrize("body", [
    b"", b"{", b"\xff\xfe", b"null", b"[]", b"1", b"[" * 4000, b'{"a":' * 800,
    {}, {**GOOD, "event": 5}, {**GOOD, "do": "close"}, {**GOOD, "do": "LEFT"}, {**GOOD, "do": None},
    {**GOOD, "do": ["left"]},
    {**GOOD, "place": "0"}, {**GOOD, "place": 0.0}, {**GOOD, "place": False}, {**GOOD, "place": None},
    {**GOOD, "seconds": -1}, {**GOOD, "seconds": float("nan")}, {**GOOD, "seconds": float("inf")},
    {**GOOD, "seconds": "1"}, {**GOOD, "seconds": True}, {k: GOOD[k] for k in ("event", "do", "place")},
    json.dumps(GOOD).encode().replace(b": 0", b": " + b"1" * 3500),
])  # fmt: skip
def test_a_body_that_is_no_event_is_refused(client, study, body):
    """Not even the last one, a number too large for any place, does harm."""
    answer = client.post(body)
    if answer[0] == 409:
        assert said(study) == []
    else:
        check_refused(client, study, answer, 400)


@pytest.mark.parametrize("data", [
    b"", b"\r\n", b"\0\0\0\0", b"GET\r\n\r\n", b"GET / FTP/1.0\r\n\r\n", b"GET / HTTP/9\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"BREW /pot HTTP/1.1\r\n\r\n",
    b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\n", b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n",
])  # fmt: skip
def test_what_is_no_request_is_answered_shortly_and_the_server_lives_on(client, study, data, capfd):
    try:
        answer = client.raw(data)
    except ConnectionError:  # it did not read the whole flood
        answer = b""
    assert len(answer) < 1000 and b"<script" not in answer.partition(b"\r\n\r\n")[2] and b"Traceback" not in answer
    assert answer == b"" or re.match(rb"HTTP/1.0 [45]\d\d |not a name|<!DOCTYPE", answer)
    assert client.get()[0] == 200 and said(study) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["", "item"])
def test_http_0_9_gets_nothing(client, name):
    """It has no Host."""
    answer = client.raw(f"GET /{client.token}/{name}\r\n\r\n".encode())
    assert answer == b"not a name of this server"


def test_a_silent_connection_does_not_keep_others_waiting_and_is_given_up(client, monkeypatch):
    for seconds in (60, 0.1):
        monkeypatch.setattr(annotate_page.Handler, "timeout", seconds)
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as s:
            s.sendall(b"POST /")
            assert client.get()[0] == 200
            if seconds < 1:
                assert s.recv(10) == b""


def test_nothing_is_printed_that_holds_the_token(client, capfd):
    client.get()
    client.judge("left", 0)
    client.ask("GET", "/wrong")
    assert capfd.readouterr() == ("", "")


def test_the_page_holds_no_text_of_a_model_and_shows_it_as_text(client):
    status, headers, body = client.get("")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    check_headers(headers)
    html = body.decode()
    assert "p0" not in html and "alert" not in html and "model_" not in html and client.token not in html
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", html)


HTML = (ROOT / "minirlhf" / "tools" / "annotate.html").read_text()


def test_each_button_does_what_its_label_and_key_say():
    button = r'<button data-do="(\w+)" aria-keyshortcuts="(\w)">([\w ]+) <kbd>(\w)</kbd></button>'
    found = re.findall(button, HTML)
    assert found == [
        ("left", "a", "A is better", "a"), ("right", "b", "B is better", "b"), ("tie", "t", "Tie", "t"),
        ("bad", "x", "Both bad", "x"), ("skip", "s", "Skip", "s"), ("undo", "u", "Undo", "u"),
    ]  # fmt: skip
    assert [do for do, *_ in found] == [*log.ACTIONS, "undo"] and HTML.count("<button") == len(found)


def test_each_text_stands_under_its_title():
    found = re.findall(r'<section><h2>([\w ]+)</h2><div class="text" id="(\w+)"', HTML)
    assert found == [("Prompt", "prompt"), ("Answer A", "left"), ("Answer B", "right")]


def test_the_rubric_stands_above_the_texts_and_the_buttons_follow_them_with_no_space_between():
    """The footer sticks to the bottom only where the answers go beyond the window."""
    assert HTML.index('id="rubric"') < HTML.index('id="prompt"') < HTML.index("<footer>")
    style = HTML.partition("</style>")[0]
    assert "position: sticky; bottom: 0" in style and not re.search(r"flex: 1|min-height: 100|100dvh", style)


@pytest.mark.parametrize("line", [
    'for (const id of ["prompt", "left", "right"]) put(id, item[id]);',
    'at("rubric").hidden = !item.rubric;', 'at("rubric").textContent = item.rubric;',
    'const place = item.place - (word === "undo" ? 1 : 0);',
    "keep({event, do: word, place, seconds: (performance.now() - shown) / 1000});",
    "if (event) sessionStorage.setItem(STORE, JSON.stringify(event));",
    "else sessionStorage.removeItem(STORE);",
    "let pending = JSON.parse(sessionStorage.getItem(STORE));",
    "const options = sent ? {method: \"POST\", headers, body: JSON.stringify(sent)} : {};",
    "setTimeout(talk, RETRY);\n    return;\n  }\n  keep(null);",
    'button.addEventListener("click", () => act(button.dataset.do));',
    "if (button) act(button.dataset.do);",
    'at("progress").textContent = `${item.annotator}: ${Math.min(item.place + 1, item.total)} of ${item.total}`;',
    "say(sent ? `Saved: ${SAID[sent.do]}.` : first ? welcome() : \"\");",
    "return `${item.annotator} goes on ${from}.",
])  # fmt: skip
def test_the_page_sends_what_is_pressed_keeps_it_over_a_reload_and_says_who_judges(line):
    """By its text, as no browser is at hand."""
    assert HTML.count(line) == 1


def test_no_answer_before_the_end_names_a_model(client, study):
    everything = b"".join(client.get(name)[2] for name in ("", "item"))
    for place in range(5):
        everything += client.judge("left", place)[2]
    for path in study.glob("*"):
        everything += path.read_bytes() if path.name != "key.json" else b""
    assert b"model_" not in everything and b'"kind"' not in everything
