"""Every tab used once in headless Chromium. No request may leave the loopback."""

import shutil

import pytest

from helpers.explored import served

WAIT = 60_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here (pip install 'latentsmith[dev]')"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium); the server's tests have run")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """``opened(address)``: the page, loaded. At the end: nothing was asked elsewhere, no script
    broke, nothing was run that came as text."""
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    page, asked, broken, own = context.new_page(), [], [], ["data:"]
    page.set_default_timeout(WAIT)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("dialog", lambda dialog: (broken.append("a dialog"), dialog.dismiss()))

    def load(address):
        own.append(address)
        page.goto(address)
        page.wait_for_selector("#tabs button")
        return page

    yield load
    context.close()
    assert asked and [url for url in asked if not url.startswith(tuple(own))] == []
    assert broken == []


def settled(page):
    """All arms have answered; none with a refusal."""
    page.wait_for_selector(".panel .content > *")
    page.wait_for_selector(".panel.busy", state="detached")
    assert page.locator(".error").all_inner_texts() == []


def go(page, tab):
    page.click(f"#tab-{tab}")
    if page.locator(".go").count():
        fewer(page)
        page.click(".go")
    settled(page)


def fewer(page):
    """Steps, so that generating takes no time."""
    if page.locator("#control-steps").count():
        page.fill("#control-steps", "2")


def arms(page):
    return page.locator(".panel h2").all_inner_texts()


def test_every_tab_of_images(opened, explored, tmp_path):
    with served([explored["images"]]) as address:
        page = opened(address)
        settled(page)
        assert [name.split()[0] for name in arms(page)] == ["baseline", "regularized"]
        _map(page)
        _neighbours(page)
        _interpolate(page)
        _reconstruct(page, tmp_path)
        _generate(page)
        for tab, titles in (("edit", 3), ("variation", 2)):
            go(page, tab)
            assert page.locator(".panel").last.locator(".block").count() == titles
        _inpaint(page)
        go(page, "run")
        assert "mmreg" in page.locator("dl.facts").inner_text()


def _map(page):
    """A click takes a sample along, the one before becomes the second; colours change."""
    canvas = page.locator(".scatter canvas").first
    box = canvas.bounding_box()
    found = 0
    for step in range(1, 400):  # across the map until two points were met
        x, y = 5 + step % 20 * box["width"] / 20, 5 + step // 20 * box["height"] / 20
        canvas.hover(position={"x": min(x, box["width"] - 2), "y": min(y, box["height"] - 2)})
        if page.locator("#tip").is_visible():
            assert page.locator("#tip canvas.thumb").is_visible()
            canvas.click(position={"x": min(x, box["width"] - 2), "y": min(y, box["height"] - 2)})
            found += 1
            if found == 2:
                break
    assert found == 2
    page.select_option("#control-colour", "distance error")
    page.wait_for_selector(".legend .ramp")
    settled(page)
    page.check("[data-pictures] >> nth=0")


def _neighbours(page):
    """A click on a neighbour asks for its own neighbours; hiding an arm leaves the other."""
    go(page, "neighbours")
    first = page.locator(".sample .caption").inner_text()
    page.locator(".pick").first.click()
    settled(page)
    assert page.locator(".sample .caption").inner_text() != first
    page.click("#arms button >> nth=0")
    settled(page)
    assert len(arms(page)) == 1
    page.click("#arms button >> nth=0")
    settled(page)


def _interpolate(page):
    """Two are picked from all samples; the strip has as many images as asked for."""
    go(page, "interpolate")
    for control, number in (("start", 2), ("end", 5)):
        page.click(f"[data-choose={control}]")
        page.click(f"#chooser button[data-number='{number}']")
    settled(page)
    assert page.locator(".panel").first.locator(".strip img").count() == 9
    assert page.locator(".strip .curve").first.get_attribute("d").startswith("M100 ")


def _reconstruct(page, tmp_path):
    """An image from the disk, and one that is none."""
    from PIL import Image

    go(page, "reconstruct")
    Image.new("RGB", (50, 30), "red").save(tmp_path / "mine.png")
    page.set_input_files("input[type=file]", tmp_path / "mine.png")
    page.get_by_text("mine.png").wait_for()
    settled(page)
    assert page.locator(".panel").first.locator("figure").count() == 3
    (tmp_path / "none.png").write_text("no picture")
    page.set_input_files("input[type=file]", tmp_path / "none.png")
    page.locator(".error").first.wait_for()
    assert "the image: cannot identify" in page.locator(".error").first.inner_text()
    page.click("[data-choose=image]")
    page.click("#chooser button[data-number='1']")
    page.locator(".error").first.wait_for(state="detached")
    settled(page)


def _generate(page):
    """A prompt is shown as it was written, and never run."""
    page.click("#tab-generate")
    prompt = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.fill("#control-prompts", prompt)
    fewer(page)
    page.click(".go")
    settled(page)
    assert page.locator(".panel").last.locator("h3").inner_text() == prompt
    assert page.locator(".panel").last.locator("figure img").count() == 8


def _inpaint(page):
    """What the mouse paints is made anew."""
    page.click("#tab-inpaint")
    box = page.locator("[data-mask]").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 120, steps=5)
    page.mouse.up()
    fewer(page)
    page.click(".go")
    settled(page)
    assert page.locator(".panel").first.locator("figure").count() == 7


def test_fields_and_texts(opened, explored):
    with served([explored["fields"]]) as address:
        page = opened(address)
        go(page, "field")
        page.fill("#control-sides", "8, 40")
        page.press("#control-sides", "Tab")
        page.get_by_text("40 px").wait_for()
        settled(page)
        assert page.locator("figure").count() == 4
    with served([explored["texts"]]) as address:
        page = opened(address)
        settled(page)
        go(page, "neighbours")
        assert page.locator(".pick.text").count() == 16
        go(page, "roundtrip")
        go(page, "between_texts")
        assert page.locator("tbody tr").count() == 7
        go(page, "run")
