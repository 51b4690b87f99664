"""The tutorial's schedule on real photos: accuracy after each stage, for each way to fine-tune.

Batch normalization in training mode, and frozen with and without early stopping.

    python benchmarks/real_photos.py            # about 10 minutes a row; goes on where it stopped

Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME); missing ones are downloaded.
"""
import argparse
import time

import keras
import numpy as np

from measuring import RESULTS, PeakMemory, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.feature_extraction import train_head
from transfer_cvd.fine_tuning import fine_tune
from transfer_cvd.networks.registry import BASES

BASE = 'mobilenet_v2'


MODES = {  # arguments of `fine_tune`
    'training mode': {},
    'frozen': {'freeze_batch_norm': True},
    'frozen, stopped early': {'freeze_batch_norm': True, 'restore_best': True, 'patience': 2},
}


def run(seed: int, mode: str, epochs: int) -> dict:
    """Both stages with one seed: losses and accuracies on validation and test photos, seconds, peak memory."""
    keras.utils.set_random_seed(seed)
    with PeakMemory() as peak:
        started = time.perf_counter()
        data = load_data('cats_vs_dogs', seed=seed)
        model = train_head(base_model(BASE), data, epochs=epochs, verbose=0)
        head_seconds = time.perf_counter() - started
        head_test = model.evaluate(data.test, verbose=0)
        started = time.perf_counter()
        model = fine_tune(model, data, BASES[BASE].fine_tune_from, epochs, verbose=2, **MODES[mode])
        tuning_seconds = time.perf_counter() - started
        tuned_validation, tuned_test = (model.evaluate(photos, verbose=0) for photos in (data.validation, data.test))
    first, second = (model.histories[stage] for stage in ('feature_extraction', 'fine_tuning'))
    return {
        'photos': {split: sum(classes.values()) for split, classes in data.counts.items()},
        'head_validation': first['val_accuracy'][-1], 'head_test': head_test[1], 'head_seconds': round(head_seconds, 1),
        'epochs_done': len(second['loss']),
        'tuned_validation': tuned_validation[1], 'tuned_validation_loss': tuned_validation[0],
        'tuned_test': tuned_test[1], 'tuned_test_loss': tuned_test[0], 'tuning_seconds': round(tuning_seconds, 1),
        'peak_gigabytes': round(peak.gigabytes, 2),
    }


COLUMNS = {'seed': 'seed', 'mode': 'batch norm', 'epochs_done': 'epochs of fine-tuning',
           'head_validation': 'validation, features', 'head_test': 'test, features',
           'tuned_validation': 'validation, fine-tuned', 'tuned_test': 'test, fine-tuned',
           'tuned_test_loss': 'test loss',
           'head_seconds': 'features (s)', 'tuning_seconds': 'fine-tuning (s)', 'peak_gigabytes': 'peak memory (GB)'}


def cell(row: dict, key: str) -> str:
    """What stands in a column of the table."""
    value = row[key]
    if key == 'epochs_done':
        return f'{value:g}'
    if 'seconds' in key:
        return f'{value:.0f}' if row.get('alone') else ''
    if 'giga' in key:
        return f'{value:.2f}'
    return f'{value:.4f}' if isinstance(value, float) else str(value)


def table(rows: list[dict], epochs: int) -> str:
    """The rows, and the means of each mode, as a page of Markdown."""
    photos = ' / '.join(f'{n:,}' for n in rows[0]['photos'].values())
    lines = [f'# The tutorial\'s schedule on real photos\n\n{conditions(rows=rows)}.\n\n'
             f'cats_vs_dogs, {photos} photos (training / validation / test), '
             f'{BASE} at 160 pixels, {epochs} and {epochs} epochs. '
             'Stopped early: after two epochs in which the validation loss did not fall, and with the weights '
             'that had the lowest. Seconds are given for runs that had the machine to themselves.\n',
             '| ' + ' | '.join(COLUMNS.values()) + ' |', '| --- ' * len(COLUMNS) + '|']
    for mode in [mode for mode in MODES if any(row['mode'] == mode for row in rows)]:
        group = [row for row in rows if row['mode'] == mode]
        means = {key: float(np.mean([row[key] for row in group])) for key in list(COLUMNS)[2:]}
        mean = {'seed': 'mean', 'mode': mode} | means
        mean['epochs_done'] = round(mean['epochs_done'], 1)
        for row in [*group, mean] if len(group) > 1 else group:
            lines.append('| ' + ' | '.join(cell(row, key) for key in COLUMNS) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=10, help='epochs of each stage')
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: leave the seconds out')
    parser.add_argument('--modes', nargs='+', default=list(MODES), choices=MODES)
    arguments = parser.parse_args()
    rows = Rows(RESULTS / 'real_photos.jsonl')
    for seed in arguments.seeds:
        for mode in arguments.modes:
            rows.get({'seed': seed, 'mode': mode, 'epochs': arguments.epochs},
                     lambda: run(seed, mode, arguments.epochs) | {'alone': not arguments.not_alone})
            page = table(rows.rows, arguments.epochs)
            (RESULTS / 'real_photos.md').write_text(page)
    print(page)
