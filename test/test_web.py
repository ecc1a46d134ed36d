"""The operator's page: what it answers, whom it lets in, and what a person does in it, in a real browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from test_living import CRATE, GREEN, LABEL, RED, SPILL, drive

from omniad_ros import cli
from omniad_ros.living import PatrolStore
from omniad_ros.living.schema import Finding, Patrol, Sighting
from omniad_ros.site import Site
from omniad_ros.versions import next_version, roll_back

pytest.importorskip("fastapi", reason="the operator's page needs fastapi")
from fastapi.testclient import TestClient

from omniad_ros.web import create_app
from omniad_ros.web.places import Places

NASTY = '<script>alert("x")</script>'
ASKED = {"X-Omniad": "1"}


@pytest.fixture(scope="module")
def served(tiny_site, tmp_path_factory):
    """A site with two patrols behind it, whose names are meant to hurt."""
    folder = tmp_path_factory.mktemp("served") / "plant & <i>yard"
    shutil.copytree(tiny_site, folder)
    site = Site.open(folder)
    store = PatrolStore.of_site(folder)
    drive(store, site, [(CRATE, RED), (LABEL, GREEN)], 1, NASTY)
    drive(store, site, [(CRATE, RED), (SPILL, GREEN)], 2, "two")
    return site, store


@pytest.fixture
def client(served):
    places = Places.open([served[0].path])
    yield TestClient(create_app(places), base_url="http://localhost")
    places.close()


def test_pages_and_programs_are_told_what_the_store_holds(served, client):
    site, _ = served
    name = site.path.name
    (row,) = client.get("/api/sites").json()
    assert row["name"] == name and sum(group["count"] for group in row["findings"]) == 3
    findings = client.get(f"/api/sites/{name}/findings").json()
    assert [f["name"] for f in findings] == ["F3", "F2", "F1"]
    whole = client.get(f"/api/sites/{name}/findings/F1").json()
    assert [s["state"] for s in whole["sightings"]] == ["new", "still there"]
    crop = client.get(f"/api/sites/{name}/crops/{whole['sightings'][0]['frame']}.jpg")
    assert crop.headers["content-type"] == "image/jpeg" and crop.content.startswith(b"\xff\xd8")
    patrol = client.get(f"/api/sites/{name}/patrols/1").json()
    assert len(patrol["frames"]) == 60 and {s["finding"] for s in patrol["sightings"]} == {"F1", "F2"}
    assert client.get(f"/api/sites/{name}/export.csv").text.count("\n") == 4
    assert len(client.get(f"/api/sites/{name}/export.json").json()) == 3
    near = client.get(f"/api/sites/{name}/findings/F1/points").json()
    assert len(near["xyz"]) == len(near["rgb"]) > 30
    for path in ("/", f"/sites/{name}", f"/sites/{name}/findings/F1", f"/sites/{name}/patrols/1", "/api"):
        page = client.get(path)
        assert page.status_code == 200 and "<script>alert" not in page.text and "<i>yard" not in page.text
        assert not re.search(r'(src|href)="(https?:)?//', page.text), "nothing comes from elsewhere"
    assert "&lt;script&gt;" in client.get(f"/sites/{name}/patrols/1").text
    paths = client.get("/api/openapi.json").json()["paths"]
    assert "/api/sites/{site}/findings/{finding}/verdict" in paths


def test_versions_of_the_site_are_told(served, client):
    site, name = served[0], served[0].path.name
    assert "Versions of the site" not in client.get(f"/sites/{name}").text
    with next_version(site) as (_, _, notes):
        notes |= {"taken_in": [1], "changes": NASTY}
    page = client.get(f"/sites/{name}").text
    assert "<b>2</b> (in use)" in page and "&lt;script&gt;" in page and "<script>alert" not in page
    assert "normal since version 2" in client.get(f"/sites/{name}/findings/F1").text
    roll_back(site, 1)
    assert "<b>1</b> (in use)" in client.get(f"/sites/{name}").text
    assert "normal since" not in client.get(f"/sites/{name}/findings/F1").text


def test_what_is_wrong_is_said_in_a_sentence(served, client):
    base = f"/api/sites/{served[0].path.name}"
    for path in ("/api/sites/nowhere/findings", f"{base}/findings/F99", f"{base}/findings/x", f"{base}/patrols/9", "/nowhere",
                 f"{base}/crops/{'0' * 64}.jpg", f"{base}/crops/..%2F..%2Fsite.jpg", "/static/..%2f..%2fcli.py"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.post(f"{base}/findings/F1/verdict", json={"verdict": "fine"}, headers=ASKED).status_code == 422
    assert client.delete(f"{base}/findings/F2/verdict", headers=ASKED).json()["detail"].startswith("F2 has no verdict")
    flat = {"name": "z", "outline": [[0, 0], [1, 0], [1, 1]], "low": 2, "high": 1}
    refused = client.post(f"{base}/zones", json=flat, headers=ASKED)
    assert refused.status_code == 409 and "lower height" in refused.json()["detail"]


def test_a_foreign_page_can_change_nothing_and_a_foreign_name_is_not_answered(served, client):
    path = f"/api/sites/{served[0].path.name}/findings/F1/verdict"
    before = served[1].finding("F1").verdict
    assert client.post(path, json={"verdict": "accepted"}).status_code == 403
    assert (
        client.post(path, content=b'{"verdict": "accepted"}', headers={"Content-Type": "text/plain"}).status_code == 403
    )
    assert (
        client.options(path, headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"}).status_code
        >= 400
    )
    assert served[1].finding("F1").verdict == before
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_token_lets_in_and_nothing_else_does(served):
    places = Places.open([served[0].path])
    client = TestClient(create_app(places, "a secret", ()), base_url="http://robot.local", follow_redirects=False)
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "omniad_token=wrong"}):
        for path in ("/", "/api/sites", "/static/app.js"):
            assert client.get(path, headers=given).status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/api/sites", headers={"Authorization": "Bearer a secret"}).status_code == 200
    moved = client.get("/?token=a secret")
    assert moved.status_code == 303 and "secret" not in moved.headers["location"]
    assert (
        "httponly" in moved.headers["set-cookie"].lower() and "samesite=strict" in moved.headers["set-cookie"].lower()
    )
    assert client.get("/").status_code == 200
    places.close()


def test_a_page_of_ten_thousand_sightings_asks_for_no_more_than_it_shows(tiny_site, tmp_path):
    shutil.copytree(tiny_site, tmp_path / "large")
    store = PatrolStore.of_site(tmp_path / "large")
    place = dict(x=0.0, y=0.0, z=0.0, width=0.1, depth=0.1, height=0.1)
    with store.writing() as session:
        for p in range(1, 501):
            session.add(
                Patrol(id=p, site="large", key=str(p), robot="", source="", version="", began=float(p), ended=None)
            )
        session.flush()
        for f in range(1, 1001):
            session.add(Finding(id=f, site="large", kind="added", state="new", verdict="", score=0.9, peak=0.9, farthest=1.0,
                                looks=b"", last_patrol=1, **place))  # fmt: skip
        session.flush()
        for s in range(10_000):
            session.add(Sighting(patrol_id=s // 20 + 1, finding_id=s % 1000 + 1, track=s, kind="added", state="new", score=0.9, views=9,
                                 first_seen=0.0, last_seen=1.0, **place))  # fmt: skip
    places = Places.open([tmp_path / "large"])
    client = TestClient(create_app(places), base_url="http://localhost")
    for path in (
        "/",
        "/sites/large",
        "/sites/large/findings/F500",
        "/sites/large/patrols/100",
        "/api/sites/large/findings",
    ):
        answer = client.get(path)
        assert answer.status_code == 200 and len(answer.content) < 500_000, path
    older = client.get("/sites/large?before=500").text
    assert "/findings/F499?" in older and "/findings/F500?" not in older
    places.close()


def test_serve_refuses_in_a_sentence(served, capsys):
    site = str(served[0].path)
    assert cli.main(["serve", site, "--host", "192.0.2.1"]) == 1
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().err
    assert cli.main(["serve", site, "--webhook", "ftp://x"]) == 1
    assert "webhook" in capsys.readouterr().err
    assert cli.main(["serve", site, "--mqtt", "mqtt://user:secret@host"]) == 1
    said = capsys.readouterr().err
    assert "MQTT" in said and "secret" not in said
    assert cli.main(["serve", "/nowhere"]) == 1
    assert "is not a site" in capsys.readouterr().err


class Served:
    """`omniad serve` as a process."""

    def __init__(self, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "omniad_ros.cli", "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://"), self.address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(20) is not None


def test_a_webhook_is_told_of_new_findings(served, tmp_path):
    shutil.copytree(served[0].path, tmp_path / "plant")
    site, told = Site.open(tmp_path / "plant"), []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(told) == 1 else 204)  # what is not taken is told again
            self.end_headers()

        def log_message(self, *_):
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    store = PatrolStore.of_site(site.path)
    drive(store, site, [(LABEL, GREEN)], 1)
    with Served(str(site.path), "--webhook", f"http://127.0.0.1:{hook.server_port}/"):
        drive(store, site, [(LABEL, GREEN), (CRATE, RED)], 2)
        end = time.monotonic() + 60
        while len(told) < 2 and time.monotonic() < end:
            time.sleep(0.1)
    hook.shutdown()
    assert [t["name"] for t in told] == ["F2", "F2"] and told[0]["site"] == "plant" and told[0]["kind"] == "added"


def test_a_broker_is_told_of_new_findings_also_once_it_is_back(served, tmp_path):
    subscribe = pytest.importorskip("paho.mqtt.subscribe", reason="MQTT needs paho-mqtt")
    broker = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if broker is None:
        pytest.skip("mosquitto is not installed (Debian: mosquitto)")
    shutil.copytree(served[0].path, tmp_path / "plant")
    site, told = Site.open(tmp_path / "plant"), []
    store = PatrolStore.of_site(site.path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Served(str(site.path), "--mqtt", f"mqtt://127.0.0.1:{port}/plant/findings"):
        drive(store, site, [(CRATE, RED)], 1)  # nobody takes it yet
        time.sleep(3)
        running = subprocess.Popen([broker, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 10
            while time.monotonic() < end:
                with socket.socket() as tried:
                    if tried.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            message = subscribe.simple("plant/findings", hostname="127.0.0.1", port=port, keepalive=30)
            told.append(json.loads(message.payload))
        finally:
            running.terminate()
            running.wait(10)
    assert told[0]["name"] == "F1" and told[0]["event"] == "new finding" and told[0]["kind"] == "added"


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed (Debian: chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_an_operator_judges_draws_and_watches(browser, tiny_site, tmp_path):
    shutil.copytree(tiny_site, tmp_path / "plant")
    site = Site.open(tmp_path / "plant")
    store = PatrolStore.of_site(site.path)
    drive(store, site, [(CRATE, RED), (LABEL, GREEN)], 1)
    with Served(str(site.path)) as serve:
        page = browser.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(serve.address)
        page.click("text=plant")
        page.click("svg.plan a.mark >> nth=0")
        first = page.url.split("/findings/")[1].split("?")[0]

        page.fill("input[name=comment]", "the new <crate>")
        page.click("text=False alarm")
        page.wait_for_selector("[data-verdict='false alarm'][aria-pressed]")
        assert (
            store.finding(first).verdict == "false alarm"
            and store.finding(first).verdicts[-1].comment == "the new <crate>"
        )
        page.locator("h1").click()
        page.keyboard.press("u")
        page.wait_for_selector("#undo[disabled]")
        assert store.finding(first).verdict == ""
        page.keyboard.press("c")
        page.wait_for_selector("[data-verdict=confirmed][aria-pressed]")
        assert store.finding(first).verdict == "confirmed"

        page.evaluate("s => { s.value = 0; s.dispatchEvent(new Event('input')); }", page.query_selector("#wipe input"))
        assert "100%" in page.evaluate("document.querySelectorAll('#wipe img')[1].style.clipPath")
        drawn = "(() => { const c = document.getElementById('cloud'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v); })()"
        page.wait_for_function(drawn)

        other = {"F1": "F2", "F2": "F1"}[first]
        page.goto(f"{serve.address}sites/plant/findings/F2?show=all")
        page.keyboard.press("j")
        page.wait_for_url("**/F1?show=all")
        page.keyboard.press("k")
        page.wait_for_url("**/F2?show=all")

        page.goto(f"{serve.address}sites/plant")
        assert other in page.inner_text(".marks") and first not in page.inner_text(".marks")
        page.fill("form#zone input[name=name]", "pallets")
        page.click("#draw")
        box = page.locator("svg.plan").bounding_box()
        for x, y in ((0.1, 0.1), (0.4, 0.1), (0.4, 0.3)):
            page.locator("svg.plan").click(position={"x": x * box["width"], "y": y * box["height"]})
        page.click("text=Keep")
        page.wait_for_selector(".zones >> text=pallets")
        (zone,) = store.zones()
        plan = page.evaluate("({...document.querySelector('svg.plan').dataset})")
        corners = json.loads(zone.outline)
        assert abs(corners[0][0] - (float(plan["left"]) + 100 / float(plan["unit"]))) < 0.05
        assert corners[1][0] > corners[0][0] and corners[2][1] < corners[1][1]  # y of the map is up
        page.screenshot(path=tmp_path / "site.png", full_page=True)

        # another patrol: the page follows it without being asked
        drive(store, site, [(CRATE, RED), (LABEL, GREEN), (SPILL, GREEN)], 2)
        page.wait_for_selector(".marks >> text=F3", timeout=15_000)
        page.click("[data-remove-zone]")
        page.wait_for_selector(".zones >> text=None.")
        assert not store.zones() and not problems, problems
        page.close()
