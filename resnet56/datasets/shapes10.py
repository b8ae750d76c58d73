"""Shapes10: a data set of ten classes, drawn 32x32 colour images, which stands in for CIFAR-10 without a network.

Every image looks like a piece of printed cloth: light copies of one figure repeat on a darker ground. Spacing, place,
tilt, stretch and size of the figures are random; figure and ground each have a random colour and texture. Two dots or
strokes lie behind the figures, two on top, and every pixel gets some noise. Only the figure's outline tells the class:
all ten have the same area, all else has the same distribution for every class, and so have mirrored images.

The pixels are the same bytes on every machine. Randomness is a counter-based hash (splitmix64) and all arithmetic is
elementwise integer or IEEE float32 (+ - * / sqrt floor min max), whose results the standards fix to the last bit;
there are no sines, no powers and no sums over arrays.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations

import numpy as np

SIDE = 32  # pixels along an image edge
CHUNK = 100  # images drawn at a time
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Y, X = np.divmod(np.arange(SIDE * SIDE, dtype=np.float32)[None], SIDE) - np.float32(15.5)  # from mid-image, y down


def _disc(u, v, radius):
    return np.sqrt(u * u + v * v) - radius


def _star(u, v):
    """Five-pointed star: the points outside at most one side of a pentagon."""
    normals = ((0, 1), (0.9510565, 0.309017), (-0.9510565, 0.309017), (0.5877853, -0.809017), (-0.5877853, -0.809017))
    sides = [u * x + v * y - 0.517 for x, y in normals]
    return np.maximum.reduce([np.minimum(*pair) for pair in combinations(sides, 2)])


# Approximate signed distances, negative inside, to figures of area pi; u is the distance from their upright axis.
FIGURES = {
    "disc": lambda u, v: _disc(u, v, 1.0),
    "ring": lambda u, v: np.abs(_disc(u, v, 1.0)) - 0.25,
    "crescent": lambda u, v: np.maximum(_disc(u, v + 0.485, 1.371), -_disc(u, v + 1.223, 1.054)),
    "heart": lambda u, v: np.minimum((u + np.abs(v - 0.293) - 0.938) * 0.7071068, _disc(u - 0.469, v + 0.176, 0.663)),
    "square": lambda u, v: np.maximum(u, np.abs(v)) - 0.886,
    "frame": lambda u, v: np.abs(np.maximum(u, np.abs(v)) - 0.89) - 0.2206,
    "triangle": lambda u, v: np.maximum(u * 0.8660254 + v * 0.5, -v) - 0.7776,
    "hourglass": lambda u, v: np.maximum(np.abs(v) - 1.28, (u - np.abs(v) * 0.8 - 0.1) * 0.7808688),
    "cross": lambda u, v: np.maximum(np.maximum(u, np.abs(v)) - 1.145, np.minimum(u, np.abs(v)) - 0.42),
    "star": _star,
}
CLASSES = tuple(FIGURES)


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of splitmix64: a bijection of uint64 that scrambles."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _hash(seed: int, index: np.ndarray, first: int, count: int) -> np.ndarray:
    """Random uint64 (len(index), count), each a function of seed, image and slot: first, first + 1, ..."""
    counter = index.astype(np.uint64)[:, None] * np.uint64(1024) + np.arange(first, first + count, dtype=np.uint64)
    return _mix(_mix(np.array([[seed]], dtype=np.uint64)) + counter * GOLDEN)


def _dice(seed: int, index: np.ndarray):
    """What deals out uniform random columns, float32 (n, 1) in [low, high), one value per image and call."""
    unit = (_hash(seed, index, 0, 128) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    columns = iter(unit.T[:, :, None])
    return lambda low, high: next(columns) * (high - low) + low


def _colour(dice, low: float, high: float) -> np.ndarray:
    return np.stack([dice(low, high) for _ in range(3)], axis=1)  # (n, 3, 1)


def _turn(x, y, t):
    """Coordinates in axes that are turned by 2 arctan(t): 0.25 gives 28 degrees, 1 gives 90."""
    c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    return x * c + y * s, y * c - x * s


def _wave(t: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 between -1 and 1."""
    return np.abs(t - np.floor(t) - 0.5) * 4 - 1


