"""What can be learned from the drawn pets: by their colours, a head on ImageNet features, fine-tuning, random weights.

    python benchmarks/drawn_pets.py            # about three quarters of an hour; goes on where it stopped

All learn from the 1,600 training pictures of 'drawn_pets', or from the first 200 of them in as many steps, and are
tested on the 2,000 of 'drawn_pets/further', which another seed drew.
"""
import argparse
import tempfile
from functools import partial

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.networks.registry import BASES
from transfer_cvd.photos.data import Data
from transfer_cvd.data import load_data
from transfer_cvd.feature_extraction import add_head, train_head
from transfer_cvd.networks.classifier import compile_classifier
from transfer_cvd.fine_tuning import fine_tune
from transfer_cvd.summary import predict_batches

BASE, EPOCHS, SEEDS = 'efficientnet_lite0', 10, (0, 1, 2)
ALL, FEW = 1600, 200  # pictures to learn from
FROM_RANDOM = 1e-3  # learning rate of the network that starts from random weights
MOMENTUM = 0.9  # of its batch normalization: with a slower one, 500 steps are too few for the moving statistics
NAMES = {
    'thumbnails': 'logistic regression on 8 x 8 thumbnails',
    'histograms': 'logistic regression on colour histograms',
    'head': 'a new head on ImageNet features',
    'fine-tuning': '+ fine-tuning',
    'random': 'the same network from random weights',
    'head, few': f'{FEW} pictures: a new head on ImageNet features',
    'fine-tuning, few': f'{FEW} pictures: + fine-tuning',
    'random, few': f'{FEW} pictures: the same network from random weights',
}


def further() -> tf.data.Dataset:
    """The pictures of `drawn_pets/further`, all 2,000, in order."""
    data = load_data('drawn_pets/further')
    return data.raw_train.concatenate(data.raw_validation).concatenate(data.raw_test)


def accuracy(model: keras.Model, data: Data) -> float:
    """Accuracy on the further pictures."""
    predictions = predict_batches(model, data.batches(further()))
    return float((predictions.classes == predictions.labels).mean())


def draw() -> dict:
    """Seconds to draw 2,000 pictures and write them as a data set."""
    with tempfile.TemporaryDirectory() as folder:
        tfds.builder('drawn_pets', data_dir=folder).download_and_prepare()
    return {}


def thumbnails(images: list[np.ndarray]) -> np.ndarray:
    """Each picture as 8 x 8 pixels: (n, 192)."""
    return np.array([np.asarray(Image.fromarray(i).resize((8, 8), Image.Resampling.BOX)).ravel() / 255 for i in images])


def histograms(images: list[np.ndarray]) -> np.ndarray:
    """The share of each of 16 intensities in each of the three colours: (n, 48)."""
    return np.array([[np.histogram(image[..., c], 16, (0, 256))[0] / image[..., c].size for c in range(3)]
                     for image in images]).reshape(-1, 48)


