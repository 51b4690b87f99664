"""The schedules on few photos, the fast one with several numbers of epochs: accuracy on other photos of cats_vs_dogs.

    python benchmarks/few_photos.py            # about half an hour; goes on where it stopped

The fast schedule begins with a head that is trained to its end on so many photos. An eighth as many others decide
whether the end of fine-tuning is kept or that start, as in a run on a folder; accuracy is on photos that neither were
trained on nor decided anything. The tutorial's has ten epochs for the head and ten for fine-tuning.
All of it is done on kept activations.
Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME); missing ones are downloaded.
"""
import argparse
import math
from functools import cache
from statistics import mean

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.feature_extraction import add_head, freeze
from transfer_cvd.features.store import Kept, Store, read_kept
from transfer_cvd.fine_tuning import unfreeze_from
from transfer_cvd.networks.classifier import compile_classifier
from transfer_cvd.networks.registry import BASES
from transfer_cvd.training.fine_tune import FAST_BATCH, FAST_RATE, fast_epochs, split_model, warm_up_and_cosine
from transfer_cvd.training.fit import fit
from transfer_cvd.training.head import choose_C, wanted_features

BASE = 'mobilenet_v2'
BOUNDARY = BASES[BASE].fine_tune_from
EPOCHS = {300: (2, 4, 8, 16), 1000: (2, 4, 8), 2000: (2, 4, 8)}  # by the number of photos
OTHERS = 2000  # photos that are asked about


@cache
def everything() -> list[Kept]:
    """Features of all training photos of cats_vs_dogs, and their tensors under the boundary."""
    store = Store()
    series, _ = load_data('cats_vs_dogs').series_of('train')
    return store.keep(series, *wanted_features(freeze(base_model(BASE)), BOUNDARY, store.dtype))


