/* Interactive figures. A page may hold data in <script type="application/json" class="figure-data">, written by
   resnet56/plots/interactive.py. Each names a figure, whose still picture gives way to a drawing. The picture stays in
   the page: it is what is printed, and what comes back if anything here goes wrong.

   A kind of figure is a function that makes its plots and controls once. It keeps a little state (a step, a layer, a
   depth), and everything is drawn from that. Colours are CSS variables: a change of theme needs no redrawing. */
"use strict";
(() => {
  // --- Elements and numbers --------------------------------------------------------------------------------

  /** Make an HTML element, or an SVG one: make("svg:path", {d: "..."}). */
  function make(tag, attributes = {}, ...children) {
    const space = tag.startsWith("svg:") ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const node = document.createElementNS(space, tag.replace("svg:", ""));
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const range = (low, high) => Array.from({length: Math.max(0, high - low + 1)}, (_, index) => low + index);
  const grouped = (value) => value.toLocaleString("en");
  const raised = (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻";
  const power = (exponent) => "10" + [...String(exponent)].map(raised).join("");

  /** Write a number with three digits. */
  function digits(value) {
    if (value == null) return "none";
    if (value === 0 || (value >= 1e-3 && value < 1e5))
      return value.toLocaleString("en", {minimumSignificantDigits: 3, maximumSignificantDigits: 3});
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return `${mantissa} × ${power(Number(exponent))}`;
  }

  /** The index of the number nearest to `value`. */
  function nearest(numbers, value) {
    const distances = numbers.map((number) => Math.abs(number - value));
    return distances.indexOf(Math.min(...distances));
  }

  // --- Scales ----------------------------------------------------------------------------------------------

  /** Round numbers, about `count` of them: pairs of a value and its label. */
  function linearTicks(low, high, count) {
    const least = (high - low) / count;
    const unit = 10 ** Math.floor(Math.log10(least));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= least * 0.999);
    return range(Math.ceil(low / step), Math.floor(high / step)).map((n) => [n * step, grouped(n * step)]);
  }

  /** Powers of ten; where there are few, also numbers between them. */
  function logTicks(low, high, count) {
    const [first, last] = [Math.log10(low), Math.log10(high)];
    const decades = range(Math.ceil(first), Math.floor(last));
    const stride = Math.ceil(decades.length / count);
    if (decades.length > 2) return decades.filter((n) => n % stride === 0).map((n) => [10 ** n, power(n)]);
    const between = range(Math.floor(first), Math.ceil(last)).flatMap((n) => [1, 2, 5].map((m) => Number(`${m}e${n}`)));
    return between.filter((value) => value >= low && value <= high).map((value) => [value, String(value)]);
  }

  /** A function from values to pixels, with its inverse and its ticks. A logarithm of what has none gives NaN. */
  function scale([low, high], [from, to], {log = false, count = 6} = {}) {
    const bend = log ? (value) => (value > 0 ? Math.log10(value) : NaN) : (value) => value ?? NaN;
    const slope = (to - from) / (bend(high) - bend(low) || 1);
    const at = (value) => from + (bend(value) - bend(low)) * slope;
    at.invert = (pixel) => low + (pixel - from) / slope; // only linear scales are asked
    at.ticks = (log ? logTicks : linearTicks)(low, high, count).map(([value, label]) => [at(value), label]);
    return at;
  }

  /** From the smallest to the largest of positive numbers, and a little more. */
  function logExtent(values) {
    const positive = values.filter((value) => value > 0);
    return [Math.min(...positive) / 1.4, Math.max(...positive) * 1.4];
  }

  // --- Plots -----------------------------------------------------------------------------------------------

  /** Make a plot: title and notes above an SVG with axes, a layer that stays and a layer that moves with the state.
      `spec` has height(width), margin(width), x(from, to), y(from, to), and if need be the others used here. */
  function createPlot(parent, spec) {
    const [title, notes] = ["title", "notes"].map((part) => make("div", {class: `figure-${part}`}));
    const [still, moving] = [make("svg:g"), make("svg:g")];
    const svg = make("svg:svg", {"aria-hidden": "true"}, still, moving); // the readout says it in words
    notes.append(spec.notes ?? "");
    parent.append(make("div", {class: "figure-plot"}, title, notes, svg));
    const plot = {};
    plot.draw = () => {
      const width = svg.getBoundingClientRect().width;
      const [height, [top, right, bottom, left]] = [spec.height(width), spec.margin(width)];
      Object.assign(plot, {width, height, top, left, right: width - right, bottom: height - bottom});
      svg.setAttribute("height", height);
      plot.x = spec.x(plot.left, plot.right);
      plot.y = spec.y(plot.bottom, plot.top);
      still.replaceChildren(...axes(plot, spec), ...(spec.still?.(plot) ?? []));
      plot.move();
    };
    plot.move = () => {
      title.replaceChildren(...(spec.title?.() ?? []));
      moving.replaceChildren(...(spec.moving?.(plot) ?? []));
    };
    if (spec.pick) {
      const read = (event) => {
        const box = svg.getBoundingClientRect();
        spec.pick(plot.x.invert(event.clientX - box.left), plot.y.invert(event.clientY - box.top));
      };
      svg.classList.add("figure-scrub");
      for (const name of ["pointerdown", "pointermove"]) svg.addEventListener(name, read);
    }
    return plot;
  }

  function axes({left, right, top, bottom, height, x, y}, {xLabel = "", frame = true}) {
    const grid = y.ticks.map(([pixel]) => line(left, pixel, right, pixel, "figure-grid"));
    return [
      ...(frame ? [...grid, shape(`M${left},${top}V${bottom}H${right}`, "none", "figure-axis")] : []),
      ...y.ticks.map(([pixel, label]) => text(left - 6, pixel + 4, label, "end")),
      ...x.ticks.map(([pixel]) => line(pixel, bottom, pixel, bottom + 4, "figure-axis")),
      ...x.ticks.map(([pixel, label]) => text(pixel, bottom + 17, label)),
      text((left + right) / 2, height - 4, xLabel),
    ];
  }

  const line = (x1, y1, x2, y2, name) => make("svg:line", {x1, y1, x2, y2, class: name});
  const text = (x, y, words, anchor = "middle", name = "figure-text") =>
    make("svg:text", {x, y, "text-anchor": anchor, class: name}, words);
  const shape = (d, colour, name) => make("svg:path", {d, class: name, style: `--line: ${colour}`});
  const dot = (x, y, colour, r = 4) =>
    shape(Number.isFinite(y) ? `M${x - r},${y}a${r},${r} 0 1 1 0,.01z` : "", colour, "figure-dot");

  /** A line through points in pixels, broken where there is no value. */
  function path(points, colour, name = "") {
    const there = ([, y]) => Number.isFinite(y);
    const parts = points.map((point, index) => {
      const [x, y] = point.map((pixel) => pixel.toFixed(1));
      return there(point) ? `${index > 0 && there(points[index - 1]) ? "L" : "M"}${x},${y}` : "";
    });
    return shape(parts.join(""), colour, `figure-line ${name}`);
  }

  /** The colour of a family; the weaker, the nearer to that of the page. */
  const colourOf = (family, strength = 1) =>
    `color-mix(in srgb, var(--figure-${family}) ${100 * strength}%, var(--figure-paper))`;

  // --- Controls --------------------------------------------------------------------------------------------

  /** Make the places for sliders, buttons, and what is read off. */
  function createPanel(root) {
    const sliders = make("div", {class: "figure-sliders"});
    const buttons = make("div", {class: "figure-buttons"});
    const readout = make("p", {class: "figure-readout", "aria-live": "polite"});
    root.append(sliders, make("div", {class: "figure-foot"}, buttons, readout));
    return {sliders, buttons, readout};
  }

  /** Make a slider over the indices of `words`, a list. Returns the function that sets it. */
  function createSlider(parent, label, words, pick) {
    const input = make("input", {type: "range", min: 0, max: words.length - 1});
    const longest = Math.max(...words.map(({length}) => length)); // there is room for it, so that nothing ever moves
    const style = `min-width: ${longest + 0.5}ch`;
    const value = make("span", {class: "figure-slider-value", style, "aria-hidden": "true"}); // the slider says it
    parent.append(make("label", {class: "figure-slider"}, make("span", {}, label), input, value));
    input.addEventListener("input", () => pick(input.valueAsNumber));
    return (index) => {
      input.value = index;
      input.setAttribute("aria-valuetext", words[index]);
      value.textContent = words[index];
    };
  }

  function createButton(parent, words, press) {
    const button = make("button", {type: "button", class: "figure-button"}, words);
    button.addEventListener("click", press);
    parent.append(button);
    return button;
  }

  /** Make a button that walks through 0, 1, ..., `last`, slowly if readers want little motion. Returns its brake. */
  function createPlayer({buttons, readout}, last, current, pick) {
    let timer = null;
    const stop = () => {
      timer = clearInterval(timer);
      button.textContent = "▶ Play";
      readout.setAttribute("aria-live", "polite");
    };
    const button = createButton(buttons, "▶ Play", () => {
      if (timer) return stop();
      button.textContent = "❚❚ Pause";
      readout.setAttribute("aria-live", "off"); // nobody can listen that fast
      if (current() === last) pick(0);
      const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 800 : 120;
      timer = setInterval(() => (current() < last ? pick(current() + 1) : stop()), pause);
    });
    return stop;
  }

  const swatch = (colour) => make("i", {class: "figure-swatch", style: `--line: ${colour}`});
  const reading = (colour, name, value) =>
    make("span", {class: "figure-value"}, swatch(colour), `${name} `, make("b", {}, value));

  // --- Heatmaps, and two cuts through them -----------------------------------------------------------------

  function heatmaps(data, root, redraw) {
    const {steps, layers, stages, quantity} = data;
    const networks = data.networks.map((network) => ({...network, colour: colourOf(network.family)}));
    const last = steps.length - 1;
    const state = {step: 0, layer: 1}; // indices
    const show = (change) => {
      Object.assign(state, change);
      redraw();
    };
    const hold = (change) => {
      stop(); // who takes hold of it has the lead
      show(change);
    };
    const layerAt = (number) => clamp(Math.round(number) - 1, 0, layers.length - 1);
    const valueNow = ({values}) => values[state.step][state.layer];

    const [low, high] = data.scale;
    const share = (value) => clamp(Math.log(value / low) / Math.log(high / low || 2), 0, 1);
    const {colours} = data;
    const colourAt = (value) => (value > 0 ? colours[Math.round(share(value) * (colours.length - 1))] : "#bbbbbb");

    /** The scale from the index of a recorded step to the middle of its column. Step 0 has a strip of its own. The
        column of any other reaches back to the recorded step before it, however unevenly they lie. */
    function columns(from, to) {
      const [strip, gap] = steps[0] === 0 ? [12, 4] : [0, 0];
      const along = scale([0, steps[last] || 1], [from + strip + gap, to]);
      const at = (index) => (at.edges(index)[0] + at.edges(index)[1]) / 2;
      at.edges = (index) =>
        index === 0 && strip ? [from, from + strip] : [along(steps[index - 1] ?? 0), along(steps[index])];
      at.invert = (pixel) => (steps.findIndex((_, index) => pixel <= at.edges(index)[1]) + steps.length) % steps.length;
      at.ticks = strip ? [[at(0), "0"], ...(last ? along.ticks.slice(1) : [])] : along.ticks;
      return at;
    }

    /** A map as a picture, one pixel high per layer; SVG stretches it. */
    function picture({values}, {x, left, right, top, bottom}) {
      const canvas = make("canvas", {width: Math.round(2 * (right - left)), height: layers.length});
      const pen = canvas.getContext("2d");
      values.forEach((row, step) => {
        const [from, to] = x.edges(step).map((pixel) => Math.round(2 * (pixel - left)));
        row.forEach((value, layer) => {
          pen.fillStyle = colourAt(value);
          pen.fillRect(from, layer, to - from, 1);
        });
      });
      return make("svg:image", {href: canvas.toDataURL(), x: left, y: top, width: right - left, height: bottom - top,
                                preserveAspectRatio: "none", class: "figure-pixels"});
    }

    const maps = make("div", {class: "figure-columns"});
    root.append(maps);
    const mapPlots = networks.map((network) => createPlot(maps, {
      title: () => [swatch(network.colour), network.name],
      height: (width) => clamp(0.8 * width, 220, 320),
      margin: () => [9, 10, 38, 54],
      xLabel: "training step", frame: false,
      x: columns,
      y: (bottom, top) => {
        const at = scale([0.5, layers.length + 0.5], [top, bottom]); // the input is at the top
        const names = stages.map(([first, end], index) => [at((first + end) / 2), `stage ${index + 1}`]);
        at.ticks = [[top + 4, "input"], ...names, [bottom - 5, "output"]];
        return at;
      },
      still: (plot) => [
        picture(network, plot),
        ...stages.map(([first]) => {
          const y = plot.y(first - 0.5);
          return line(plot.left, y, plot.right, y, "figure-boundary");
        }),
      ],
      moving: ({x, y, left, right, top, bottom}) => {
        const [column, row] = [x(state.step), y(state.layer + 1)];
        return [
          shape(`M${column},${top}V${bottom}M${left},${row}H${right}`, "none", "figure-cross"),
          make("svg:circle", {cx: column, cy: row, r: 5, class: "figure-ring-back"}),
          make("svg:circle", {cx: column, cy: row, r: 5, class: "figure-ring"}),
          shape(`M${column},${top}l-5,-8h10zM${right},${row}l8,-5v10z`, "currentColor", "figure-marker"),
        ];
      },
      pick: (step, number) => hold({step, layer: layerAt(number)}),
    }));

    const bar = createPlot(root, {
      notes: quantity,
      height: () => 44, margin: () => [9, 10, 22, 54], frame: false,
      x: (from, to) => scale([low, high], [from, to], {log: true}),
      y: () => ({ticks: []}),
      still: ({left, right, top, bottom}) => colours.map((fill, index) => {
        const width = (right - left) / colours.length;
        return make("svg:rect", {x: left + index * width, y: top, width: width + 1, height: bottom - top, fill});
      }),
      moving: ({left, right, top}) => networks.map((network) => {
        const x = left + (share(valueNow(network)) || 0) * (right - left);
        return shape(`M${x},${top}l-5,-8h10z`, network.colour, "figure-marker");
      }),
    });

    const panel = createPanel(root);
    const {sliders} = panel;
    const setStep = createSlider(sliders, "step", steps.map(grouped), (step) => hold({step}));
    const setLayer = createSlider(sliders, "layer", layers, (layer) => hold({layer}));
    const stop = createPlayer(panel, last, () => state.step, (step) => show({step}));

    const cuts = make("div", {class: "figure-columns"});
    root.append(cuts);
    const everything = logExtent(networks.flatMap(({values}) => values.flat()));
    /** A cut: a line plot of both networks through the chosen point, here(). across(network) gives the values. */
    const createCut = ({title, xLabel, domain, numbers, across, here, pick, backdrop = () => []}) => createPlot(cuts, {
      title, notes: quantity, xLabel, pick,
      height: () => 210, margin: () => [6, 10, 38, 54],
      x: (from, to) => scale(domain, [from, to]),
      y: (from, to) => scale(everything, [from, to], {log: true}),
      moving: (plot) => {
        const at = plot.x(here());
        const points = (values) => values.map((value, index) => [plot.x(numbers[index]), plot.y(value)]);
        return [
          line(at, plot.top, at, plot.bottom, "figure-cursor"),
          ...backdrop(plot, points),
          ...networks.map((network) => path(points(across(network)), network.colour)),
          ...networks.map((network) => dot(at, plot.y(valueNow(network)), network.colour)),
        ];
      },
    });
    const profile = createCut({
      title: () => [`Step ${grouped(steps[state.step])}, all layers`, make("small", {}, `dashed: step ${steps[0]}`)],
      xLabel: "layer, from input to output",
      domain: [0.5, layers.length + 0.5],
      numbers: range(1, layers.length),
      across: ({values}) => values[state.step],
      here: () => state.layer + 1,
      pick: (number) => hold({layer: layerAt(number)}),
      backdrop: ({x, top, bottom}, points) => [
        ...stages.map(([first]) => line(x(first - 0.5), top, x(first - 0.5), bottom, "figure-stage")),
        ...networks.map(({values, colour}) => path(points(values[0]), colour, "figure-faint")),
      ],
    });
    const course = createCut({
      title: () => [`${layers[state.layer]}, all steps`],
      xLabel: "training step",
      domain: [0, steps[last] || 1],
      numbers: steps,
      across: ({values}) => values.map((row) => row[state.layer]),
      here: () => steps[state.step],
      pick: (step) => hold({step: nearest(steps, step)}),
    });

    function update() {
      setStep(state.step);
      setLayer(state.layer);
      const where = `Step ${grouped(steps[state.step])}, ${layers[state.layer]}: ${data.places[state.layer]}`;
      const values = networks.map((network) => reading(network.colour, network.name, digits(valueNow(network))));
      panel.readout.replaceChildren(make("span", {class: "figure-where"}, where), ...values);
    }
    return {plots: [...mapPlots, bar, profile, course], update};
  }

  // --- Training curves -------------------------------------------------------------------------------------

  function curves(data, root, redraw) {
    const runs = data.runs.map((run) => {
      const family = data.runs.filter((other) => other.family === run.family);
      const rank = (family.indexOf(run) + 1) / family.length; // deeper is darker
      return {...run, shown: true, colour: colourOf(run.family, 0.3 + 0.7 * rank)};
    });
    const shown = () => runs.filter((run) => run.shown);
    const {steps} = runs.reduce((longest, run) => (run.steps.at(-1) > longest.steps.at(-1) ? run : longest));
    const state = {index: Math.round(steps.length / 2)};
    const pick = (index) => {
      state.index = index;
      redraw();
    };
    const errorNow = (run) => run.train[nearest(run.steps, steps[state.index])];
    const worst = Math.max(...runs.flatMap((run) => [...run.train, ...run.validation[1], run.test]));
    const wide = (width) => width >= 480;

    /** The networks' names at the ends of their lines, pushed up where they would overlap. */
    function names({y, right, bottom}) {
      let free = bottom;
      return shown().sort((one, other) => one.test - other.test).map((run) => {
        const place = Math.min(y(run.test) + 4, free);
        free = place - 15;
        return text(right + 12, place, run.name, "start", `figure-text figure-${run.family}`);
      });
    }

    const plot = createPlot(root, {
      notes: "error (%); dashed: training batches, solid: validation images, diamond: test images",
      height: (width) => (wide(width) ? 340 : 270),
      margin: (width) => [8, wide(width) ? 84 : 12, 38, 34],
      xLabel: "training step",
      x: (from, to) => scale([0, steps.at(-1)], [from, to], {count: to - from < 400 ? 4 : 6}),
      y: (from, to) => scale([0, worst * 1.03], [from, to]),
      still: (plot) => [
        ...shown().flatMap((run) => {
          const points = (steps, errors) => steps.map((step, index) => [plot.x(step), plot.y(errors[index])]);
          const validation = points(...run.validation);
          const diamond = `M${plot.x(run.steps.at(-1))},${plot.y(run.test) - 6}l6,6l-6,6l-6,-6z`;
          return [
            path(points(run.steps, run.train), run.colour, "figure-thin"),
            path(validation, run.colour),
            ...(validation.length > 40 ? [] : validation).map(([x, y]) => dot(x, y, run.colour, 3)),
            shape(diamond, run.colour, "figure-dot"),
          ];
        }),
        ...(wide(plot.width) ? names(plot) : []),
      ],
      moving: ({x, y, top, bottom}) => {
        const at = x(steps[state.index]);
        const dots = shown().map((run) => dot(at, y(errorNow(run)), run.colour));
        return [line(at, top, at, bottom, "figure-cursor"), ...dots];
      },
      pick: (step) => pick(nearest(steps, step)),
    });

    const {sliders, readout} = createPanel(root);
    const setStep = createSlider(sliders, "step", steps.map(grouped), pick);
    const legend = make("div", {class: "figure-legend", role: "group", "aria-label": "networks shown"});
    root.append(legend);
    const buttons = runs.map((run) => createButton(legend, "", () => {
      run.shown = !run.shown;
      redraw(true);
    }));

    function update() {
      const epoch = (steps[state.index] / data.steps_per_epoch).toFixed(2);
      const values = shown().map((run) => `${run.name} ${digits(errorNow(run))}`).join(", "); // for those who listen
      setStep(state.index);
      readout.replaceChildren(`Training error (%) at step ${grouped(steps[state.index])}, epoch ${epoch}:`,
                              make("span", {class: "visually-hidden"}, values));
      runs.forEach((run, index) => {
        buttons[index].setAttribute("aria-pressed", run.shown);
        buttons[index].setAttribute("aria-label", `show ${run.name}`);
        buttons[index].replaceChildren(reading(run.colour, run.name, digits(errorNow(run))));
      });
    }
    return {plots: [plot], update};
  }

  // --- A walk through depths -------------------------------------------------------------------------------

  function depths({walk, label}, root, redraw) {
    const families = [["plain", "plain", colourOf("plain")], ["resnet", "ResNet", colourOf("resnet")]];
    const state = {index: walk.length - 1};
    const pick = (index) => {
      state.index = clamp(index, 0, walk.length - 1);
      redraw();
    };
    const everything = logExtent(walk.flatMap(({plain, resnet}) => [...plain, ...resnet]));
    const plot = createPlot(root, {
      notes: label,
      height: (width) => (width >= 480 ? 330 : 270),
      margin: () => [8, 12, 38, 46],
      xLabel: "layer, from input to output",
      x: (from, to) => scale([1, walk.at(-1).depth], [from, to]),
      y: (from, to) => scale(everything, [from, to], {log: true}),
      moving: ({x, y}) => families.flatMap(([family, , colour]) => {
        const points = (net) => net[family].map((value, index) => [x(index + 1), y(value)]);
        const now = points(walk[state.index]);
        return [
          ...walk.slice(0, state.index).map((net) => path(points(net), colour, "figure-past")),
          path(now, colour),
          ...[now[1], now.at(-2)].map(([x, y]) => dot(x, y, colour)),
        ];
      }),
    });
    const {sliders, buttons, readout} = createPanel(root);
    const setDepth = createSlider(sliders, "depth", walk.map(({depth}) => `${depth} layers`), pick);
    createButton(buttons, "− Shallower", () => pick(state.index - 1));
    createButton(buttons, "+ Deeper", () => pick(state.index + 1));

    function update() {
      const net = walk[state.index];
      setDepth(state.index);
      const where = `${net.depth} layers: the second layer's value over the last but one's`;
      readout.replaceChildren(make("span", {class: "figure-where"}, where), ...families.map(([family, name, colour]) =>
        reading(colour, `${name}-${net.depth}`, digits(net[family][1] / net[family].at(-2)))));
    }
    return {plots: [plot], update};
  }

  // --- Into the page ---------------------------------------------------------------------------------------

  function mount(script) {
    const figure = document.getElementById(script.dataset.figure);
    const picture = figure?.querySelector("img");
    if (!picture) return;
    const root = make("div", {class: "figure-drawing", role: "group", "aria-label": picture.alt});
    let drawing, width, asked, whole = true;

    /** Do something; if that fails, put the still picture back for good. */
    function attempt(action) {
      try {
        action();
      } catch (error) {
        console.warn(`${figure.id} stays a still picture:`, error);
        observer.disconnect();
        figure.classList.remove("figure-live");
        root.remove();
      }
    }
    /** Draw before the next frame, once, however often it is asked for; the layers that stay too, if asked to. */
    function redraw(all = false) {
      whole ||= all;
      asked ??= requestAnimationFrame(() => attempt(draw)); // after a failure never again
    }
    function draw() {
      drawing.update();
      for (const plot of drawing.plots) whole ? plot.draw() : plot.move();
      asked = whole = undefined;
    }
    const observer = new ResizeObserver(() => {
      if (root.clientWidth && root.clientWidth !== width) redraw(true); // it has none on its way to a printer
      width = root.clientWidth || width;
    });
    attempt(() => {
      figure.prepend(root);
      figure.classList.add("figure-live");
      const data = JSON.parse(script.textContent);
      if (data.conditions) root.append(make("div", {class: "figure-notes"}, data.conditions));
      drawing = {heatmaps, curves, depths}[script.dataset.kind](data, root, redraw);
      draw();
      width = root.clientWidth;
      observer.observe(root);
    });
  }

  document.querySelectorAll("script.figure-data").forEach(mount);
})();
