"""How fast do photos of a telephone become batches, beside Keras' own reader and beside Pillow alone?

    python benchmarks/scanning.py [photos]     # 400 by default, about 1.6 GB in the folder for temporary files

Each photo has 12 megapixels and 3 to 5 MB. Four ways take turns, three times: `find_photos` and the batches of a
folder, the same once more (`find_photos` now remembers the files), `keras.utils.image_dataset_from_directory`, and
Pillow decoding with two threads.
"""
import io
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_CPU_ALLOCATOR_USE_BFC', '1')

import keras
import numpy as np
import tensorflow as tf
from measuring import RESULTS, conditions
from PIL import Image

from transfer_cvd.photos.preprocess import format_example
from transfer_cvd.photos.find import find_photos
from transfer_cvd.photos.images import read_photo

SIZE, BATCH, REPEATS, DIFFERENT = 160, 32, 3, 8


def phone_photo(seed: int, width: int = 4032, height: int = 3024) -> bytes:
    """A JPEG with large and small structure and the noise of a sensor, so that it is as large as a telephone's."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((6, 0.6), (40, 0.25), (300, 0.15)):
        small = rng.normal(128, 60, (cells * 3 // 4, cells, 3)).clip(0, 255).astype(np.uint8)
        layer = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        pixels += weight * np.asarray(layer, np.float32)
    noise = Image.fromarray(rng.normal(128, 40, (height // 2, width // 2)).clip(0, 255).astype(np.uint8))
    pixels += 0.3 * (np.asarray(noise.resize((width, height), Image.Resampling.BILINEAR), np.float32)[..., None] - 128)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=94)
    return buffer.getvalue()


def write_photos(folder: Path, n: int) -> list[Path]:
    """`n` files in two classes, of eight different pictures; a comment makes the content and hash of each its own."""
    pictures, paths = [phone_photo(seed) for seed in range(DIFFERENT)], []
    for i in range(n):
        path = folder / ('cat', 'dog')[i % 2] / f'{i:04}.jpg'
        path.parent.mkdir(exist_ok=True)
        data, comment = pictures[i // 2 % DIFFERENT], b'%08d' % i
        path.write_bytes(data[:2] + b'\xff\xfe' + (len(comment) + 2).to_bytes(2) + comment + data[2:])
        paths.append(path)
    return paths


def ours(folder: Path, memory: Path) -> int:
    """Find the photos of a folder and read them all in batches, as `load_data` does."""
    found = find_photos(folder, memory=memory)

    def load(path, label):
        image = tf.numpy_function(lambda path: read_photo(os.fsdecode(path), SIZE), [path], tf.uint8)
        return tf.ensure_shape(image, (None, None, 3)), label

    pairs = tf.data.Dataset.from_tensor_slices((found.paths, found.labels)).map(load, tf.data.AUTOTUNE)
    batches = pairs.map(partial(format_example, image_size=SIZE), tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
    return sum(len(labels) for _, labels in batches)


def by_keras(folder: Path) -> int:
    """Read all photos of a folder in batches, as Keras does."""
    batches = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False, verbose=False)
    return sum(len(labels) for _, labels in batches)


def bare_pillow(paths: list[Path]) -> int:
    """Decode all photos at reduced size with two threads, and nothing else."""
    def decode(path):
        with Image.open(path) as image:
            image.draft(None, (2 * SIZE, 2 * SIZE))
            return image.convert('RGB').size

    with ThreadPoolExecutor(2) as pool:
        return len(list(pool.map(decode, paths)))


def timed(function, *arguments) -> tuple[float, float]:
    """Photos a second, by the clock and by the time that all cores together worked."""
    clock, work = time.perf_counter(), time.process_time()
    n = function(*arguments)
    return n / (time.perf_counter() - clock), n / (time.process_time() - work)


def table(rates: dict[str, list[tuple[float, float]]]) -> str:
    """The medians, and the ratio of the first way to each, the median of the ratios of each turn."""
    lines = ['| way | photos a second | photos a second of processor time '
             '| the first way is so many times as fast | by processor time |', '| --- | --- | --- | --- | --- |']
    first = next(iter(rates.values()))
    for way, measured in rates.items():
        by_clock, by_work = (statistics.median(column) for column in zip(*measured))
        ratios = [statistics.median(one[i] / other[i] for one, other in zip(first, measured)) for i in (0, 1)]
        lines.append(f'| {way} | {by_clock:.1f} | {by_work:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |')
    return '\n'.join(lines)


def main(n: int) -> None:
    rates = {'find_photos and batches': [], 'the same, remembered': [],
             'image_dataset_from_directory': [], 'Pillow alone, two threads': []}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / 'photos'
        folder.mkdir()
        paths = write_photos(folder, n)
        size = sum(path.stat().st_size for path in paths) / n / 1e6
        bare_pillow(paths[:8])
        for turn in range(REPEATS):
            memory = Path(parent) / f'memory{turn}.json'
            ways = [(ours, folder, memory), (ours, folder, memory), (by_keras, folder), (bare_pillow, paths)]
            for way, call in zip(rates, ways):
                rates[way].append(timed(*call))
                print(f'{way}: {rates[way][-1][0]:.1f} photos a second', flush=True)
    text = f'''# From photos of a telephone to batches

{n} photos of 4032 x 3024 pixels, {size:.1f} MB each, to batches of {BATCH} at {SIZE} pixels; \
{REPEATS} turns, medians. Time by the clock
depends on what else the machine does; the time that its processors worked for this hardly does.

{table(rates)}

{conditions()}. Made by `python benchmarks/scanning.py {n}`.
'''
    print(text)
    if n >= 400:
        (RESULTS / 'scanning.md').write_text(text)


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