def shortcut(describe, seed: int) -> dict:
    """Logistic regression on what `describe` makes of the pictures. Each seed learns from another 90%."""
    train = load_data('drawn_pets').raw_train
    (images, labels), (test_images, test_labels) = ([*zip(*tfds.as_numpy(raw))] for raw in (train, further()))
    chosen = np.random.default_rng(seed).permutation(len(images))[:len(images) * 9 // 10]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(describe(images)[chosen], np.array(labels)[chosen])
    return {'accuracy': model.score(describe(test_images), np.array(test_labels))}


def to_learn_from(pictures: int, seed: int) -> tuple[Data, int]:
    """The data, and how many epochs of them are as many steps as EPOCHS with all pictures."""
    return load_data('drawn_pets', seed=seed).take(pictures), EPOCHS * ALL // pictures


def head(pictures: int, seed: int) -> dict:
    """Feature extraction."""
    data, epochs = to_learn_from(pictures, seed)
    return {'accuracy': accuracy(train_head(base_model(BASE), data, epochs, verbose=0), data)}


def tuned(pictures: int, seed: int) -> dict:
    """Feature extraction, then fine-tuning."""
    data, epochs = to_learn_from(pictures, seed)
    model = train_head(base_model(BASE), data, epochs, verbose=0)
    return {'accuracy': accuracy(fine_tune(model, data, BASES[BASE].fine_tune_from, epochs, verbose=0), data)}


def from_random(pictures: int, seed: int) -> dict:
    """The whole network, from random weights, for as many epochs as a stage has."""
    keras.utils.set_random_seed(seed)
    data, epochs = to_learn_from(pictures, seed)
    base = base_model(BASE, weights=None)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    model = compile_classifier(add_head(base, 2, seed), FROM_RANDOM)
    model.fit(data.train, epochs=epochs, shuffle=False, verbose=0)
    return {'accuracy': accuracy(model, data)}


MEASURES = {
    'thumbnails': lambda seed: shortcut(thumbnails, seed),
    'histograms': lambda seed: shortcut(histograms, seed),
    'head': partial(head, ALL),
    'fine-tuning': partial(tuned, ALL),
    'random': partial(from_random, ALL),
    'head, few': partial(head, FEW),
    'fine-tuning, few': partial(tuned, FEW),
    'random, few': partial(from_random, FEW),
}


def table(rows: list[dict], drawing: dict) -> str:
    """The accuracies, a row each way of learning, as a page of Markdown."""
    drawn = ''
    if drawing.get('alone'):
        drawn = f'Drawing 2,000 pictures and writing them as a data set took {drawing["seconds"]:.0f} s. '
    lines = [
        f'# What can be learned from the drawn pets\n\n{conditions(rows=rows)}.\n\n'
        f'Trained on the {ALL:,} pictures of `drawn_pets` where nothing else is said, tested on the 2,000 of '
        f'`drawn_pets/further`; `{BASE}` at 160 pixels, batches of 32, {EPOCHS} epochs a stage, '
        f'{EPOCHS * ALL // FEW} of {FEW} pictures, which are as many steps. '
        'RMSprop with a learning rate of 1e-4 for the head, '
        f'1e-5 for fine-tuning from `{BASES[BASE].fine_tune_from}`, '
        f'{FROM_RANDOM:g} for the network that starts from random weights. '
        f'{drawn}Seconds are given for measurements that had the machine to themselves.\n',
        '| learned from | mean accuracy | seed 0 | seed 1 | seed 2 | mean seconds |', '| --- ' * 6 + '|',
    ]
    for kind in NAMES:
        group = [row for row in rows if row['kind'] == kind]
        if not group:
            continue
        by_seed = {row['seed']: f'{row["accuracy"]:.4f}' for row in group}
        seeds = [by_seed.get(seed, 'not run') for seed in SEEDS]
        seconds = f'{np.mean([row["seconds"] for row in group]):.0f}' if all(row.get('alone') for row in group) else ''
        lines.append(f'| {NAMES[kind]} | {np.mean([row["accuracy"] for row in group]):.4f} | {" | ".join(seeds)} '
                     f'| {seconds} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: leave the seconds out')
    parser.add_argument('--only-table', action='store_true', help='measure nothing, write the table anew')
    arguments = parser.parse_args()
    results, alone = Rows(RESULTS / 'drawn_pets.jsonl'), {'alone': not arguments.not_alone}
    if not arguments.only_table:
        results.get({'kind': 'drawing'}, lambda: draw() | alone)
        for kind, measure in MEASURES.items():
            for seed in SEEDS:
                results.get({'kind': kind, 'seed': seed}, lambda: measure(seed) | alone)
    rows = [row for row in results.rows if row['kind'] != 'drawing']
    page = table(rows, next(row for row in results.rows if row['kind'] == 'drawing'))
    (RESULTS / 'drawn_pets.md').write_text(page)
    print(page)
