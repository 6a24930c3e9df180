"""The pages in Chromium: no error, no request, and every control works."""

import shutil

import pytest

from lgmnet.commands import call
from tests.test_reports import page, photos, two_weights  # noqa: F401

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip, extra dev)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="there is no Chromium; on Debian: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def requests(browser):
    """The addresses that the browser has asked for since the last call."""
    import json

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [a["request"]["url"] for a in asked if not a["request"]["url"].startswith("data:")]


def open_page(browser, path):
    requests(browser)
    browser.get_log("browser")
    browser.get(path.as_uri())


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
    return browser.execute_script(script, selector)


def set_value(browser, name, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}));"
        "e.dispatchEvent(new Event('change', {bubbles: true}));", name, value,
    )  # fmt: skip


def test_the_page_works(browser, page):  # noqa: F811
    """One test with several parts, because making the page takes longer than all of them."""
    open_page(browser, page)
    run = browser.execute_script

    def by(name):
        return browser.find_element("id", name)

    # Every image has its measurement, start, reconstruction and error.
    captions = texts(browser, "#grid figcaption")
    assert captions[:2] == ["truth", "measurement y, 103 × 2 × 3"]
    for part in ("Φ⁺y", "start x⁰", "one: ", "error"):
        assert any(part in caption for caption in captions), part
    assert run("return document.querySelector('.measured').getBoundingClientRect().height") > 20
    assert by("right").get_attribute("value") == "one: reconstruction"

    # The slider moves the border, by keys too.
    set_value(browser, "slider", 25)
    assert run("return document.getElementById('clip').style.clipPath") == "inset(0px 75% 0px 0px)"
    by("slider").send_keys("\ue014")  # arrow to the right
    assert run("return document.getElementById('divider').style.left") == "26%"

    # The zoom is shared by all pictures.
    by("in").click()
    zooms = run(
        "return [...document.querySelectorAll('#compare img, .tile img')]"
        ".map(e => getComputedStyle(e).transform)"
    )
    assert len(zooms) > 4
    assert all(zoom.startswith("matrix(2, 0, 0, 2") for zoom in zooms)
    assert len({zoom.split(",")[4] for zoom in zooms[:2]}) == 1
    by("reset").click()

    # Another image and other pictures.
    before = by("above").get_attribute("src")
    browser.find_elements("css selector", "#thumbs button")[1].click()
    assert by("above").get_attribute("src") != before
    options = texts(browser, "#right option")
    set_value(browser, "right", next(o for o in options if o.startswith("two: error")))
    assert texts(browser, "#tag-right") == ["two: error"]

    assert "one: reconstruction" in options

    # Stages.
    count = int(run("return document.getElementById('stage').max"))
    assert count >= 2
    set_value(browser, "stage", 0)
    assert "1 of" in texts(browser, "#stage-name")[0]
    assert "start" in texts(browser, "#stage-name")[0]
    set_value(browser, "stage-weights", "two")
    assert texts(browser, "#learned figcaption") == [
        "learned: data_steps step",
        "learned: priors threshold",
    ]

    # Sorting, as numbers, in both directions.
    column = "#all tbody td:nth-child(3)"
    button = browser.find_elements("css selector", "#all th button")[2]
    button.click()
    values = [float(text.replace("−", "-")) for text in texts(browser, column)]
    assert len(values) == 3
    assert values == sorted(values)
    button.click()
    assert [float(t.replace("−", "-")) for t in texts(browser, column)] == values[::-1]

    # Every picture has a text, the page has no overflow, no error, and no request but itself.
    assert not run("return [...document.images].filter(i => !i.alt && !i.closest('button')).length")
    assert not run("return [...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert browser.get_log("browser") == []
    assert requests(browser) == [page.as_uri()]


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_phone_and_dark(browser, page, width, dark):  # noqa: F811
    open_page(browser, page)
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 24, 27)" if dark else "rgb(255, 255, 255)")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_curves_are_drawn(browser, two_weights, photos, tmp_path):  # noqa: F811
    out = tmp_path / "curves"
    arguments = [str(two_weights[0]), "--data", str(photos / "plain.png"), "--output", str(out)]
    assert call("robustness", [*arguments, "--device", "cpu"], "robustness") == 0
    open_page(browser, out / "robustness.html")
    labels = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-label'))"
    )
    assert len(labels) == 5
    assert any("SNR of y (dB)" in label for label in labels)
    assert browser.get_log("browser") == []
    assert requests(browser) == [(out / "robustness.html").as_uri()]
