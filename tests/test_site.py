"""The built book: whole, without dead links, readable from disk without a network; how it is built and printed."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import build
import pdf
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Page, expect

from resnet56 import InputError

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
STATIC = ROOT / "book" / "_static"
PAGES = [*pdf.page_names(), "search"]
each_page = pytest.mark.parametrize("page", PAGES)

# The line of the first code cell, as JSON has it
EMPTY, FILLED = r'"REPOSITORY = \"\"\n"', r'"REPOSITORY = \"https://github.com/someone/fifty-six\"\n"'


@functools.cache
def read(page: str) -> BeautifulSoup:
    path = HTML / f"{page}.html"
    assert path.exists(), f"there is no {path.relative_to(ROOT)}: make book first"
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(page: str) -> set[str]:
    return {tag["id"] for tag in read(page).select("[id]")}


def find(page: str, address: str) -> tuple[Path, str]:
    """Return the file that a link of a page leads to, and the anchor in it."""
    address, anchor = urldefrag(urljoin((HTML / f"{page}.html").as_uri(), address))
    return Path(url2pathname(urlsplit(address).path)), unquote(anchor)


def loaded(page: str) -> list[str]:
    """List what a page loads: pictures, scripts, style sheets, icons."""
    tags = read(page).select("[src], link:is([rel~=stylesheet], [rel~=icon], [rel~=preload], [rel~=modulepreload])")
    return [tag.get("src") or tag["href"] for tag in tags]


@each_page
def test_every_link_leads_somewhere(page):
    links = [tag["href"] for tag in read(page).select("a[href]")]
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, anchor = find(page, link)
        assert path.is_file(), link
        if anchor and path.suffix == ".html":
            assert anchor in anchors(path.relative_to(HTML).with_suffix("").as_posix()), link
    assert links


@each_page
def test_everything_a_page_loads_is_beside_it(page):
    for address in loaded(page):
        assert not re.match(r"([a-z]+:)?//", address), f"loaded from elsewhere: {address}"
        assert address.startswith("data:") or find(page, address)[0].is_file(), address


def test_style_sheets_load_nothing_from_elsewhere():
    for path in STATIC.glob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?([a-z]+:)?//", path.read_text(encoding="utf-8")), path.name


@each_page
def test_every_picture_has_an_alternative_text(page):
    pictures = read(page).select("img")
    for picture in pictures:
        is_logo = picture.find_parent(class_="logo") is not None  # the book's name stands beside it
        assert picture.has_attr("alt") and (picture["alt"].strip() or is_logo), picture
    assert pictures


@each_page
def test_ids_are_unique(page):
    ids = [tag["id"] for tag in read(page).select("main [id]")]
    assert sorted(ids) == sorted(set(ids))


def test_every_citation_leads_to_its_reference():
    entries = {tag["id"] for tag in read("book/references").select("div.citation[id]")}
    cited = [link["href"] for page in PAGES for link in read(page).select('a[href*="references.html#"]')]
    assert cited and entries
    assert {urldefrag(link)[1] for link in cited} <= entries


@each_page
def test_a_page_loads_less_than_a_megabyte(page):
    """Without MathJax and the theme's files, which a browser fetches once for all pages."""
    files = {find(page, address)[0] for address in loaded(page) if not address.startswith("data:")}
    ours = {path for path in files if "_images" in path.parts or (STATIC / path.name).is_file()}
    sizes = {path.name: path.stat().st_size for path in {HTML / f"{page}.html", *ours}}
    assert sum(sizes.values()) < 1_000_000, sizes


