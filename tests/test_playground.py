"""The playground: its networks are those that PyTorch computes, and what its page says about them is so."""

import base64
import re
from pathlib import Path
from urllib.parse import urlencode

import pdf
import pytest
import torch
from playwright.sync_api import expect
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "_static"
FILES = [STATIC / name for name in ("playground-network.js", "playground.js", "playground.css")]
NETWORK = (STATIC / "playground-network.js").read_text(encoding="utf-8")
DEFAULTS = {"depth": 56, "strength": 1, "rate": 0.05, "init": "he", "remedy": "none", "data": "spirals", "seed": 1}


# The same experiment in PyTorch


class Network(nn.Module):
    """The playground's network: fully connected, 16 wide, y = ReLU(F(x) + strength x)."""

    def __init__(self, depth: int, strength: float):
        super().__init__()
        self.strength = strength
        widths = [2, *[16] * (depth - 1)]
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in self.layers)
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if index % 2 == 1:
                before = x
            x = norm(layer(x))
            if index % 2 == 0 and index > 0:
                x = x + self.strength * before
            x = F.relu(x)
        return self.last(x)

    def by_layer(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer: weight, gain, offset."""
        pairs = zip(self.layers, self.norms, strict=True)
        return [[layer.weight, norm.weight, norm.bias] for layer, norm in pairs] + [[*self.last.parameters()]]


def clip(network: Network) -> None:
    total = torch.cat([parameter.grad.ravel() for parameter in network.parameters()]).norm()
    for parameter in network.parameters():
        parameter.grad /= total.clamp(min=1)


def layerwise(network: Network) -> None:
    for parameters in network.by_layer():
        numbers = torch.cat([p.detach().ravel() for p in parameters])
        gradient = torch.cat([p.grad.ravel() for p in parameters])
        for parameter in parameters:
            parameter.grad *= 0.1 * numbers.norm() / (gradient.norm() + 1e-12)


REMEDIES = {"none": lambda network: None, "clip": clip, "layerwise": layerwise}


# The page's own code


@pytest.fixture(scope="module")
def laboratory(browser):
    """An empty page that knows the playground's networks as ``lab``."""
    page = browser.new_page()
    page.add_script_tag(content=f"{NETWORK}\nconst lab = playgroundNetwork();")
    yield page
    page.close()


TRAIN = """([settings, steps]) => {
  const experiment = lab.createExperiment(settings);
  const {network, points, labels} = experiment;
  const draw = lab.createRandom(0);
  const packed = (part) => { // all parameters, layer by layer: weight, gain, offset
    const names = ["weight", "gain", "offset"];
    const numbers = network.layers.flatMap((layer) => names.flatMap((name) => [...layer[name][part]]));
    const bytes = new Uint8Array(Float64Array.from(numbers).buffer);
    let text = "";
    for (let n = 0; n < bytes.length; n += 30000) text += String.fromCharCode(...bytes.subarray(n, n + 30000));
    return btoa(text);
  };
  const trail = [];
  for (let step = 0; step < steps; step++) {
    const before = packed("value");
    const batch = Array.from({length: 128}, () => Math.floor(512 * draw()));
    const rows = Float64Array.from(batch.flatMap((index) => [points[2 * index], points[2 * index + 1]]));
    const outputs = lab.forward(network, rows, 128).slice(0, 256);
    const {loss, gradient} = lab.crossEntropy(outputs, batch.map((index) => labels[index]));
    lab.backward(network, gradient, 128);
    const gradients = packed("gradient");
    lab.remedies[settings.remedy](network.layers);
    lab.descend(network.layers, settings.rate);
    trail.push({batch, before, outputs: [...outputs], loss, gradients, after: packed("value")});
  }
  return {trail, points: [...points], labels};
}"""


def unpack(text: str, network: Network) -> list[list[torch.Tensor]]:
    """Return numbers of the page's network in the shapes of PyTorch's, layer by layer."""
    numbers = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)
    layers = []
    for parameters in network.by_layer():
        parts = numbers[: sum(map(torch.numel, parameters))].split([parameter.numel() for parameter in parameters])
        numbers = numbers[sum(map(len, parts)) :]
        layers.append([part.reshape(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)])
    assert len(numbers) == 0
    return layers


