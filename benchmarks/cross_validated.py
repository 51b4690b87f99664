"""Is the figure that a small folder gets an honest one? Cross-validated accuracy against that on other photos.

    python benchmarks/cross_validated.py        # about ten minutes; goes on where it stopped

Each seed draws some of the training photos of cats_vs_dogs. They are cross-validated as `transfer_cvd train` does with
a folder of so many, a head is trained on all of them, and that head is asked about 2,000 others. All of it is done on
kept features. Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME), downloaded if not
there; EfficientNet-Lite0's come in a package.
"""
import argparse
from functools import cache

import numpy as np
from sklearn.linear_model import LogisticRegression

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.evaluation.metrics import accuracy_interval
from transfer_cvd.features.store import Store
from transfer_cvd.training.head import choose_C, cross_validate, wanted_features

BASES = ('mobilenet_v2', 'efficientnet_lite0')
PHOTOS = (100, 200, 400)
OTHERS = 2000


@cache
def everything(base: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of all training photos, float32 (n, channels), and their labels."""
    backbone, store = base_model(base), Store()
    series, indices = load_data('cats_vs_dogs', backbone.input_shape[1]).series_of('train')
    kept, = store.keep(series, *wanted_features(backbone, None, store.dtype), indices=indices)
    return kept.values[indices], series.labels[indices]


def measure(base: str, photos: int, seed: int) -> dict:
    """The cross-validated accuracy with its interval, and that of the head trained on all, on other photos."""
    features, labels = everything(base)
    order = np.random.default_rng(seed).permutation(len(labels))
    ours, others = order[:photos], order[-OTHERS:]
    x, y, groups = features[ours], labels[ours], np.arange(photos)
    right = int((cross_validate(x, y, groups, seed=seed).probabilities.argmax(axis=1) == y).sum())
    C = choose_C(x, y, groups, seed=seed)
    kept = LogisticRegression(C=C, max_iter=1000).fit(x, y).score(features[others], labels[others])
    return {'cross_validated': right / photos, 'interval': accuracy_interval(right, photos), 'others': kept}


def table(rows: list[dict]) -> str:
    """The measurements as a page of Markdown."""
    lines = [
        f'# The figure of a small folder\n\n{conditions("scikit-learn", rows=rows)}.\n',
        'cats_vs_dogs. Mean accuracy over the draws: cross-validated in ten parts, and that of the head trained on all '
        f'of these photos, on {OTHERS:,} others. "Covered": in how many draws the 95% interval of the first holds the '
        'second.\n',
        '| base | photos | draws | cross-validated | on others | difference | covered | mean width of the interval |',
        '| --- ' * 8 + '|']
    for base in BASES:
        for photos in PHOTOS:
            some = [row for row in rows if (row['base'], row['photos']) == (base, photos)]
            if some:
                ours, others = (np.mean([row[key] for row in some]) for key in ('cross_validated', 'others'))
                covered = sum(row['interval'][0] <= row['others'] <= row['interval'][1] for row in some)
                width = np.mean([row['interval'][1] - row['interval'][0] for row in some])
                lines.append(f'| {base} | {photos:,} | {len(some)} | {ours:.4f} | {others:.4f} | {ours - others:+.4f} '
                             f'| {covered} of {len(some)} | {width:.3f} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--draws', type=int, default=30)
    draws = parser.parse_args().draws
    rows = Rows(RESULTS / 'cross_validated.jsonl')
    for base in BASES:
        for photos in PHOTOS:
            for seed in range(draws):
                rows.get({'base': base, 'photos': photos, 'seed': seed}, lambda: measure(base, photos, seed))
    page = table(rows.rows)
    (RESULTS / 'cross_validated.md').write_text(page)
    print(page)