def test_the_book_to_print_is_one_document_without_loose_ends():
    document = BeautifulSoup(pdf.join_pages(), "html.parser")
    ids = [tag["id"] for tag in document.select("[id]")]
    assert len(ids) == len(set(ids))
    links = [tag["href"] for tag in document.select("a[href]")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(re.match(r"#|https?:", link) for link in links)
    assert len(document.select("h1")) == len(pdf.page_names())
    assert not document.select("details.sd-dropdown:not([open]), button")


@each_page
def test_a_page_links_the_pdf_that_lies_beside_it_only(page):
    links = [find(page, tag["href"])[0] for tag in read(page).select(".dropdown-download-buttons a[href$='.pdf']")]
    assert links == ([HTML / pdf.PDF.name] if (HTML / pdf.PDF.name).is_file() and page != "search" else [])


def test_the_link_to_the_pdf_is_put_in_once():
    before = (HTML / "book" / "intro.html").read_text(encoding="utf-8")
    once = pdf.with_link(before, "../elsewhere.pdf")
    assert once.count("../elsewhere.pdf") == 1 and pdf.with_link(once, "../elsewhere.pdf") == once


# Building it for a repository


@pytest.mark.parametrize("end", ["", "/", ".git"])
def test_addresses_of_repositories(end):
    assert build.read_address(f"https://github.com/someone/fifty-six{end}") == "https://github.com/someone/fifty-six"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "github.com/a/b",
        "git@github.com:a/b.git",
        "http://github.com/a/b",
        "https://localhost/a/b",
        "https://github.com/a",
        "https://github.com//b",
        "https://github.com/a/b/c",
        "https://github.com/a/b\n",
        "https://github.com/a/b c",
        'https://github.com/a/b"',
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError, match="https://github.com/OWNER/NAME"):
        build.read_address(text)


