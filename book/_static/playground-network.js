/* The networks of the playground, and how they are trained: all of it, without a library. The page's drawing is in
   playground.js; there the text of this function also becomes a worker, so that training does not hold up the page.

   A network of `depth` layers takes a point (x, y) and gives two numbers, one for each class. All layers but the last
   have 16 units, batch normalisation and ReLU. Between the first and the last, two layers form a block:
   y = ReLU(F(x) + strength * x). A plain network has strength 0. Numbers lie row by row in flat arrays. */
"use strict";
function playgroundNetwork() {
  const WIDTH = 16, POINTS = 512, BATCH = 128, MOMENTUM = 0.9, EPSILON = 1e-5;

  // --- Chance: the same seed gives the same numbers everywhere -----------------------------------------------

  /** Return a function that draws numbers evenly from 0 to 1 (the generator mulberry32). */
  function createRandom(seed) {
    let state = seed | 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let bits = Math.imul(state ^ (state >>> 15), 1 | state);
      bits ^= bits + Math.imul(bits ^ (bits >>> 7), 61 | bits);
      return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Draw from the normal distribution. */
  const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

  // --- Data: where points of class 0 and 1 lie ---------------------------------------------------------------

  const polar = (radius, angle) => [radius * Math.cos(angle), radius * Math.sin(angle)];
  const places = {
    spirals(label, random) { // one and a half turns, class 1 opposite to class 0
      const way = Math.sqrt(random());
      return polar(0.1 + 0.9 * way, 3 * Math.PI * way + Math.PI * label);
    },
    rings(label, random) { // four of them, by turns of class 0 and 1
      const ring = label + 2 * Math.floor(2 * random());
      return polar(0.16 + 0.24 * ring + 0.1 * random(), 2 * Math.PI * random());
    },
    disc(label, random) { // class 0 is a disc, class 1 the ring around it
      const area = label ? 0.5 + 0.5 * random() : 0.4 * random();
      return polar(Math.sqrt(area), 2 * Math.PI * random());
    },
  };

  /** Draw the points, by turns of class 0 and 1. */
  function createData(name, random) {
    const labels = Array.from({length: POINTS}, (_, index) => index % 2);
    return {points: Float64Array.from(labels.flatMap((label) => places[name](label, random))), labels};
  }

  // --- Network -----------------------------------------------------------------------------------------------

  const filled = (length, value = 0) => new Float64Array(length).fill(value);
  const parameter = (value) => ({value, gradient: filled(value.length), velocity: filled(value.length)});

  /** Make a layer with He's random weights: normal, with variance 2 / inputs. Dirac: those of the identity. */
  function createLayer(inputs, outputs, init, random) {
    const weight = filled(inputs * outputs).map(() => normal(random) * Math.sqrt(2 / inputs));
    const identity = weight.map((_, index) => Number(index % (inputs + 1) === 0));
    return {
      inputs, outputs,
      weight: parameter(init === "dirac" && inputs === outputs ? identity : weight), // a row for each output
      gain: parameter(filled(outputs === WIDTH ? WIDTH : 0, 1)), // the last layer is not normalised
      offset: parameter(filled(outputs)),
      scale: filled(outputs), // 1 / standard deviation, of normalisation
    };
  }

  function createNetwork({depth, strength, init}, random) {
    const widths = [2, ...Array(depth - 1).fill(WIDTH), 2];
    const layers = widths.slice(1).map((outputs, index) => createLayer(widths[index], outputs, init, random));
    return {layers, strength};
  }

  const opensBlock = (layers, index) => index % 2 === 1 && index < layers.length - 1;
  const closesBlock = (layers, index) => index % 2 === 0 && index > 0;
  const isLast = (layers, index) => index === layers.length - 1;

  /** Return an array with room for `length` numbers: the one there is, or a new one. */
  const room = (array, length) => (array?.length >= length ? array : new Float64Array(length));

  /** Send rows through the network. Means and variances are those of the first `reference` rows. */
  function forward({layers, strength}, input, rows, reference = rows) {
    layers.forEach((layer, index) => {
      layer.input = index ? layers[index - 1].output : input;
      multiply(layer, rows);
      if (isLast(layers, index)) return shift(layer, rows);
      normalise(layer, rows, reference);
      if (closesBlock(layers, index) && strength) add(layer.output, layers[index - 1].input, strength, rows * WIDTH);
      for (let n = 0; n < rows * WIDTH; n++) if (layer.output[n] < 0) layer.output[n] = 0;
    });
    return layers.at(-1).output;
  }

  function add(target, source, factor, length) {
    for (let n = 0; n < length; n++) target[n] += factor * source[n];
  }

  /** output = weight times input, for each row. */
  function multiply(layer, rows) {
    const {inputs, outputs, input, weight: {value}} = layer;
    const output = (layer.output = room(layer.output, rows * outputs));
    for (let row = 0; row < rows; row++)
      for (let unit = 0; unit < outputs; unit++) {
        let sum = 0;
        for (let n = 0; n < inputs; n++) sum += value[unit * inputs + n] * input[row * inputs + n];
        output[row * outputs + unit] = sum;
      }
  }

  function shift({output, outputs, offset}, rows) {
    for (let n = 0; n < rows * outputs; n++) output[n] += offset.value[n % outputs];
  }

  /** Batch normalisation: bring each unit to mean 0 and variance 1 over the rows, then scale and shift it. */
  function normalise(layer, rows, reference) {
    const {output, outputs, gain, offset, scale} = layer;
    const normalised = (layer.normalised = room(layer.normalised, rows * outputs));
    for (let unit = 0; unit < outputs; unit++) {
      let mean = 0, variance = 0;
      for (let n = unit; n < reference * outputs; n += outputs) mean += output[n] / reference;
      for (let n = unit; n < reference * outputs; n += outputs) variance += (output[n] - mean) ** 2 / reference;
      scale[unit] = 1 / Math.sqrt(variance + EPSILON);
      for (let n = unit; n < rows * outputs; n += outputs) {
        normalised[n] = (output[n] - mean) * scale[unit];
        output[n] = gain.value[unit] * normalised[n] + offset.value[unit];
      }
    }
  }

  /** Return the mean cross-entropy of the outputs, and its gradient with respect to them. */
  function crossEntropy(output, labels) {
    const gradient = new Float64Array(2 * labels.length);
    let loss = 0;
    labels.forEach((label, row) => {
      const margin = output[2 * row + label] - output[2 * row + 1 - label];
      const wrong = 1 / (1 + Math.exp(margin)); // the probability given to the other class
      loss += (Math.max(-margin, 0) + Math.log1p(Math.exp(-Math.abs(margin)))) / labels.length;
      gradient[2 * row + label] = -wrong / labels.length;
      gradient[2 * row + 1 - label] = wrong / labels.length;
    });
    return {loss, gradient};
  }

  /** Send the gradient back, from the last layer to the first, by the chain rule. */
  function backward({layers, strength}, gradient, rows) {
    for (let index = layers.length - 1; index >= 0; index--) {
      const layer = layers[index];
      if (!isLast(layers, index)) {
        for (let n = 0; n < rows * WIDTH; n++) if (layer.output[n] <= 0) gradient[n] = 0; // ReLU
        if (closesBlock(layers, index) && strength) layer.bypass = gradient.slice(0, rows * WIDTH); // the shortcut
        normaliseBackward(layer, gradient, rows);
      } else {
        layer.offset.gradient.fill(0);
        for (let n = 0; n < gradient.length; n++) layer.offset.gradient[n % layer.outputs] += gradient[n];
      }
      gradient = multiplyBackward(layer, gradient, rows);
      if (opensBlock(layers, index) && strength) add(gradient, layers[index + 1].bypass, strength, rows * WIDTH);
    }
  }

  function normaliseBackward({outputs, normalised, gain, offset, scale}, gradient, rows) {
    for (let unit = 0; unit < outputs; unit++) {
      let sum = 0, product = 0;
      for (let n = unit; n < rows * outputs; n += outputs) {
        sum += gradient[n];
        product += gradient[n] * normalised[n];
      }
      offset.gradient[unit] = sum;
      gain.gradient[unit] = product;
      const factor = gain.value[unit] * scale[unit];
      for (let n = unit; n < rows * outputs; n += outputs)
        gradient[n] = factor * (gradient[n] - (sum + normalised[n] * product) / rows);
    }
  }

  /** Note the gradient of the weights, and return that of the layer's input. */
  function multiplyBackward(layer, gradient, rows) {
    const {inputs, outputs, input, weight} = layer;
    const before = (layer.before = room(layer.before, rows * inputs)).fill(0);
    weight.gradient.fill(0);
    for (let row = 0; row < rows; row++)
      for (let unit = 0; unit < outputs; unit++) {
        const pull = gradient[row * outputs + unit];
        for (let n = 0; n < inputs; n++) {
          weight.gradient[unit * inputs + n] += pull * input[row * inputs + n];
          before[row * inputs + n] += pull * weight.value[unit * inputs + n];
        }
      }
    return before;
  }

  // --- Training ----------------------------------------------------------------------------------------------

  const parameters = (layer) => [layer.weight, layer.gain, layer.offset];
  const length = (...arrays) => Math.sqrt(arrays.flatMap((array) => [...array]).reduce((sum, v) => sum + v * v, 0));

  /** What may be done to the gradients before a step. */
  const remedies = {
    none() {},
    clip(layers) { // all of them together are at most 1 long
      const total = Math.hypot(...layers.map((layer) => length(...parameters(layer).map(({gradient}) => gradient))));
      if (total > 1) for (const layer of layers) stretch(layer, 1 / total);
    },
    layerwise(layers) { // those of each layer become a tenth as long as what they change, however long they were
      for (const layer of layers) {
        const [values, gradients] = ["value", "gradient"].map((part) => parameters(layer).map((found) => found[part]));
        stretch(layer, (0.1 * length(...values)) / (length(...gradients) + 1e-12));
      }
    },
  };
  function stretch(layer, factor) {
    for (const {gradient} of parameters(layer)) for (let n = 0; n < gradient.length; n++) gradient[n] *= factor;
  }

  /** Gradient descent with momentum. */
  function descend(layers, rate) {
    for (const {value, gradient, velocity} of layers.flatMap(parameters))
      for (let n = 0; n < value.length; n++) {
        velocity[n] = MOMENTUM * velocity[n] + gradient[n];
        value[n] -= rate * velocity[n];
      }
  }

  /** Make a network with its data. Settings: depth, strength, rate, init, remedy, data, seed. */
  function createExperiment(settings) {
    const random = createRandom(settings.seed);
    const {points, labels} = createData(settings.data, random);
    const network = createNetwork(settings, random);
    const {layers} = network;

    /** Train on a batch. Returns its loss, and the length of the gradient of each layer's weights. */
    function step() {
      const chosen = Array.from({length: BATCH}, () => Math.floor(POINTS * random()));
      const batch = Float64Array.from(chosen.flatMap((index) => [points[2 * index], points[2 * index + 1]]));
      const output = forward(network, batch, BATCH);
      const {loss, gradient} = crossEntropy(output, chosen.map((index) => labels[index]));
      backward(network, gradient, BATCH);
      const norms = layers.map(({weight}) => length(weight.gradient));
      remedies[settings.remedy](layers);
      descend(layers, settings.rate);
      return {loss, norms};
    }

    /** Return the share of all points that are put into the wrong class, and the probability of class 1 at places. */
    function look(places) {
      const rows = POINTS + places.length / 2;
      const output = forward(network, Float64Array.from([...points, ...places]), rows, POINTS);
      const chance = Float64Array.from({length: rows}, (_, n) => 1 / (1 + Math.exp(output[2 * n] - output[2 * n + 1])));
      const wrong = labels.filter((label, index) => label !== Number(chance[index] > 0.5)).length;
      return {error: wrong / POINTS, chance: chance.slice(POINTS)};
    }
    return {network, points, labels, step, look};
  }

  return {createExperiment, createRandom, createNetwork, forward, backward, crossEntropy, remedies, descend};
}