def _texture(dice, colour: np.ndarray) -> np.ndarray:
    """A texture (n, 3, 1024) of two tones around colour (n, 3, 1): plain (half of all), or a gradient, or a pattern."""
    x, y = _turn(X, Y, dice(-1, 1))
    kind = np.floor(np.maximum(dice(-3, 5), 0)).astype(int)
    pitch = np.where(kind == 1, dice(40, 80), dice(4, 10))  # pixels per period
    p, q = _wave(x / pitch + dice(0, 1)), _wave(y / pitch + dice(0, 1))
    sharp = np.where(kind == 1, np.float32(1), dice(1, 4))
    plain, gradient, stripes, checks, dots = np.zeros_like(p), p, p, p * q, p + (q - 0.4)
    wave = np.clip(np.choose(kind, (plain, gradient, stripes, checks, dots)) * sharp, -1, 1)
    return colour + _colour(dice, -0.1, 0.1) * wave[:, None]


def _paint(canvas: np.ndarray, colour: np.ndarray, distance: np.ndarray) -> None:
    """Paint colour where the signed distance (n, 1024), in pixels, is negative."""
    canvas += (colour - canvas) * np.clip(0.5 - distance, 0, 1)[:, None]


def _paint_strokes(canvas: np.ndarray, dice, reach: float, length: float) -> None:
    """Paint two round-ended strokes, which are dots when short."""
    for _ in range(2):
        colour, turn = _colour(dice, 0.05, 0.75), dice(-1, 1)
        along, across = _turn(X - dice(-reach, reach), Y - dice(-reach, reach), turn)
        half = np.maximum(dice(-length, length), 0)
        _paint(canvas, colour, _disc(np.maximum(np.abs(along) - half, 0), across, dice(1, 2)))


def _draw_chunk(seed: int, index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images number index (n,) of the seed, of classes labels (n,): uint8 (n, 3, 32, 32)."""
    dice = _dice(seed, index)
    ground = _colour(dice, 0.05, 0.45)
    figure = ground + (_colour(dice, 0.5, 1.0) - ground) * dice(0.4, 1.0)[:, None]
    canvas = _texture(dice, ground)
    _paint_strokes(canvas, dice, reach=16, length=5)

    # From pixels to figure coordinates: turn, fold the plane into square cells, turn in the cell, stretch.
    x, y = _turn(X, Y, dice(-0.25, 0.25))
    cell = dice(13, 18)
    p, q = x / cell + dice(0, 1), y / cell + dice(0, 1)
    u, v = _turn(p - np.floor(p) - 0.5, q - np.floor(q) - 0.5, dice(-0.1, 0.1))  # -0.5 .. 0.5 across a cell
    size, stretch = dice(0.22, 0.29), dice(0.85, 1.18)  # size: of the disc's radius, in cells
    u, v = np.abs(u / size * stretch), v / size / stretch
    distance = np.empty_like(u)
    for label, shape in enumerate(FIGURES.values()):
        rows = labels == label
        distance[rows] = shape(u[rows], v[rows])
    _paint(canvas, _texture(dice, figure), distance * size * cell)

    _paint_strokes(canvas, dice, reach=14, length=8)
    noise = _hash(seed, index, 128, 3 * SIDE * SIDE // 8).astype("<u8").view(np.uint8).reshape(canvas.shape)
    pixels = canvas * 255 + (noise.astype(np.float32) / 127.5 - 1) * 8 + 0.5  # noise of up to 8 grey levels
    return np.floor(np.clip(pixels, 0, 255)).astype(np.uint8).reshape(-1, 3, SIDE, SIDE)


def draw(count: int, seed: int, workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw images 0 .. count-1 of a seed: pixels, uint8 (count, 3, 32, 32), and labels, int64 (count,).

    Every ten images in a row hold each class once, in random order. Image i depends on (seed, i) alone, so a smaller
    draw is a prefix of a larger one, whatever the number of worker threads.
    """
    order = _hash(seed, np.arange(0, count, 10), 1000, 10).argsort(axis=1, kind="stable")
    labels = order.reshape(-1)[:count].astype(np.int64)
    chunks = [np.split(array, range(CHUNK, count, CHUNK)) for array in (np.arange(count), labels)]
    with ThreadPoolExecutor(workers) as pool:
        pixels = list(pool.map(partial(_draw_chunk, seed), *chunks))
    return np.concatenate(pixels), labels
