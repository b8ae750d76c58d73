"""The playground's two tools: ``python book/playground.py bench`` and ``python book/playground.py still``.

``bench`` prints how many steps its networks take a second in Chromium. ``still`` draws its still picture, which readers
see on paper and without scripts, from the built page: the default race at its end.
"""

import io
import sys

import pdf
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from resnet56.errors import InputError
from resnet56.records.files import write_file

STATIC = pdf.ROOT / "book" / "_static"
PAGE = pdf.HTML / "book" / "playground.html"
DEFAULTS = {"depth": 56, "rate": 0.05, "init": "he", "remedy": "none", "data": "spirals", "seed": 1}
PICTURE = """
  .playground { width: 760px; }
  .playground :is(.playground-bar, .playground-status, .playground-settings) { display: none; }
  .playground .playground-arena { grid-template-columns: 1fr 1fr; }
"""
RACE = """async ([source, settings, steps]) => {
  const work = `${source}
    onmessage = ({data: [settings, steps]}) => {
      const experiment = playgroundNetwork().createExperiment(settings);
      for (let step = 0; step < 20; step++) experiment.step(); // so that the browser has compiled it
      const began = performance.now();
      for (let step = 0; step < steps; step++) experiment.step();
      postMessage(performance.now() - began);
    };`;
  const train = (strength) => new Promise((resolve) => {
    const worker = new Worker(URL.createObjectURL(new Blob([work])));
    worker.onmessage = ({data}) => resolve(data / 1000);
    worker.postMessage([{...settings, strength}, steps]);
  });
  const alone = [await train(0), await train(1)];
  return [...alone, Math.max(...(await Promise.all([train(0), train(1)])))];
}"""


def bench(browser: Browser, steps: int = 200) -> None:
    page = browser.new_page()
    source = (STATIC / "playground-network.js").read_text(encoding="utf-8")
    seconds = page.evaluate(RACE, [source, DEFAULTS, steps])
    for name, time in zip(["plain, alone", "residual, alone", "both at once"], seconds, strict=True):
        print(f"56 layers, {name}: {steps / time:.0f} steps/s")


def still(browser: Browser) -> None:
    if not PAGE.exists():
        raise InputError(f"there is no {PAGE.relative_to(pdf.ROOT)}; make book first")
    page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=2, color_scheme="light")
    page.goto(PAGE.as_uri())
    page.add_style_tag(content=PICTURE)
    page.locator(".playground-status", has_text="After 400 steps").wait_for(state="attached", timeout=300_000)
    drawn = Image.open(io.BytesIO(page.locator(".playground").screenshot()))
    path = STATIC / "playground.png"
    drawn = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    write_file(path, lambda file: drawn.save(file, "PNG", optimize=True))
    print(f"{path.relative_to(pdf.ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Return the exit status: 0 or 2 (no such tool, no built page, or no browser)."""
    tool = {"bench": bench, "still": still}.get(" ".join(sys.argv[1:]))
    try:
        if tool is None:
            raise InputError("give it bench or still")
        with sync_playwright() as playwright:
            tool(pdf.open_browser(playwright))
    except InputError as error:
        print(f"playground: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