def load(network: Network, layers: list[list[torch.Tensor]]) -> None:
    with torch.no_grad():
        for parameters, values in zip(network.by_layer(), layers, strict=True):
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)


def difference(found: list[list[torch.Tensor]], right: list[list[torch.Tensor]]) -> float:
    """Return how far two lists of layers are apart in the layer where they differ most, relative to its length."""
    joined = [[torch.cat([part.detach().ravel() for part in layer]) for layer in layers] for layers in (found, right)]
    return max(((one - other).norm() / other.norm()).item() for one, other in zip(*joined, strict=True))


def changes(after: list[list[torch.Tensor]], before: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[new.detach() - old for new, old in zip(*pair, strict=True)] for pair in zip(after, before, strict=True)]


def compare(laboratory, settings: dict, steps: int, free: bool = False) -> dict[str, float]:
    """Train in the page and in PyTorch on the same batches. Return the largest relative difference of each quantity.

    A deep plain network makes much of little: after some steps a difference in the last digit is one in the first. So
    PyTorch begins each step with the weights that the page has (its momentum is its own), unless it is to run free.
    """
    network = Network(settings["depth"], settings["strength"]).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=settings["rate"], momentum=0.9)
    result = laboratory.evaluate(TRAIN, [settings, steps])
    points, labels = torch.tensor(result["points"], dtype=torch.float64).reshape(-1, 2), torch.tensor(result["labels"])
    worst = dict.fromkeys(["outputs", "loss", "gradients", "changes", "weights"], 0.0)
    for step, seen in enumerate(result["trail"]):
        before, after = unpack(seen["before"], network), unpack(seen["after"], network)
        if step == 0 or not free:
            load(network, before)
        start = [[parameter.detach().clone() for parameter in layer] for layer in network.by_layer()]
        outputs = network(points[seen["batch"]])
        loss = F.cross_entropy(outputs, labels[seen["batch"]])
        optimizer.zero_grad()
        loss.backward()
        found = {
            "outputs": difference([[torch.tensor(seen["outputs"], dtype=torch.float64)]], [[outputs]]),
            "loss": abs(seen["loss"] / loss.item() - 1),
            "gradients": difference(
                unpack(seen["gradients"], network),
                [[parameter.grad for parameter in layer] for layer in network.by_layer()],
            ),
        }
        REMEDIES[settings["remedy"]](network)
        optimizer.step()
        found["changes"] = difference(changes(after, before), changes(network.by_layer(), start))
        found["weights"] = difference(after, network.by_layer())
        worst = {name: max(value, found[name]) for name, value in worst.items()}
    return worst


