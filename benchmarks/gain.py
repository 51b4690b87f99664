"""What fine-tuning gains: ten epochs of it against ten more of the head alone, judged by the validation photos.

    python benchmarks/gain.py            # about six minutes a seed; goes on where it stopped

Both go on from the same start. The seed decides the head's random weights and the order of the photos; photos and
splits stay the same. Differences are between two models on the same validation photos: photo by photo the loss
of one minus that of the other, and their mean with its 95% interval (1.96 standard errors). Test photos are not used.
Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME), downloaded if they are not there.
"""
import argparse

import keras
import numpy as np

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.evaluation.metrics import accuracy_interval
from transfer_cvd.feature_extraction import train_head
from transfer_cvd.features.store import Store
from transfer_cvd.fine_tuning import fine_tune
from transfer_cvd.networks.registry import BASES
from transfer_cvd.photos.data import Data

BASE = 'mobilenet_v2'
FROM_LAYER = BASES[BASE].fine_tune_from
SHOWN = ('loss', 'accuracy', 'val_loss', 'val_accuracy')
WAYS = {
    'head + 10': 'ten more epochs of the head',
    'fine-tuned': 'ten epochs of fine-tuning',
    'fine-tuned, batch norm frozen': 'the same, batch normalization frozen',
}


def on_validation(model: keras.Model, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each validation photo, and whether its answer is right, both (n,)."""
    labels = np.concatenate([labels for _, labels in data.validation.as_numpy_iterator()])
    logits = model.predict(data.validation, verbose=0)[:, 0].astype(float)
    losses = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    return losses, (logits > 0) == (labels == 1)


def compare(before: tuple, after: tuple) -> dict:
    """Return the figures of a model on the validation photos, and how they differ from those of another before it."""
    (losses_before, right_before), (losses, right) = before, after
    differences = losses - losses_before
    error = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    return {
        'n': len(right), 'right': int(right.sum()), 'loss': float(losses.mean()),
        'now_right': int((right & ~right_before).sum()), 'now_wrong': int((right_before & ~right).sum()),
        'difference': float(differences.mean()),
        'interval': [float(differences.mean() - error), float(differences.mean() + error)],
    }


def measure(seed: int) -> dict:
    """Return the figures of the head after ten epochs and of each way to go on, with the history of the latter."""
    data, store = load_data('cats_vs_dogs', seed=seed), Store(backend='tensorflow')
    model = train_head(base_model(BASE), data, epochs=10, store=store, fine_tune_from=FROM_LAYER, verbose=0)
    start, histories = model.get_weights(), model.histories
    head = on_validation(model, data)

    longer = train_head(base_model(BASE), data, epochs=20, store=store, verbose=0)
    control = on_validation(longer, data)
    found = {'head': compare(head, head), 'head + 10': compare(head, control)}
    history = {
        'head': histories['feature_extraction'],
        'head + 10': {key: longer.histories['feature_extraction'][key][10:] for key in SHOWN},
    }

    for way in ('fine-tuned', 'fine-tuned, batch norm frozen'):
        model.set_weights(start)
        model.histories = histories
        fine_tune(model, data, FROM_LAYER, 10, freeze_batch_norm='frozen' in way, store=store, verbose=2)
        history[way] = model.histories['fine_tuning']
        answers = on_validation(model, data)
        found |= {way: compare(head, answers), f'{way}, against head + 10': compare(control, answers)}
    return {'found': found, 'history': history}


def mean_and_ends(values: list[float], digits: int) -> str:
    """Return the mean of the seeds, with the lowest and the highest in brackets where there are several."""
    ends = f' ({min(values):.{digits}f} to {max(values):.{digits}f})' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{ends}'


def table(rows: list[dict]) -> str:
    """Return the figures as a page of Markdown: means over the seeds, and the differences seed by seed."""
    n = rows[0]['found']['head']['n']
    low, high = accuracy_interval(round(0.975 * n), n)
    lines = [
        f'# What fine-tuning gains\n\n{conditions(rows=rows)}.\n',
        f'{BASE} at 160 pixels, cats_vs_dogs, {n:,} validation photos (an accuracy of 0.975 on so many has a 95% '
        f'interval from {low:.3f} to {high:.3f}); {len(rows)} seeds: mean, lowest to highest in brackets.\n',
        '| after | validation accuracy | validation loss | lowest validation loss on the way '
        '| training loss, last epoch |',
        '| --- | --- | --- | --- | --- |',
    ]
    for way, words in {'head': 'ten epochs of the head', **WAYS}.items():
        cells = [
            mean_and_ends([row['found'][way]['right'] / n for row in rows], 4),
            mean_and_ends([row['found'][way]['loss'] for row in rows], 4),
            mean_and_ends([min(row['history'][way]['val_loss']) for row in rows], 4),
            mean_and_ends([row['history'][way]['loss'][-1] for row in rows], 4),
        ]
        lines.append(f'| {words} | ' + ' | '.join(cells) + ' |')
    lines += [
        '\nThe same photos, one model after the other: how many answers became right and wrong, and the change of the '
        'loss with its 95% interval.\n',
        '| seed | from | to | now right | now wrong | change of the loss | 95% interval |', '| --- ' * 7 + '|',
    ]
    steps = {
        'head + 10': ('head', 'ten more epochs of the head'),
        'fine-tuned': ('head', 'fine-tuned'),
        'fine-tuned, against head + 10': ('ten more epochs of the head', 'fine-tuned'),
    }
    for row in rows:
        for key, (before, after) in steps.items():
            figures = row['found'][key]
            low, high = figures['interval']
            lines.append(f'| {row["seed"]} | {before} | {after} | {figures["now_right"]} | {figures["now_wrong"]} '
                         f'| {figures["difference"]:+.4f} | {low:+.4f} to {high:+.4f} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = Rows(RESULTS / 'gain.jsonl')
    for seed in arguments.seeds:
        rows.get({'seed': seed}, lambda: measure(seed))
        (RESULTS / 'gain.md').write_text(table(rows.rows))
    print(table(rows.rows))
