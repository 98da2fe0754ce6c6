"""The application: whom it answers, with what, and in what words it refuses."""

import json
import urllib.error
import urllib.request

import pytest

from helpers.explored import served
from latentsmith.errors import UserError
from latentsmith.explore.serve import bound, check_extra, is_loopback


@pytest.fixture(scope="module")
def address(explored):
    with served([explored["images"]]) as address:
        yield address


def ask(address, path="", body=None, **headers):
    """(status, headers, text)."""
    request = urllib.request.Request(address + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


JSON = {"Content-Type": "application/json"}


def test_the_page_may_load_nothing_from_elsewhere(address):
    status, headers, text = ask(address)
    assert status == 200 and "<title>latentsmith explore</title>" in text
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "http" not in policy and "unsafe" not in policy and "*" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["static/../server.py", "static/%2e%2e%2fserver.py", "static/__init__.py", "static/no.js"],
)
def test_files_outside_the_page_are_not_there(address, path):
    assert ask(address, path)[0] == 404


def test_other_hosts_are_refused(address):
    """A name that somebody points at the loopback (DNS rebinding) gets nothing."""
    assert ask(address, "api/page", Host="evil.example")[0] == 400
    assert ask(address, "api/page", Host="localhost:1")[0] == 200


def test_only_json_is_answered(address):
    """What another page's form can send without being asked first."""
    status, _, text = ask(address, "api/show/run/1", b"{}", **{"Content-Type": "text/plain"})
    assert status == 400 and "send JSON" in text
    assert ask(address, "api/show/run/1", b"{}", **JSON)[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("api/show/map/0", b"{", "no JSON"),
        ("api/show/map/0", b"{}", "Points of: None is none of"),
        ("api/show/maps/0", b"{}", "no tab 'maps'"),
        ("api/show/map/9", b"{}", "no arm '9'"),
        ("api/show/edit/0", b"{}", "Edit does not suit run baseline"),
        ("report/0", None, "has no report"),
    ],
)
def test_mistakes_are_one_sentence(address, path, body, why):
    status, _, text = ask(address, path, body, **JSON)
    assert status == 400 and why in json.loads(text)["error"]


def test_a_fault_is_told_without_its_traceback(address, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of something")

    monkeypatch.setattr("latentsmith.explore.tabs.run.About.blocks", broken)
    status, _, text = ask(address, "api/show/run/1", b"{}", **JSON)
    assert status == 500 and "ZeroDivisionError: of something" in json.loads(text)["error"]
    assert "Traceback" not in text


def test_too_large_an_upload_is_refused_before_it_is_read(address, monkeypatch):
    monkeypatch.setattr("latentsmith.explore.server.LARGEST", 1000)
    status, _, text = ask(address, "api/show/run/1", b'"' + b"x" * 5000 + b'"', **JSON)
    assert status == 400 and "larger than" in text


def test_a_taken_port_is_a_sentence():
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*in use.*--port 0"):
            bound("127.0.0.1", port)
    with pytest.raises(UserError, match=r"cannot listen on .*, port 70000"):
        bound("127.0.0.1", 70000)
    with pytest.raises(UserError, match=r"cannot listen on no\.such\.host\.invalid"):
        bound("no.such.host.invalid", 0)


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"starlette and uvicorn: pip install 'latentsmith\[ui\]'"):
        check_extra()


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.7", False), ("my.machine", False)],
)  # fmt: skip
def test_what_is_loopback(host, alone):
    assert is_loopback(host) is alone