CASES = [
    {"data": "disc", "depth": 20},
    *[
        {"strength": strength, "init": init, "remedy": remedy}
        for strength in (0, 0.5, 1)
        for init in ("he", "dirac")
        for remedy in REMEDIES
    ],
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_step_is_that_of_pytorch(laboratory, case):
    """Fifty of them: outputs, loss, the gradient of every layer, and what is added to its weights."""
    worst = compare(laboratory, DEFAULTS | case, 50)
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.slow
@pytest.mark.parametrize("init", ["he", "dirac"])
@pytest.mark.parametrize("strength", [0, 0.5, 1])
@pytest.mark.parametrize("remedy", REMEDIES)
def test_weights_after_fifty_steps_are_those_of_pytorch(laboratory, remedy, strength, init):
    """Of networks so shallow that rounding does not grow to something else."""
    case = {"depth": 6, "data": "rings", "strength": strength, "init": init, "remedy": remedy}
    worst = compare(laboratory, DEFAULTS | case, 50, free=True)
    assert max(worst.values()) < 1e-5, worst


# What the page says

FATE = """async ([source, cases, steps]) => {
  const work = `${source}
    onmessage = ({data: [settings, steps]}) => {
      const experiment = playgroundNetwork().createExperiment(settings);
      const ratios = [];
      for (let step = 0; step < steps; step++) {
        const {norms} = experiment.step();
        ratios.push(norms[0] / norms.at(-2));
      }
      const error = 100 * experiment.look(new Float64Array(0)).error;
      postMessage({error, start: ratios[0], end: ratios.slice(-20).sort((a, b) => a - b)[10]});
    };`;
  const address = URL.createObjectURL(new Blob([work]));
  const queue = cases.map((settings, index) => [settings, index]);
  const results = [];
  const runner = async () => {
    const worker = new Worker(address);
    while (queue.length) {
      const [settings, index] = queue.shift();
      results[index] = await new Promise((resolve) => {
        worker.onmessage = ({data}) => resolve(data);
        worker.postMessage([settings, steps]);
      });
    }
    worker.terminate();
  };
  await Promise.all([runner(), runner()]);
  return results;
}"""
SEEDS = range(1, 6)


@pytest.fixture(scope="module")
def fate(browser):
    """A function that trains networks of five seeds for 400 steps by the page's own code, once for all tests."""
    page = browser.new_page()
    known = {}

    def train(**case) -> list[dict]:
        key = str(sorted(case.items()))
        if key not in known:
            cases = [DEFAULTS | case | {"seed": seed} for seed in SEEDS]
            known[key] = page.evaluate(FATE, [NETWORK, cases, 400])
        return known[key]

    yield train
    page.close()


def mean_error(results: list[dict]) -> float:
    return sum(result["error"] for result in results) / len(results)


@pytest.mark.slow
def test_the_race_ends_as_told(fate):
    plain, residual = fate(strength=0), fate()
    assert sum(result["error"] > 30 for result in plain) >= 4, plain
    assert sum(result["error"] < 1 for result in residual) >= 4, residual


@pytest.mark.slow
def test_gradients_explode_in_the_first_step_and_no_longer_at_the_end(fate):
    plain, residual = fate(strength=0), fate()
    assert all(5_000 < result["start"] < 1_000_000 for result in plain), plain
    assert all(2 < result["start"] < 100 for result in residual), residual
    assert all(result["end"] < 20 for result in plain), plain


@pytest.mark.slow
def test_how_deep_a_plain_network_may_be(fate):
    errors = [mean_error(fate(strength=0, depth=depth)) for depth in (8, 20, 32, 56)]
    assert errors[0] < 1 and errors[1] < 10 and 15 < errors[2] < 38 and errors[3] > 33, errors
    assert mean_error(fate(depth=20)) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"remedy": "clip"},
        {"remedy": "layerwise"},
        {"remedy": "layerwise", "rate": 0.01},
        {"rate": 0.005},
        {"rate": 0.2},
    ],
    ids=str,
)
def test_what_acts_on_steps_alone_leaves_plain_56_guessing(fate, case):
    assert mean_error(fate(strength=0, **case)) > 35


@pytest.mark.slow
def test_what_a_start_near_the_identity_does(fate):
    untreated, dirac = mean_error(fate(strength=0)), mean_error(fate(strength=0, init="dirac"))
    assert 8 < dirac < 0.7 * untreated
    assert mean_error(fate(strength=0, init="dirac", remedy="clip")) < 8 < dirac


@pytest.mark.slow
def test_how_strong_a_shortcut_must_be(fate):
    errors = [mean_error(fate(strength=strength)) for strength in (0.3, 0.6, 0.9)]
    assert errors[0] > 28 > 25 > errors[1] > 8 > 4 > errors[2], errors
    assert mean_error(fate(strength=1.2)) > 40


@pytest.mark.slow
def test_even_a_disc_is_too_hard_for_plain_56(fate):
    assert mean_error(fate(strength=0, data="disc")) > 20
    assert mean_error(fate(data="disc")) < 2


