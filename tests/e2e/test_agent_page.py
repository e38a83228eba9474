"""The page at `/` in a real Chromium: every state it can be in, wide and narrow, light and dark."""

from __future__ import annotations

import io
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.agent.engine import Engine
from edgekit.agent.jobs import ModelInfo
from edgekit.agent.serve.server import HttpServer, HttpSettings
from edgekit.runtime.pipeline import Pipeline
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.wire.manifest import Tensor

from ..agent_board import until  # noqa: TID252 - helper of the agent's tests

pytestmark = pytest.mark.chromium
MODEL = "digits-cnn"
TOKEN = "a-token-of-a-test"  # noqa: S105
SIZES = {"wide": 1200, "narrow": 390}
ROOT = Path(__file__).resolve().parents[2]


def picture(seed: int = 1) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Served:
    engine: Engine
    server: HttpServer

    @property
    def url(self) -> str:
        return self.server.url

    def load(self, name: str = MODEL, run: Callable[..., Any] | None = None) -> None:
        options = {"input": "image", "size": 8, "order": "grey", "fit": "stretch", "std": 255}
        options |= {"top_k": 3, "labels": [str(i) for i in range(10)]}
        info = ModelInfo(
            name,
            "3",
            "Handwritten digits",
            "classify-image",
            inputs=(Tensor("image", "float32", (1, 1, 8, 8)),),
            outputs=(Tensor("logits", "float32", (1, 10)),),
        )
        run = run or runner(open_session(ROOT / "models" / "digits-cnn.onnx"))
        self.engine.serve(info, Pipeline(create_task("classify-image", options, {}), run))

    def ask(self, data: bytes, name: str = MODEL) -> int:
        request = urllib.request.Request(f"{self.url}infer/{name}", data=data)  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(token: str | None = None) -> Served:
        engine = Engine()
        made = Served(engine, HttpServer(engine, HttpSettings(port=0, token=token)))
        made.server.start()
        running.append(made)
        return made

    yield start
    for made in running:
        made.server.stop()
        made.engine.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox in a container; the page is our own.
        launched = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield launched
        launched.close()


@pytest.fixture(params=[(s, c) for s in SIZES for c in ("light", "dark")], ids="-".join)
def page(browser, request) -> Iterator[Any]:
    size, scheme = request.param
    context = browser.new_context(
        viewport={"width": SIZES[size], "height": 800}, color_scheme=scheme
    )
    made = context.new_page()
    made.set_default_timeout(15_000)
    trouble: list[str] = []
    made.on("pageerror", lambda error: trouble.append(str(error)))
    yield made
    # What is cut off to the right is not read by anybody, and what is faint is not seen.
    assert made.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert made.evaluate(CONTRAST) == []
    assert not trouble
    context.close()


# Text of less than 4.5 : 1 against the paper (WCAG 2.2, 1.4.3); what is dimmed on purpose is not.
CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("h1, h2, p, td, th, pre, span, button")]
    .filter((node) => node.textContent.trim() && node.offsetParent && !node.closest(".old"))
    .filter((node) => {
      const ink = light(getComputedStyle(node).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5;
    }).map((node) => node.textContent);
}"""


def see(page: Any, selector: str, pattern: str) -> None:
    page.locator(selector).filter(has_text=re.compile(pattern)).first.wait_for()


def test_no_model_says_what_to_do(page, serve):
    page.goto(serve().url)
    see(page, "#health", "^well$")
    see(page, ".note", "No model is loaded.*agent.json.*edgekit agent status")


def test_live_traffic_moves_the_page(page, serve):
    served = serve()
    served.load()
    page.goto(served.url)
    see(page, "section", f"No answer yet.*infer/{MODEL}")
    stop = threading.Event()

    def traffic() -> None:
        seed = 0
        while not stop.wait(0.02):
            seed += 1
            assert served.ask(picture(seed)) == 200

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        see(page, ".facts", r"latency p95, measured here≤ [\d.]+ ms")
        see(page, ".facts", r"last answernow, in [\d.]+ ms")
        answered = "document.querySelectorAll('.facts tr')[2].cells[1].textContent"
        before = int(page.evaluate(answered))
        until(lambda: int(page.evaluate(answered)) > before)
        page.locator(".shown img.tiny").wait_for()
    finally:
        stop.set()
        thread.join()
    assert page.locator(".answers tr").count() == 3
    # The bars are to be compared: each as long as its share of one width.
    shares = page.evaluate(
        "[...document.querySelectorAll('.answers tr')].map((row) => ["
        "parseFloat(row.style.getPropertyValue('--share')), Number(row.cells[1].textContent),"
        "row.cells[0].getBoundingClientRect().width])"
    )
    for share, score, width in shares:
        assert abs(share - 100 * score) <= 0.51
        assert width == shares[0][2] > 150


def test_a_model_that_fails_is_named(page, serve):
    def broken(_feeds: Any) -> Any:
        raise RuntimeError("no such op")

    served = serve()
    served.load()
    served.load("broken", broken)
    assert served.ask(picture()) == 200
    assert served.ask(b"no picture") == 422
    assert served.ask(picture(), "broken") == 500
    page.goto(served.url)
    see(page, "#health.bad", "well, 1 failed since its start")
    see(page, ".facts td.bad", "^1$")
    see(page, ".facts", "refused1")


def test_an_agent_that_has_gone_is_told_from_one_that_is_there(page, serve):
    served = serve()
    served.load()
    assert served.ask(picture()) == 200
    page.goto(served.url)
    see(page, "#health", "^well$")
    served.server.stop()
    see(page, "#health.bad", "does not answer")
    see(page, "#when", "last heard .*tried again")
    assert page.locator("main.old").count() == 1
    assert page.title().startswith("! ")


def test_a_token_is_asked_for(page, serve):
    served = serve(TOKEN)
    served.load()
    page.goto(served.url)
    see(page, "#health.bad", "a token is needed")
    page.fill("#token", "wrong")
    page.click("#login button")
    see(page, "#health.bad", "not the right one")
    page.fill("#token", TOKEN)
    page.click("#login button")
    see(page, "#health", "^well$")
    see(page, "section", MODEL)
    assert not page.locator("#login").is_visible()


def test_what_a_model_says_is_text_and_not_markup(page, serve):
    served = serve()
    served.load("plain")
    info = ModelInfo(
        "hostile",
        "1",
        "<img src=x onerror=alert(1)>",
        "classify-image",
        inputs=(Tensor("image", "float32", (1, 1, 8, 8)),),
        outputs=(Tensor("logits", "float32", (1, 10)),),
    )
    served.engine.serve(info, Pipeline(served.engine._lane("plain").served.task, lambda _feeds: {}))
    page.goto(served.url)
    see(page, "section", "hostile <img src=x onerror")
    assert page.locator("img").count() == 0
