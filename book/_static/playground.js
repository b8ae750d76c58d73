/* The playground: two networks race in the page, a plain one and one with shortcuts. They are in playground-network.js;
   here is what is drawn of them and what the reader can turn. The still picture of the page gives way to the drawing.
   It is what is printed, and what comes back if anything here goes wrong. */
"use strict";
(() => {
  const figure = document.getElementById("fig-playground");
  const picture = figure?.querySelector("img");
  if (!picture) return;

  const [BEAT, LOOK, LAP] = [4, 20, 400]; // steps between two drawings, two decision maps, two ends of the race
  const PAUSE = 80; // milliseconds that a beat takes at least, so that one can follow it
  const GRID = 48; // the decision maps have GRID x GRID places
  const RANGE = 1.15; // and reach from -RANGE to RANGE
  const [FAINTEST, STRONGEST] = [-3, 4]; // the heatmaps' scale, in powers of ten
  const [LEAST, MOST] = [-3, 1]; // that of the losses
  const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // --- Elements, numbers, colours ----------------------------------------------------------------------------

  /** Make an HTML element, or an SVG one: make("svg:path", {d: "..."}). */
  function make(tag, attributes = {}, ...children) {
    const space = tag.startsWith("svg:") ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const node = document.createElementNS(space, tag.replace("svg:", ""));
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const digits = (value) => // two of them
    Number.isFinite(value) ? Number(value.toPrecision(2)).toLocaleString("en", {maximumSignificantDigits: 2}) : "–";
  const raised = (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻";
  const power = (exponent) => "10" + [...String(exponent)].map(raised).join("");
  const median = (values) => [...values].sort((one, other) => one - other)[values.length >> 1];
  const rgb = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const mix = (one, other, share) => one.map((value, index) => value + share * (other[index] - value));

  const heat = Array.from({length: 256}, (_, index) => {
    const place = (index / 255) * (VIRIDIS.length - 1);
    const stop = Math.min(Math.floor(place), VIRIDIS.length - 2);
    return `rgb(${mix(rgb(VIRIDIS[stop]), rgb(VIRIDIS[stop + 1]), place - stop)})`;
  });
  const heatOf = (norm) => // grey: overflow, so that it is no number any more
    heat[Math.round(255 * clamp((Math.log10(norm) - FAINTEST) / (STRONGEST - FAINTEST), 0, 1))] ?? "#888";

  // --- Settings, and the address that holds them -------------------------------------------------------------

  const range = (first, last, step = 1) =>
    Array.from({length: Math.round((last - first) / step) + 1}, (_, n) => Number((first + n * step).toFixed(6)));
  const named = (words) => ({values: Object.keys(words), say: (value) => words[value]});
  const choices = { // what each setting may be, and how a value is said
    depth: {label: "depth", values: range(4, 56, 2), start: 56, say: (value) => `${value} layers`},
    strength: {label: "shortcut strength", values: range(0, 1.5, 0.1), start: 1, say: String},
    rate: {label: "learning rate", values: [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], start: 0.05, say: String},
    init: {label: "initial weights", start: "he", ...named({he: "random (He)", dirac: "identity (Dirac)"})},
    remedy: {label: "remedy", start: "none",
             ...named({none: "none", clip: "clip the gradient", layerwise: "equal steps in each layer"})},
    data: {label: "data", start: "spirals",
           ...named({spirals: "two spirals", rings: "four rings", disc: "a disc in a ring"})},
    seed: {label: "seed", values: range(1, 20), start: 1, say: String},
  };
  const keys = Object.keys(choices);
  const defaults = Object.fromEntries(keys.map((key) => [key, choices[key].start]));

  /** Read settings such as "depth=20&seed=3". What is missing or cannot be has its default. */
  function readSettings(text) {
    const asked = new URLSearchParams(text);
    const read = ([key, {values, start}]) => [key, values.find((value) => String(value) === asked.get(key)) ?? start];
    return Object.fromEntries(Object.entries(choices).map(read));
  }
  const isAboutSettings = (hash) => keys.some((key) => new URLSearchParams(hash.slice(1)).has(key));
  function writeSettings() {
    const changed = keys.filter((key) => settings[key] !== defaults[key]);
    const hash = changed.map((key) => `${key}=${settings[key]}`).join("&");
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  // --- Two workers, a network each ---------------------------------------------------------------------------

  /** What runs in a worker, beside playgroundNetwork: answer each question in turn. */
  function answer() {
    let experiment, step;
    onmessage = ({data: {start, steps, places}}) => {
      if (start) [experiment, step] = [playgroundNetwork().createExperiment(start), 0];
      const trained = Array.from({length: steps}, () => experiment.step());
      step += steps;
      const {points, labels} = start ? experiment : {};
      postMessage({step, trained, points, labels, ...(places && experiment.look(places))});
    };
  }

  function createWorker() {
    const source = URL.createObjectURL(new Blob([`${playgroundNetwork}\n(${answer})()`], {type: "text/javascript"}));
    const worker = new Worker(source);
    const waiting = [];
    worker.onmessage = ({data}) => waiting.shift()(data);
    worker.onerror = (error) => giveUp(error.message);
    return (question) => new Promise((resolve) => {
      waiting.push(resolve);
      worker.postMessage(question);
    });
  }

  const places = Float64Array.from(range(0, GRID * GRID - 1).flatMap((index) =>
    [index % GRID, GRID - 1 - Math.floor(index / GRID)].map((cell) => RANGE * ((2 * cell + 1) / GRID - 1))));

  // --- The race ----------------------------------------------------------------------------------------------

  let settings = readSettings(location.hash.slice(1));
  let race = null; // {step, end, networks: [{losses, norms, error, chance, points, labels}]}
  let playing = !still.matches;
  let seen = false; // has the reader come to where it is?
  let restart = null;

  /** Ask both workers to train for some steps. Nobody waits for an answer about a race that is over. */
  async function advance(steps, look, start = null) {
    const [asked, step] = [race, race.step + steps];
    const questions = [0, settings.strength].map((strength) =>
      ({steps, places: look ? places : null, start: start && {...start, strength}}));
    const answers = await Promise.all(questions.map((question, index) => workers[index](question)));
    if (asked !== race) return false;
    race.step = step;
    race.networks.forEach((network, index) => {
      const {trained, points, labels, error, chance} = answers[index];
      for (const {loss, norms} of trained) {
        network.losses.push(loss);
        network.norms.push(norms);
      }
      if (points) Object.assign(network, {points, labels});
      if (chance) Object.assign(network, {error, chance});
    });
    return true;
  }

  async function begin() {
    clearTimeout(restart);
    const networks = [0, 1].map(() => ({losses: [], norms: []}));
    race = {step: 0, end: LAP, networks};
    if (!(await advance(0, true, settings))) return;
    drawAll();
    say();
    if (seen && playing) run();
  }

  async function run() {
    if (race.running || !race.networks[0].chance) return;
    const own = race;
    race.running = true;
    showButtons();
    while (playing && !document.hidden && own === race && race.step < race.end) {
      const beat = (still.matches ? LOOK : BEAT) - (race.step % BEAT);
      const began = performance.now();
      if (!(await advance(beat, (race.step + beat) % LOOK === 0))) break;
      draw();
      if (race.step % 100 === 0) say();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, PAUSE - (performance.now() - began))));
    }
    own.running = false;
    if (own === race) showButtons();
  }

  function play() {
    if (race.step >= race.end) { // on, then
      race.end += LAP;
      drawAll();
    }
    playing = true;
    seen = true;
    run();
  }

  function pause() {
    playing = false;
    showButtons();
    say();
  }

  async function stepOnce() {
    playing = false;
    if (race.running) return showButtons();
    if (race.step >= race.end) race.end += LAP;
    if (await advance(1, true)) drawAll();
    say();
  }

  function reset() {
    playing = false;
    begin();
  }

  /** Take new settings; the race begins anew, a moment later if a slider may still be moving. */
  function change(changes, delay = 0) {
    settings = {...settings, ...changes};
    writeSettings();
    showSettings();
    clearTimeout(restart);
    restart = setTimeout(begin, delay);
  }

  // --- Elements ----------------------------------------------------------------------------------------------

  const button = (words, press) => {
    const node = make("button", {type: "button", class: "figure-button"}, words);
    node.addEventListener("click", press);
    return node;
  };
  const playButton = button("", () => (playing && race.step < race.end ? pause() : play()));
  const stepButton = button("Step", stepOnce);
  const resetButton = button("Reset", reset);
  const counter = make("span", {class: "playground-counter"});
  const status = make("p", {class: "playground-status visually-hidden", role: "status"});

  const panels = ["plain", "resnet"].map((family) => {
    const panel = {family, name: make("span"), formula: make("div", {class: "playground-formula"})};
    panel.error = make("b");
    panel.wrong = make("span");
    panel.map = make("canvas", {class: "playground-map", role: "img"});
    panel.heat = make("canvas", {class: "playground-heat", role: "img"});
    panel.last = make("span");
    panel.parts = make("span");
    panel.end = make("span");
    panel.ratios = ["first step", "now"].map((when) => [when, make("b")]);
    panel.node = make("div", {class: "playground-network", style: `--line: var(--figure-${family})`},
      make("div", {class: "playground-name"}, make("i", {class: "figure-swatch"}), panel.name),
      panel.formula,
      make("div", {class: "playground-error"}, panel.error, " ", panel.wrong),
      panel.map,
      make("div", {class: "playground-title"}, "Gradient of each layer"),
      make("div", {class: "playground-axis"}, make("span", {}, "layer 1"), make("span", {}, "input")),
      panel.heat,
      make("div", {class: "playground-axis"}, panel.last, panel.end),
      make("div", {class: "playground-ratio"}, panel.parts,
           ...panel.ratios.map(([when, value]) => make("div", {}, `${when} `, value))));
    return panel;
  });

  const scaleBar = make("div", {class: "playground-scale"},
    make("span", {}, "length of the gradient of a layer’s weights"),
    make("i", {style: `background: linear-gradient(to right, ${VIRIDIS})`}),
    make("div", {class: "playground-axis"}, ...range(FAINTEST, STRONGEST).map((exponent) =>
      make("span", {}, `${exponent === FAINTEST ? "≤" : exponent === STRONGEST ? "≥" : ""}${power(exponent)}`))));
  const lossPlot = make("svg:svg", {class: "playground-loss", "aria-hidden": "true"});
  const lossBox = make("div", {class: "playground-losses"},
    make("div", {class: "figure-title"}, "Loss ", make("small", {}, "cross-entropy (nats), mean of ten batches")),
    lossPlot);

  const form = make("div", {class: "playground-settings", role: "group", "aria-label": "settings"});
  const controls = Object.fromEntries(keys.map((key) => {
    const {label, values, say} = choices[key];
    const value = make("span", {class: "figure-slider-value", "aria-hidden": "true"});
    let input;
    if (typeof values[0] === "string") {
      input = make("select", {}, ...values.map((value) => make("option", {value}, say(value))));
      input.addEventListener("change", () => change({[key]: input.value}));
    } else {
      input = make("input", {type: "range", min: 0, max: values.length - 1});
      input.addEventListener("input", () => change({[key]: values[input.valueAsNumber]}, 300));
    }
    input.name = key;
    form.append(make("label", {class: "playground-setting"}, make("span", {}, label), value, input));
    return [key, {input, value}];
  }));
  form.append(button("Back to the defaults", () => change(defaults)));

  const root = make("div", {class: "figure-drawing playground", role: "group", "aria-label": "playground"},
    make("div", {class: "playground-bar"}, playButton, stepButton, resetButton, counter),
    status,
    make("div", {class: "playground-arena"}, ...panels.map(({node}) => node), scaleBar, lossBox, form));

  // --- Drawing -----------------------------------------------------------------------------------------------

  const colour = (name) => rgb(getComputedStyle(root).getPropertyValue(`--playground-${name}`).trim());

  /** Give a canvas as many pixels as the screen has. Returns its pen, and its width and height. */
  function open(canvas) {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.round(n * devicePixelRatio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    return {pen: canvas.getContext("2d"), width, height};
  }

  function drawMap({map}, {chance, points, labels}) {
    const {pen, width, height} = open(map);
    const [paper, ...fills] = ["paper", "fill-0", "fill-1"].map(colour);
    const small = make("canvas", {width: GRID, height: GRID});
    const image = new ImageData(GRID, GRID);
    chance.forEach((share, place) =>
      image.data.set([...mix(paper, fills[Number(share > 0.5)], Math.abs(2 * share - 1)), 255], 4 * place));
    small.getContext("2d").putImageData(image, 0, 0);
    pen.drawImage(small, 0, 0, width, height);
    const radius = clamp(width / 130, 1.3, 5);
    const at = (value) => ((value / RANGE + 1) / 2) * width;
    [0, 1].forEach((label) => {
      pen.fillStyle = `rgb(${colour(`dot-${label}`)})`;
      pen.beginPath();
      labels.forEach((found, index) => {
        if (found !== label) return;
        const [x, y] = [at(points[2 * index]), height - at(points[2 * index + 1])];
        if (label) pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        else pen.moveTo(x + radius, y), pen.arc(x, y, radius, 0, 7);
      });
      pen.fill();
    });
  }

  /** Draw the columns of a heatmap from step `first` on. The very first has a broad strip of its own. */
  function drawHeat({heat}, {norms}, first = 0) {
    const {pen, width, height} = open(heat);
    if (first === 0) pen.clearRect(0, 0, width, height);
    const strip = Math.round(0.045 * width);
    const along = (step) => Math.round(strip * 1.3 + ((step - 1) / (race.end - 1)) * (width - strip * 1.3));
    for (let step = first; step < norms.length; step++) {
      const [from, to] = step ? [along(step), along(step + 1)] : [0, strip];
      norms[step].forEach((norm, layer) => {
        const [top, bottom] = [layer, layer + 1].map((edge) => Math.round((edge / norms[step].length) * height));
        pen.fillStyle = heatOf(norm);
        pen.fillRect(from, top, to - from, bottom - top);
      });
    }
  }

  function drawLoss() {
    const [width, height, left, right, top, bottom] = [lossPlot.clientWidth, lossPlot.clientHeight, 40, 8, 8, 24];
    const x = (step) => left + (step / race.end) * (width - left - right);
    const y = (loss) => // a logarithm
      height - bottom - clamp((Math.log10(loss) - LEAST) / (MOST - LEAST), 0, 1) * (height - top - bottom);
    const text = (x, y, words, anchor = "middle") =>
      make("svg:text", {x, y, "text-anchor": anchor, class: "figure-text"}, words);
    const line = (level, name) =>
      make("svg:line", {x1: left, x2: width - right, y1: y(level), y2: y(level), class: name});
    const curves = panels.map(({family}, index) => {
      const {losses} = race.networks[index];
      const smooth = losses.map((_, step) => {
        const window = losses.slice(Math.max(0, step - 9), step + 1);
        return window.reduce((sum, loss) => sum + loss, 0) / window.length;
      });
      const points = smooth.map((loss, step) => [x(step + 1), y(loss)]).filter(([, height]) => Number.isFinite(height));
      const d = points.map((point, index) => `${index ? "L" : "M"}${point.map((n) => n.toFixed(1))}`).join("");
      return make("svg:path", {d, class: "figure-line", style: `--line: var(--figure-${family})`});
    });
    lossPlot.replaceChildren(
      ...[0.001, 0.01, 0.1, 1, 10].flatMap((level) =>
        [line(level, "figure-grid"), text(left - 6, y(level) + 4, level, "end")]),
      line(Math.LN2, "playground-guess"), text(width - right, y(Math.LN2) - 7, "guessing: 0.69", "end"),
      ...[0, race.end / 2, race.end].map((step) => text(x(step), height - 6, step || "step 0", step ? "end" : "start")),
      ...curves);
  }

  function draw(whole = false) {
    const newSteps = whole ? 0 : race.drawn ?? 0;
    panels.forEach((panel, index) => {
      const network = race.networks[index];
      if (whole || race.step % LOOK === 0) drawMap(panel, network);
      drawHeat(panel, network, newSteps);
      [panel.error.textContent, panel.wrong.textContent] = standing(network);
      const ratios = network.norms.map((norms) => norms[0] / norms.at(-2));
      const shown = ratios.length ? [ratios[0], median(ratios.slice(-20))].map(digits) : ["–", "–"];
      panel.ratios.forEach(([, value], when) => (value.textContent = shown[when]));
    });
    race.drawn = race.step;
    counter.textContent = `step ${race.step} of ${race.end}`;
    drawLoss();
  }

  function drawAll() {
    if (!race?.networks[1].chance || !root.clientWidth) return;
    const names = ["plain", "residual"];
    const factor = settings.strength === 1 ? "" : `${settings.strength} `;
    panels.forEach((panel, index) => {
      panel.name.textContent = `${index ? "Residual" : "Plain"}-${settings.depth}`;
      panel.formula.textContent = index ? `y = ReLU(F(x) + ${factor}x)` : "y = ReLU(F(x))";
      panel.last.textContent = `layer ${settings.depth}`;
      panel.parts.textContent = `Layer 1 ÷ layer ${settings.depth - 1}`;
      panel.end.textContent = `step ${race.end}`;
      panel.heat.setAttribute("aria-label", `gradients of the ${names[index]} network, by layer and step`);
      panel.map.setAttribute("aria-label", `where the ${names[index]} network sees which class`);
    });
    draw(true);
    showButtons();
  }

  /** Say in two parts how many points a network gets wrong. One whose numbers are too large by now gives no answers. */
  const standing = ({error, losses}) =>
    Number.isFinite(losses.at(-1) ?? 0) ? [`${(100 * error).toFixed(1)} %`, "wrong"] : ["overflow", ""];

  /** Say how the race stands, for those who listen. */
  function say() {
    const [plain, residual] = race.networks.map((network) => standing(network).join(" ").trim());
    const {step, end} = race;
    const when = step === 0 ? "Before the first step" : step < end ? `Step ${step} of ${end}` : `After ${step} steps`;
    status.textContent = `${when}: plain ${plain}, residual ${residual} (guessing: 50 %).`;
  }

  function showButtons() {
    const over = race.step >= race.end;
    playButton.textContent = over ? `${LAP} more steps` : playing && seen ? "❚❚ Pause" : "▶ Play";
  }

  function showSettings() {
    for (const [key, {input, value}] of Object.entries(controls)) {
      const {values, say} = choices[key];
      const words = say(settings[key]);
      if (input.type !== "range") input.value = settings[key];
      else {
        input.value = values.indexOf(settings[key]);
        input.setAttribute("aria-valuetext", words);
        value.textContent = words;
      }
    }
  }

  // --- Into the page -----------------------------------------------------------------------------------------

  /** Put the still picture back for good. */
  function giveUp(reason) {
    console.warn("The playground stays a still picture:", reason);
    figure.classList.remove("figure-live");
    root.remove();
  }

  let workers;
  try {
    workers = [createWorker(), createWorker()];
  } catch (error) {
    return giveUp(error);
  }
  figure.prepend(root);
  figure.classList.add("figure-live");
  showSettings();
  begin();

  new IntersectionObserver(([{isIntersecting}], observer) => {
    if (!isIntersecting) return;
    observer.disconnect();
    seen = true;
    if (playing) run();
  }).observe(panels[0].map);
  new ResizeObserver(drawAll).observe(root);
  new MutationObserver(drawAll).observe(document.documentElement, {attributeFilter: ["data-theme"]});
  document.addEventListener("visibilitychange", () => playing && seen && run());
  addEventListener("hashchange", () => {
    if (isAboutSettings(location.hash)) change(readSettings(location.hash.slice(1)));
  });

  // Words of the text that set the playground become buttons.
  for (const words of document.querySelectorAll(".playground-try")) {
    const link = make("button", {type: "button", class: words.className}, ...words.childNodes);
    link.addEventListener("click", () => {
      playing = seen = true;
      change(readSettings(words.dataset.settings));
      root.scrollIntoView({behavior: still.matches ? "auto" : "smooth"});
    });
    words.replaceWith(link);
  }
})();
