"""Print the built book as one PDF, ``_build/fifty-six-layers.pdf``: ``python book/pdf.py``.

The pages of ``_build/html`` are joined into one document, in the order of the table of contents. Chromium prints it.
What is only for the screen (buttons, menus, scripts) stays behind; solutions are opened. The pages then get a link to a
copy of the PDF beside them.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

from resnet56.errors import InputError
from resnet56.records.files import write_file

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PDF = ROOT / "_build" / "fifty-six-layers.pdf"
DOWNLOAD_MENU = re.compile(r'(<div class="dropdown dropdown-download-buttons">.*?)(</ul>)', re.DOTALL)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def page_names() -> list[str]:
    """Return the pages of the table of contents in their order, such as ``book/01_data``."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *(page["file"] for chapter in chapters for page in (chapter, *chapter.get("sections", [])))]


def open_browser(playwright: Playwright) -> Browser:
    """Start the Chromium or Chrome of the system, or else the one that Playwright installs.

    Raises:
        InputError: if there is none.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        return playwright.chromium.launch(executable_path=path)
    except Error as error:
        raise InputError("no Chromium starts; install one, or run: .venv/bin/playwright install chromium") from error


def read_page(name: str) -> BeautifulSoup:
    """Read a built page.

    Raises:
        InputError: if it is not there.
    """
    path = HTML / f"{name}.html"
    if not path.exists():
        raise InputError(f"there is no {path.relative_to(ROOT)}; make book first")
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def head(page: BeautifulSoup, base: str) -> str:
    """Return what a printed page needs of a page's head: style sheets and MathJax."""
    kept = page.select("link[rel=stylesheet]") + [tag for tag in page.select("script") if "mathjax" in str(tag).lower()]
    for tag in kept:
        for attribute in {"href", "src"} & tag.attrs.keys():
            tag[attribute] = urljoin(base, tag[attribute])
    return "\n".join(map(str, kept))


def article(page: BeautifulSoup, name: str, addresses: dict[str, str]) -> Tag:
    """Return a page's text as a part of the joined document.

    Args:
        page: the page; it is changed.
        name: its name, such as ``book/01_data``. All its anchors get it as a prefix, so that no two pages share one.
        addresses: for the address of each page of the book, its name.
    """
    base = (HTML / f"{name}.html").as_uri()
    text = page.select_one("article.bd-article")
    for tag in text.select("a.headerlink, button, script"):
        tag.decompose()
    for tag in text.select("details.sd-dropdown"):
        tag["open"] = ""
    for tag in text.select("[id]"):
        tag["id"] = f"{name}:{tag['id']}"
    for tag in text.select("[src]"):
        tag["src"] = urljoin(base, tag["src"])
    for tag in text.select("a[href]"):
        address, anchor = urldefrag(urljoin(base, tag["href"]))
        if address in addresses:
            tag["href"] = f"#{addresses[address]}" + (f":{anchor}" if anchor else "")
        elif address.startswith("file:"):
            del tag["href"]  # a file beside the pages
    text["id"] = name
    return text


def join_pages() -> str:
    """Return the whole book as one HTML document."""
    names = page_names()
    addresses = {(HTML / f"{name}.html").as_uri(): name for name in names}
    parts = []
    for name in names:
        print(f"reading {name}", flush=True)
        page = read_page(name)
        if not parts:
            top, title = head(page, (HTML / f"{name}.html").as_uri()), page.select_one("h1").find(string=True)
        parts.append(str(article(page, name, addresses)))
    return (
        '<!DOCTYPE html><html lang="en" data-theme="light">'
        f'<head><meta charset="utf-8"><title>{title}</title>{top}</head>'
        f'<body class="book"><main class="bd-main bd-content">{"".join(parts)}</main></body></html>'
    )


def with_link(page: str, address: str) -> str:
    """Return the text of a page with a link to the PDF at the end of its download menu."""
    link = (
        f'<li><a href="{address}" class="btn btn-sm dropdown-item" title="The whole book, to print">'
        '<span class="btn__icon-container"><i class="fas fa-book"></i></span>'
        '<span class="btn__text-container">the book (.pdf)</span></a></li>'
    )
    if link in page:
        return page
    return DOWNLOAD_MENU.sub(rf"\1{link}\2", page)


def link_pages() -> None:
    """Put a copy of the PDF beside the pages, and a link to it on each."""
    shutil.copy(PDF, HTML)
    for name in page_names():
        path = HTML / f"{name}.html"
        text = with_link(path.read_text(encoding="utf-8"), "../" * name.count("/") + PDF.name)
        path.write_text(text, encoding="utf-8", newline="\n")


def main() -> int:
    """Return the exit status: 0 or 2 (no built book, or no browser)."""
    try:
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            document = Path(folder) / "book.html"
            document.write_text(join_pages(), encoding="utf-8")
            page = open_browser(playwright).new_page()
            page.goto(document.as_uri())
            page.wait_for_function("MathJax.startup.promise.then(() => true)")
            page.evaluate("Promise.all([...document.images].map(image => image.decode()))")  # fails if one is missing
            print("printing", flush=True)
            printed = page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
        write_file(PDF, lambda file: file.write(printed))
        link_pages()
    except InputError as error:
        print(f"pdf: error: {error}", file=sys.stderr)
        return 2
    print(f"The book to print: {PDF} ({len(printed) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
