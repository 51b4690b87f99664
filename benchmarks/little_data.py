"""How few photos are enough: accuracy from 50, 200 and 1,000 of them, with ImageNet's features and with random weights.

    python benchmarks/little_data.py            # about ten minutes; goes on where it stopped

The features of each photo are computed once. A logistic regression is trained on those of a few photos and asked about
all validation photos. Each seed draws other photos, and other random weights. The features are standardized (on the
photos that are trained on), so that it does not matter how large they are, and the regression's strength of
regularization is chosen by cross-validation among the same photos. The test photos are not touched.
Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME), downloaded if they are not there.
"""
import argparse
import warnings

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.evaluation.metrics import accuracy_interval
from transfer_cvd.features.store import Store, Wanted
from transfer_cvd.photos.data import Data
from transfer_cvd.training.head import pooled

BASE = 'mobilenet_v2'
PHOTOS = (50, 200, 1000)
POOL = 2000  # training photos that are drawn from
WEIGHTS = {'ImageNet': 'imagenet', 'random': None}


def features(data: Data, split: str, network: keras.Model, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of the photos of a split, float32 (n, channels), and their labels."""
    series, indices = data.series_of(split)
    kept, = store.keep(series, Wanted(network), indices=indices)
    return kept.values[indices], series.labels[indices]


def measure(seed: int, weights: str) -> dict:
    """Return the accuracy on all validation photos, by the number of photos that were trained on."""
    keras.utils.set_random_seed(seed)
    network = pooled(base_model(BASE, weights=WEIGHTS[weights]))
    data, store = load_data('cats_vs_dogs').take(POOL), Store.temporary(backend='tensorflow')
    x, y = features(data, 'train', network, store)
    x_validation, y_validation = features(data, 'validation', network, store)
    order = np.random.default_rng(seed).permutation(len(x))
    accuracy = {}
    for n in PHOTOS:
        chosen = order[:n]
        choices = {'Cs': np.logspace(-5, 1, 7), 'cv': 5, 'scoring': 'neg_log_loss', 'max_iter': 300}
        regression = make_pipeline(StandardScaler(), LogisticRegressionCV(**choices))
        with warnings.catch_warnings():
            # Nearly unregularized ones need more steps, and are not chosen.
            warnings.simplefilter('ignore', ConvergenceWarning)
            warnings.simplefilter('ignore', FutureWarning)
            regression.fit(x[chosen], y[chosen])
        accuracy[str(n)] = float((regression.predict(x_validation) == y_validation).mean())
    return {'accuracy': accuracy, 'validation_photos': len(y_validation)}


def table(rows: list[dict]) -> str:
    """Return the mean, the lowest and the highest accuracy for each number of photos, as a page of Markdown."""
    n = rows[0]['validation_photos']
    seeds = len({row['seed'] for row in rows})
    low, high = accuracy_interval(round(0.95 * n), n)
    lines = [
        f'# How few photos are enough\n\n{conditions("scikit-learn", rows=rows)}.\n',
        f'{BASE} at 160 pixels, cats_vs_dogs. Accuracy of a logistic regression on {n:,} validation photos (an '
        f'accuracy of 0.95 on so many has a 95% interval from {low:.3f} to {high:.3f}): mean over {seeds} seeds, '
        'lowest to highest in brackets.\n',
        "| photos to learn from | ImageNet's features | features of random weights |",
        '| --- | --- | --- |',
    ]
    for photos in PHOTOS:
        cells = []
        for weights in WEIGHTS:
            found = [row['accuracy'][str(photos)] for row in rows if row['weights'] == weights]
            cells.append(f'{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})' if found else '')
        lines.append(f'| {photos:,} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    rows = Rows(RESULTS / 'little_data.jsonl')
    for seed in arguments.seeds:
        for weights in WEIGHTS:
            rows.get({'seed': seed, 'weights': weights}, lambda: measure(seed, weights))
            (RESULTS / 'little_data.md').write_text(table(rows.rows))
    print(table(rows.rows))