def test_a_bad_address_gives_one_line_and_status_2():
    done = subprocess.run([sys.executable, ROOT / "book" / "build.py", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "REPOSITORY=nonsense" in done.stderr


@pytest.mark.parametrize(
    "address, providers",
    [
        ("https://github.com/a/b", {"binderhub_url", "colab_url"}),
        ("https://gitlab.com/a/b", {"binderhub_url"}),
        ("https://git.example.org/a/b", set()),
    ],
)
def test_only_what_can_open_a_repository_gets_a_button(address, providers):
    before = yaml.safe_load((ROOT / "_config.yml").read_text())
    after = build.with_repository(before, address)
    options, options_before = (config["sphinx"]["config"]["html_theme_options"] for config in (after, before))
    assert {key for key in after["launch_buttons"] if key.endswith("_url")} == providers
    assert after["html"].get("use_issues_button", False) == after["html"].get("use_edit_page_button", False)
    assert after["html"].get("use_issues_button", False) == bool(providers)
    assert options.items() >= options_before.items()
    assert before == yaml.safe_load((ROOT / "_config.yml").read_text())


@pytest.mark.parametrize(
    "address, expected",
    [
        ("https://github.com/Some-One/fifty.six", "https://some-one.github.io/fifty.six/"),
        ("https://github.com/Some-One/Some-One.github.io", "https://some-one.github.io/"),
        ("https://gitlab.com/a/b", "https://a.gitlab.io/b/"),
        ("https://git.example.org/a/b", None),
    ],
)
def test_where_the_pages_of_a_repository_are_published(address, expected):
    assert build.site(address) == expected
    config = build.with_repository(yaml.safe_load((ROOT / "_config.yml").read_text()), address)
    assert config["html"].get("baseurl") == expected
    assert ("sphinxext.opengraph" in config["sphinx"]["config"]["extensions"]) == bool(expected)


def test_every_notebook_has_a_place_for_the_address(tmp_path):
    for path in (ROOT / "book").glob("*.ipynb"):
        before = path.read_text(encoding="utf-8")
        copy = Path(shutil.copy(path, tmp_path))
        build.fill_in(copy, "https://github.com/someone/fifty-six")
        assert EMPTY in before and copy.read_text(encoding="utf-8") == before.replace(EMPTY, FILLED)
        with pytest.raises(InputError, match="REPOSITORY"):  # no place left
            build.fill_in(copy, "https://github.com/someone/fifty-six")


@pytest.mark.slow
def test_a_book_built_for_a_repository_leads_there(tmp_path):
    for name in ("book", "resnet56", "data/runs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path)
    address = "https://github.com/someone/fifty-six"
    subprocess.run([sys.executable, tmp_path / "book" / "build.py", f"{address}.git"], check=True)
    built = tmp_path / "_build" / "html"
    page = BeautifulSoup((built / "book" / "01_data.html").read_text(encoding="utf-8"), "html.parser")
    links = {tag["href"] for tag in page.select("a[href]")}
    assert links >= {
        address,
        f"{address}/edit/main/book/01_data.ipynb",
        "https://mybinder.org/v2/gh/someone/fifty-six/notebooks?urlpath=lab/tree/book/01_data.ipynb",
        "https://colab.research.google.com/github/someone/fifty-six/blob/notebooks/book/01_data.ipynb",
    }
    assert any(link.startswith(f"{address}/issues/new") for link in links)
    site = "https://someone.github.io/fifty-six/"
    assert page.select_one("link[rel=canonical]")["href"] == f"{site}book/01_data.html"
    assert page.select_one("meta[property='og:url']")["content"] == f"{site}book/01_data.html"
    picture = page.select_one("meta[property='og:image']")["content"]
    assert picture.startswith(site) and (built / picture.removeprefix(site)).is_file()
    assert len(page.select_one("meta[name=description]")["content"]) > 100
    notebook = (built / "_sources" / "book" / "01_data.ipynb").read_text(encoding="utf-8")
    assert FILLED in notebook
    assert EMPTY in (tmp_path / "book" / "01_data.ipynb").read_text(encoding="utf-8")


# In a browser


@pytest.fixture(params=["1280 light", "1280 dark", "390 light", "390 dark"])
def tab(browser, request):
    """An empty page of a width and a colour scheme; at the end nothing may have gone wrong in it."""
    width, scheme = request.param.split()
    tab = browser.new_page(viewport={"width": int(width), "height": 900}, color_scheme=scheme)
    tab.set_default_timeout(10_000)
    troubles = []
    tab.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("requestfailed", lambda asked: troubles.append(f"not loaded: {asked.url}"))
    beside = ("file:", "data:", "blob:")
    tab.on("request", lambda asked: asked.url.startswith(beside) or troubles.append(f"asked for {asked.url}"))
    yield tab
    tab.close()
    assert not troubles


def visit(tab: Page, page: str) -> None:
    tab.goto((HTML / f"{page}.html").as_uri())
    if tab.locator(".math").count():
        tab.wait_for_function("MathJax.startup.promise.then(() => true)")


@pytest.mark.slow
@pytest.mark.parametrize("page", [*PAGES, "_modules/resnet56/model"])
def test_axe_finds_no_barrier(tab, page):
    """Accessibility, contrast included, with all that is folded opened."""
    visit(tab, page)
    tab.add_style_tag(content="* { animation: none !important; transition: none !important; }")  # nothing half faded
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    found = Axe().run(tab, options={"preload": False})  # which would fetch style sheets, as no page from disk may
    assert not found.violations_count, found.generate_report()


@pytest.mark.slow
@each_page
def test_a_page_works_from_disk(tab, page):
    visit(tab, page)
    assert tab.locator(".math:not(:has(mjx-container))").count() == 0, "mathematics that is not rendered"
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0, "mathematics with an error"
    wide = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1] + 1, "the page scrolls sideways"

    for script in tab.locator("script.figure-data[data-figure]").all():
        name = script.get_attribute("data-figure")
        figure = tab.locator(f"figure:is(#{name}, :has(#{name}))")
        readout = figure.locator("[aria-live]").first
        before = readout.inner_text()
        slider = figure.locator("input[type=range]").first
        slider.press("ArrowLeft" if slider.input_value() == slider.get_attribute("max") else "ArrowRight")
        assert before.strip()
        expect(readout).not_to_have_text(before, use_inner_text=True)  # it changes with the next frame