def drawn(photos: int, seed: int) -> list[np.ndarray]:
    """Indices of the photos to train on, of an eighth as many to decide by, and of the others that are asked about."""
    rows = np.random.default_rng(seed).permutation(len(everything()[0].indices))[:photos * 9 // 8 + OTHERS]
    return np.split(rows, [photos, photos * 9 // 8])


def batches(kept: Kept, indices: np.ndarray, size: int) -> tf.data.Dataset:
    """What is kept of these photos, in order."""
    return read_kept(kept, tf.data.Dataset.from_tensor_slices(indices).batch(size))


def shuffled(kept: Kept, indices: np.ndarray, size: int, epochs: int, seed: int) -> tf.data.Dataset:
    """So many epochs of them, each in another order."""
    order = tf.data.Dataset.from_tensor_slices(indices).shuffle(len(indices), seed)
    return read_kept(kept, order.batch(size).repeat(epochs))


def as_the_tutorial(photos: int, seed: int) -> dict:
    """Loss and accuracy on the others after the tutorial's ten epochs of the head and after its ten of fine-tuning."""
    keras.utils.set_random_seed(seed)
    (pooled, tensors), (train, _, others) = everything(), drawn(photos, seed)
    model = add_head(freeze(base_model(BASE)), 2, seed)
    head = keras.Sequential([keras.Input(pooled.values.shape[1:]), model.head])
    found, steps = {}, math.ceil(photos / 32)
    for stage, kept, rate in (('head', pooled, 1e-4), ('tuned', tensors, 1e-5)):
        if stage == 'tuned':
            unfreeze_from(model.backbone, BOUNDARY)
        part = compile_classifier(head if stage == 'head' else split_model(model, BOUNDARY)[1], rate)
        part.fit(shuffled(kept, train, 32, 10, seed), steps_per_epoch=steps, epochs=10, shuffle=False, verbose=0)
        found[stage] = part.evaluate(batches(kept, others, 64), verbose=0)
    return found


def measure(photos: int, seed: int) -> dict:
    """Loss and accuracy on the others, of the head and after each fast schedule; which of both would be kept."""
    keras.utils.set_random_seed(seed)
    (pooled, tensors), (train, validation, others) = everything(), drawn(photos, seed)
    features, labels = pooled.values[pooled.indices[train]], pooled.labels[pooled.indices[train]]
    regression = LogisticRegression(C=choose_C(features, labels, train, seed=seed), max_iter=1000).fit(features, labels)
    model = add_head(base_model(BASE), 2, seed)
    model.head.set_weights([regression.coef_.T, regression.intercept_])
    unfreeze_from(model.backbone, BOUNDARY, freeze_batch_norm=True)
    _, above = split_model(model, BOUNDARY)
    start, found, steps = above.get_weights(), {}, math.ceil(photos / FAST_BATCH)
    asked, deciding = (batches(tensors, some, FAST_BATCH) for some in (others, validation))
    for epochs in EPOCHS[photos]:
        above.set_weights(start)
        compile_classifier(above, FAST_RATE, keras.optimizers.AdamW(warm_up_and_cosine(epochs * steps)))
        before = above.evaluate(deciding, verbose=0)[0]
        found.setdefault('head', above.evaluate(asked, verbose=0))
        history = fit(above, lambda first: shuffled(tensors, train, FAST_BATCH, epochs, seed),
                      steps, deciding, epochs, verbose=0)
        found[f'{epochs} epochs'] = [*above.evaluate(asked, verbose=0), history['val_loss'][-1] < before]
    return found


def both_schedules(rows: list[dict]) -> list[str]:
    """A line for each number of photos: the tutorial's schedule beside the fast one with its default epochs."""
    lines = ['| photos | seeds | tutorial: accuracy, head | accuracy, fine-tuned | loss '
             '| fast: epochs | accuracy, head | accuracy after the choice | loss |', '| --- ' * 9 + '|']
    for photos in EPOCHS:
        tutorial, fast = ({row['seed']: row for row in rows if (row['photos'], row['schedule']) == (photos, name)}
                          for name in ('tutorial', 'fast'))
        seeds, epochs = sorted(tutorial.keys() & fast), fast_epochs(photos)
        if seeds:
            heads, ends = zip(*[(fast[seed]['head'], fast[seed][f'{epochs} epochs']) for seed in seeds])
            chosen = [end if end[2] else head for head, end in zip(heads, ends)]
            lines.append(f'| {photos:,} | {len(seeds)} '
                         f'| {mean(tutorial[seed]["head"][1] for seed in seeds):.4f} '
                         f'| {mean(tutorial[seed]["tuned"][1] for seed in seeds):.4f} '
                         f'| {mean(tutorial[seed]["tuned"][0] for seed in seeds):.4f} '
                         f'| {epochs} | {mean(head[1] for head in heads):.4f} '
                         f'| {mean(end[1] for end in chosen):.4f} '
                         f'| {mean(end[0] for end in chosen):.4f} |')
    return lines


def table(rows: list[dict]) -> str:
    """Means over the seeds, a row for each number of photos and epochs, as a page of Markdown."""
    lines = [f'# Few photos\n\n{conditions(rows=rows)}.\n\n{BASE} at 160 pixels, cats_vs_dogs. '
             f'A head trained to its end, then the fast schedule: AdamW, up to {FAST_RATE:g} and along a cosine, '
             f'batches of {FAST_BATCH}, batch normalization frozen. '
             f'Accuracy and loss on {OTHERS:,} others, means over the seeds. "Kept" are ends with a lower '
             'validation loss than the start, on an eighth as many photos; "after the choice" is the accuracy '
             'when the start is kept otherwise.\n',
             '| photos | epochs | steps | seeds | accuracy, head | accuracy, end | kept | accuracy after the choice '
             '| loss, head | loss, end |', '| --- ' * 10 + '|']
    for photos, tried in EPOCHS.items():
        group = [row for row in rows if (row['photos'], row['schedule']) == (photos, 'fast')]
        for epochs in tried if group else ():
            ends = [(row['head'], row[f'{epochs} epochs']) for row in group]
            chosen = mean((end if end[2] else head)[1] for head, end in ends)
            steps = epochs * math.ceil(photos / FAST_BATCH)
            lines.append(f'| {photos:,} | {epochs} | {steps} | {len(group)} '
                         f'| {mean(head[1] for head, _ in ends):.4f} | {mean(end[1] for _, end in ends):.4f} '
                         f'| {sum(end[2] for _, end in ends)} of {len(ends)} | {chosen:.4f} '
                         f'| {mean(head[0] for head, _ in ends):.4f} | {mean(end[0] for _, end in ends):.4f} |')
    lines += ['\nThe tutorial\'s schedule (ten epochs of the head, ten of fine-tuning) '
              'and what a run on a folder does by default, on the same photos:\n', *both_schedules(rows)]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = Rows(RESULTS / 'few_photos.jsonl')
    for seed in arguments.seeds:
        for photos in EPOCHS:
            for schedule, work in (('fast', measure), ('tutorial', as_the_tutorial)):
                rows.get({'photos': photos, 'seed': seed, 'schedule': schedule}, lambda: work(photos, seed))
            (RESULTS / 'few_photos.md').write_text(table(rows.rows))
    print(table(rows.rows))
