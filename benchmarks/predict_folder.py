"""`predict` on a folder of photos, against decoding and the network alone, and its memory over single calls.

    python benchmarks/predict_folder.py             # a few minutes

Reading overlaps with computing, so the rate may be above 1 / (1 / network + 1 / decoding).
"""
import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from measuring import RESULTS, conditions
from transfer_cvd.datasets.drawn_pets.drawing import draw_pet
from transfer_cvd.networks.efficientnet_lite0 import efficientnet_lite0
from transfer_cvd.photos.images import read_photo
from transfer_cvd.inference.predictor import BATCH
from transfer_cvd.inference.classifier import Classifier

SIZE = 160


def make_photos(folder: Path, n: int) -> list[Path]:
    """`n` JPEG files of 500 x 375 pixels: 100 drawn pets over and over, shifted so that no two files are the same."""
    drawn = (draw_pet(('cat', 'dog')[i % 2], np.random.default_rng(i)) for i in range(min(n, 100)))
    pets = [Image.fromarray(pet).resize((500, 375)) for pet in drawn]
    paths = [folder / f'{i:05}.jpg' for i in range(n)]
    for i, path in enumerate(paths):
        Image.fromarray(np.roll(np.asarray(pets[i % len(pets)]), i // len(pets) * 7, axis=1)).save(path, quality=90)
    return paths


def rates(classifier: Classifier, paths: list[Path], slices: int = 5) -> dict[str, float]:
    """Photos a second of the network alone, decoding alone and `predict`, in turns: other work meets all three."""
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    seconds, n_network = {'network': 0.0, 'decoding': 0.0, 'predict': 0.0}, 0
    for k in range(slices):
        some = paths[k * len(paths) // slices:(k + 1) * len(paths) // slices]
        started = time.perf_counter()
        for _ in range(len(some) // BATCH):
            classifier.run(batch)
        seconds['network'] += time.perf_counter() - started
        n_network += len(some) // BATCH * BATCH
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: read_photo(path, SIZE).shape, some))
        seconds['decoding'] += time.perf_counter() - started
        started = time.perf_counter()
        classifier.predict(some)
        seconds['predict'] += time.perf_counter() - started
    network, decoding = n_network / seconds['network'], len(paths) / seconds['decoding']
    predict = len(paths) / seconds['predict']
    ratio = predict * (1 / network + 1 / decoding)
    return {'network': network, 'decoding': decoding, 'predict': predict, 'ratio': ratio}


def memory() -> float:
    """Anonymous memory of this process in megabytes."""
    status = Path('/proc/self/status').read_text()
    return int(next(line for line in status.splitlines() if line.startswith('RssAnon')).split()[1]) / 1024


def single_calls(classifier: Classifier, n: int) -> list[tuple[int, float]]:
    """Memory after 100, 1,000, ... single calls, each with a photo of another size."""
    rng, noted = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (700, 700, 3), np.uint8)
    for i in range(1, n + 1):
        height, width = rng.integers(20, 700, 2)
        classifier.predict(pixels[:height, :width])
        if i in (100, 1000, 2000, 5000, 10_000):
            noted.append((i, memory()))
    return noted


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--photos', type=int, default=1000)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--calls', type=int, default=10_000)
    arguments = parser.parse_args()
    network = keras.Sequential([efficientnet_lite0(SIZE), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    classifier = Classifier.from_network(network, ['cat', 'dog'])
    classifier.run(np.zeros((BATCH, SIZE, SIZE, 3), np.float32))  # the graph is built at the first call
    lines = [f'# Predicting a folder\n\n{conditions()}.\n\n{arguments.photos:,} JPEG photos of 500 x 375 pixels, '
             f'efficientnet_lite0 at {SIZE} pixels; photos a second. Decoding alone is Pillow on all cores; '
             'the last column is the rate of `predict` times (1 / network + 1 / decoding).\n',
             '| run | network alone | decoding alone | predict | of what both allow |', '| --- ' * 5 + '|']
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(Path(folder), arguments.photos)
        for run in range(1, arguments.runs + 1):
            rate = rates(classifier, paths)
            lines.append(f'| {run} | {rate["network"]:.0f} | {rate["decoding"]:.0f} | {rate["predict"]:.0f} '
                         f'| {rate["ratio"]:.2f} |')
            print(lines[-1], flush=True)
    lines += ['\nMemory of the process (anonymous pages) after single calls, each with a photo of another size:\n',
              '| calls | MB |', '| --- ' * 2 + '|']
    lines += [f'| {n:,} | {megabytes:.0f} |' for n, megabytes in single_calls(classifier, arguments.calls)]
    page = '\n'.join(lines) + '\n'
    (RESULTS / 'predict_folder.md').write_text(page)
    print(page)