@pytest.mark.slow
def test_neighbours_get_unrelated_answers_from_plain_56(laboratory):
    """Before the first step: how much the log odds of points 0.02 apart have to do with each other."""
    correlate = """([settings, seeds]) => seeds.map((seed) => {
      const random = lab.createRandom(99);
      const pairs = Array.from({length: 1000}, () => {
        const [x, y, angle] = [2 * random() - 1, 2 * random() - 1, 2 * Math.PI * random()];
        return [x, y, x + 0.02 * Math.cos(angle), y + 0.02 * Math.sin(angle)];
      });
      const {chance} = lab.createExperiment({...settings, seed}).look(Float64Array.from(pairs.flat()));
      return [...chance];
    })"""

    def typical(**case) -> float:
        found = laboratory.evaluate(correlate, [DEFAULTS | case, list(SEEDS)])
        odds = torch.logit(torch.tensor(found, dtype=torch.float64), eps=1e-9).reshape(len(SEEDS), -1, 2)
        return torch.stack([torch.corrcoef(pairs.T)[0, 1] for pairs in odds]).median().item()

    assert typical(strength=0) < 0.65
    assert typical() > 0.85
    assert typical(strength=0, init="dirac") > 0.95


# The page


def test_it_is_small_and_asks_nobody():
    assert sum(path.stat().st_size for path in FILES) < 40_000
    for path in FILES:
        addresses = set(re.findall(r"[a-z]+://[^\"']*", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}, path.name


def test_words_that_set_the_playground_name_settings_there_are():
    text = (ROOT / "book" / "playground.md").read_text(encoding="utf-8")
    asked = re.findall(r'data-settings="([^"]*)"', text)
    assert len(asked) >= 8
    for settings in asked:
        assert {pair.split("=")[0] for pair in settings.split("&")} <= DEFAULTS.keys(), settings


@pytest.fixture
def open_page(browser):
    """A function that opens the playground; at the end nothing may have gone wrong there."""
    pages, troubles = [], []

    def open_page(address: str = "", **options):
        path = pdf.HTML / "book" / "playground.html"
        assert path.exists(), f"there is no {path.relative_to(ROOT)}: make book first"
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        page.set_default_timeout(20_000)
        page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        beside = ("file:", "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(beside) or troubles.append(f"asked for {asked.url}"))
        page.goto(path.as_uri() + address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not troubles


def status(page):
    return page.locator(".playground-status")


def counter(page):
    return page.locator(".playground-counter")


def wait_for_step(page, step: int) -> None:
    page.wait_for_function(
        "step => parseInt(document.querySelector('.playground-counter').innerText.slice(5)) >= step", arg=step
    )


def errors(page) -> list[float]:
    return [float(text.removesuffix(" %")) for text in page.locator(".playground-error b").all_inner_texts()]


def wait_for_start(page) -> None:
    expect(status(page)).to_contain_text("Before the first step")


@pytest.mark.slow
def test_the_race_runs_by_itself_and_ends_as_told(open_page):
    """On five seeds, of which one may differ."""
    ends = []
    for seed in SEEDS:
        page = open_page(f"#seed={seed}")
        expect(status(page)).to_contain_text("After 400 steps", timeout=120_000)
        ends.append(errors(page))
        page.close()
    assert sum(plain > 30 for plain, _ in ends) >= 4, ends
    assert sum(residual < 1 for _, residual in ends) >= 4, ends


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_is_drawn_and_can_be_read(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wait_for_step(page, 60)
    shades = """canvas => new Set(new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    for canvas in page.locator(".playground canvas").all():
        assert canvas.evaluate(shades) > 20
    small = """root => [...root.querySelectorAll("*")].filter((node) => parseFloat(getComputedStyle(node).fontSize) < 11
        && [...node.childNodes].some((child) => child.nodeType === 3)).map((node) => node.outerHTML)"""
    assert page.locator(".playground").evaluate(small) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1")


@pytest.mark.slow
def test_buttons(open_page):
    page = open_page()
    wait_for_step(page, 20)
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("button", name="Reset").press("Enter")
    expect(counter(page)).to_have_text("step 0 of 400")
    page.get_by_role("button", name="Step").press("Space")
    expect(counter(page)).to_have_text("step 1 of 400")
    page.get_by_role("button", name="Play").press("Space")
    wait_for_step(page, 40)


@pytest.mark.slow
def test_settings_by_keyboard_are_in_the_address(open_page):
    page = open_page(reduced_motion="reduce")
    wait_for_start(page)
    page.get_by_label("depth").press("ArrowLeft")
    page.get_by_label("shortcut strength").press("ArrowRight")
    page.get_by_label("learning rate").press("Home")
    page.get_by_label("seed").press("End")
    for label, letter in [("initial weights", "i"), ("remedy", "e"), ("data", "f")]:
        page.get_by_label(label).press(letter)
    expected = {
        "depth": 54,
        "strength": 1.1,
        "rate": 0.002,
        "init": "dirac",
        "remedy": "layerwise",
        "data": "rings",
        "seed": 20,
    }
    page.wait_for_url(f"**#{urlencode(expected)}")
    expect(page.locator(".playground-name").first).to_have_text("Plain-54")
    page.get_by_role("button", name="Back to the defaults").press("Enter")
    page.wait_for_url("**/playground.html")
    expect(page.locator(".playground-name").first).to_have_text("Plain-56")


@pytest.mark.slow
def test_the_address_sets_the_playground(open_page):
    address = "#depth=20&strength=0.5&init=dirac&remedy=clip&data=disc&seed=3&rate=fast"
    page = open_page(address, reduced_motion="reduce")
    wait_for_start(page)
    expect(page.locator(".playground-name").last).to_have_text("Residual-20")
    expect(page.get_by_label("shortcut strength")).to_have_attribute("aria-valuetext", "0.5")
    expect(page.get_by_label("learning rate")).to_have_attribute("aria-valuetext", "0.05")  # there is no "fast"
    expect(page.get_by_label("remedy")).to_have_value("clip")
    page.evaluate("location.hash = '#depth=8'")
    expect(page.locator(".playground-name").last).to_have_text("Residual-8")
    expect(page.get_by_label("remedy")).to_have_value("none")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_race(open_page):
    ends = []
    for _ in range(2):
        page = open_page("#depth=14&seed=2")
        expect(status(page)).to_contain_text("Step 100 of 400", timeout=60_000)
        ends.append(status(page).inner_text())
        page.close()
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_words_in_the_text_set_the_playground(open_page):
    page = open_page(reduced_motion="reduce")
    wait_for_start(page)
    page.locator("summary", has_text="What happens").first.click()
    page.get_by_role("button", name="20 layers").press("Enter")
    page.wait_for_url("**#depth=20")
    expect(page.locator(".playground-name").first).to_have_text("Plain-20")
    expect(page.locator(".playground-bar")).to_be_in_viewport()


@pytest.mark.slow
def test_who_wants_little_motion_starts_the_race_by_hand(open_page):
    page = open_page(reduced_motion="reduce")
    wait_for_start(page)
    page.wait_for_timeout(1000)
    expect(counter(page)).to_have_text("step 0 of 400")
    page.get_by_role("button", name="Play").click()
    wait_for_step(page, 40)


@pytest.mark.slow
def test_on_paper_and_without_scripts_there_is_a_picture(open_page):
    page = open_page(reduced_motion="reduce")
    picture, drawing = page.locator("#fig-playground img"), page.locator(".playground")
    expect(drawing).to_be_visible()
    expect(picture).to_be_hidden()
    page.emulate_media(media="print")
    expect(drawing).to_be_hidden()
    expect(picture).to_be_visible()
    page = open_page(java_script_enabled=False)
    expect(page.locator("#fig-playground img")).to_be_visible()


@pytest.mark.slow
def test_a_browser_that_allows_no_workers_shows_the_picture(browser):
    page = browser.new_page()
    page.add_init_script("delete window.Worker")
    page.goto((pdf.HTML / "book" / "playground.html").as_uri())
    expect(page.locator("#fig-playground img")).to_be_visible()
    expect(page.locator(".playground")).to_have_count(0)
    page.close()
