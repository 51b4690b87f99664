"""What can be learned from the drawn pets: by looking at colours, by a head on ImageNet features, by fine-tuning, and from random weights.

All are trained on the 1,600 pictures of 'drawn_pets' that the tutorial trains on, and tested on the 2,000 of
'drawn_pets/further'. Prints a table and writes it to benchmarks/results/drawn_pets.md.

    python benchmarks/drawn_pets.py
"""

import datetime
import os
import platform
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import PIL
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import transfer_cvd.drawn_pets  # registers the data set
from transfer_cvd.efficientnet_lite0 import efficientnet_lite0

RESULT = Path(__file__).parent / 'results' / 'drawn_pets.md'
SIZE, BATCH, EPOCHS, SEEDS = 160, 32, 10, (0, 1, 2)
BOUNDARY = 'block_11_expand'  # the first layer that is fine-tuned
FROM_RANDOM = 1e-3  # learning rate of the network that starts from random weights


def draw(name: str, folder: str) -> float:
    """Seconds to draw 2,000 pictures and write them as a TFDS data set under `folder`."""
    start = time.perf_counter()
    tfds.builder(name, data_dir=folder).download_and_prepare()
    return time.perf_counter() - start


def load(name: str, split: str, folder: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The pictures of a split, uint8, and their labels."""
    pairs = list(tfds.as_numpy(tfds.load(name, split=split, as_supervised=True, data_dir=folder)))
    return [image for image, _ in pairs], np.array([label for _, label in pairs])


def thumbnails(images: list[np.ndarray]) -> np.ndarray:
    """Each picture as 8 x 8 pixels: (n, 192)."""
    return np.array([np.asarray(Image.fromarray(i).resize((8, 8), Image.Resampling.BOX)).ravel() / 255 for i in images])


def histograms(images: list[np.ndarray]) -> np.ndarray:
    """The share of each of 16 intensities in each of the three colours: (n, 48)."""
    return np.array([[np.histogram(i[..., c], 16, (0, 256))[0] / i[..., c].size for c in range(3)] for i in images]).reshape(-1, 48)


def shortcut(describe, train, test, seed: int) -> float:
    """Accuracy of logistic regression on what `describe` makes of the pictures. Each seed learns from another 90%."""
    (images, labels), (test_images, test_labels) = train, test
    chosen = np.random.default_rng(seed).permutation(len(images))[:len(images) * 9 // 10]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return model.fit(describe(images)[chosen], labels[chosen]).score(describe(test_images), test_labels)


def as_batch(images: list[np.ndarray]) -> np.ndarray:
    """(n, 160, 160, 3) float32 in [-1, 1], resized as the tutorial does."""
    return np.stack([tf.image.resize(image / np.float32(127.5) - 1, (SIZE, SIZE)).numpy() for image in images])


def compiled(layers: list, learning_rate: float) -> keras.Model:
    """A classifier with one logit, compiled as in the tutorial."""
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.RMSprop(learning_rate), keras.losses.BinaryCrossentropy(from_logits=True),
                  metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    return model


def fit(model: keras.Model, train, test) -> float:
    """Train for ten epochs; accuracy on the further pictures."""
    model.fit(*train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model.evaluate(*test, batch_size=100, verbose=0)[1]


def transfer(seed: int, train, test, freeze_batch_norm: bool) -> list[tuple[float, float]]:
    """(accuracy, seconds) of the head on ImageNet features, and after fine-tuning from the boundary.

    `train` and `test` hold what the frozen layers below the boundary give, so that they are run only once.
    """
    keras.utils.set_random_seed(seed)
    base = efficientnet_lite0(SIZE)
    upper = keras.Model(base.get_layer(BOUNDARY).input, base.output)
    pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)
    start = time.perf_counter()
    features = keras.Sequential([upper, pool])
    pooled = [(features.predict(x, batch_size=100, verbose=0), y) for x, y in (train, test)]
    feature_extraction = fit(compiled([keras.Input((1280,)), head], 1e-4), *pooled), time.perf_counter() - start
    start = time.perf_counter()
    for layer in upper.layers:
        layer.trainable = not (freeze_batch_norm and isinstance(layer, keras.layers.BatchNormalization))
    fine_tuning = fit(compiled([upper, pool, head], 1e-5), train, test), time.perf_counter() - start
    return [feature_extraction, fine_tuning]


def from_random(seed: int, train, test) -> tuple[float, float]:
    """(accuracy, seconds) of the whole network trained from random weights."""
    keras.utils.set_random_seed(seed)
    base = efficientnet_lite0(SIZE, weights=None)
    start = time.perf_counter()
    model = compiled([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)], FROM_RANDOM)
    return fit(model, train, test), time.perf_counter() - start


def measure(train, test) -> dict[str, list[tuple[float, float]]]:
    """For each row of the table (accuracy, seconds) of each seed; `train` and `test` are pictures and labels."""
    rows = {}
    for name, describe in (('logistic regression on 8 x 8 thumbnails', thumbnails),
                           ('logistic regression on colour histograms', histograms)):
        for seed in SEEDS:
            start = time.perf_counter()
            accuracy = shortcut(describe, train, test, seed)
            rows.setdefault(name, []).append((accuracy, time.perf_counter() - start))
        print(name, rows[name], flush=True)
    batches = [(as_batch(images), labels) for images, labels in (train, test)]
    base = efficientnet_lite0(SIZE)
    lower = keras.Model(base.input, base.get_layer(BOUNDARY).input)
    middle = [(lower.predict(x, batch_size=100, verbose=0), y) for x, y in batches]
    for seed in SEEDS:
        for frozen, mode in ((False, 'training'), (True, 'inference')):
            head, tuned = transfer(seed, *middle, freeze_batch_norm=frozen)
            if not frozen:
                rows.setdefault('a new head on ImageNet features', []).append(head)
            rows.setdefault(f'+ fine-tuning, batch norm in {mode} mode', []).append(tuned)
            print(seed, mode, head, tuned, flush=True)
    for seed in SEEDS:
        rows.setdefault('the same network from random weights', []).append(from_random(seed, *batches))
        print(seed, 'random', rows['the same network from random weights'][-1], flush=True)
    return rows


def report(drawing: float, rows: dict[str, list[tuple[float, float]]]) -> str:
    """The table and what it was measured with, in Markdown."""
    lines = [
        '# What can be learned from the drawn pets', '',
        f'Measured on {datetime.date.today()} with `benchmarks/drawn_pets.py`: tensorflow {tf.__version__}, keras {keras.__version__}, '
        f'numpy {np.__version__}, pillow {PIL.__version__}, python {platform.python_version()}, {os.cpu_count()} CPU cores '
        f'(load average at the end {os.getloadavg()[2]:.1f}: over {os.cpu_count() + 1}, other work made the seconds longer).', '',
        'Trained on 1,600 pictures of `drawn_pets`, tested on the 2,000 of `drawn_pets/further`; `efficientnet_lite0` at 160 pixels, '
        f'batches of {BATCH}, {EPOCHS} epochs a stage. RMSprop with 1e-4 for the head, 1e-5 for fine-tuning from `{BOUNDARY}`, '
        f'{FROM_RANDOM:g} for the network that starts from random weights. Seconds are the mean of a stage, without the layers below the boundary, which run once.', '',
        f'Drawing 2,000 pictures and writing them as a data set took {drawing:.0f} seconds.', '',
        '| learned from | mean accuracy | seed 0 | seed 1 | seed 2 | seconds |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for name, results in rows.items():
        accuracies, seconds = zip(*results)
        missing = ['not run'] * (len(SEEDS) - len(results))
        cells = [f'{np.mean(accuracies):.3f}', *(f'{a:.3f}' for a in accuracies), *missing, f'{np.mean(seconds):.0f}']
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        seconds = [draw(name, folder) for name in ('drawn_pets', 'drawn_pets/further')]
        pictures = load('drawn_pets', 'train[:80%]', folder), load('drawn_pets/further', 'train', folder)
    table = report(min(seconds), measure(*pictures))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(table)
    print(table)
