"""What the options of training change: dropout, augmentation, how activations are computed and kept, order, epochs.

    python benchmarks/options.py            # about three quarters of an hour; goes on where it stopped

Few photos, 2,000 of cats_vs_dogs for training, since that is where such things count; 1,000 for validation and 1,000
for testing.
Each row is ten epochs of the head and then two of the fast recipe, and differs in one thing from the first.
Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME); missing ones are downloaded.
"""
import argparse
import tempfile
import time
from dataclasses import fields
from statistics import mean, stdev

import keras

from measuring import RESULTS, Rows, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.feature_extraction import train_head
from transfer_cvd.features.store import Store
from transfer_cvd.fine_tuning import fine_tune
from transfer_cvd.networks.registry import BASES
from transfer_cvd.networks.surgery import matmul_precision
from transfer_cvd.photos.data import Data
from transfer_cvd.training.fine_tune import fast_recipe

BASE, PHOTOS = 'mobilenet_v2', 2000
EPOCHS = 2  # of fine-tuning, if a row does not say otherwise: half the default, so that there is time for more rows
SPLITS = {'train': f'train[:{PHOTOS}]', 'validation': 'train[-2000:-1000]', 'test': 'train[-1000:]'}


class Fully(Data):
    """All photos of an epoch shuffled together."""

    def epoch(self, examples, number):
        """See `Data.epoch`."""
        seed = self.seed * 10**6 + number
        return examples.shuffle(PHOTOS, seed=seed, reshuffle_each_iteration=False).batch(self.batch_size)


class InPieces(Data):
    """Batches of neighbours, shuffled: what is read from the disk lies together."""

    def epoch(self, examples, number):
        """See `Data.epoch`."""
        seed = self.seed * 10**6 + number
        return examples.batch(self.batch_size).shuffle(PHOTOS, seed=seed, reshuffle_each_iteration=False)


# the precision that is not the processor's own choice
OTHER = 'float32' if matmul_precision('auto') == 'bfloat16' else 'bfloat16'
OPTIONS = {  # arguments of `measure`
    'none': {},
    '`--dropout 0.2`': {'dropout': 0.2},
    '`--augment flip`': {'augment': 'flip'},
    '`--augment full`': {'augment': 'full', 'precision': 'float32'},
    f'`--precision {OTHER}`': {'precision': OTHER},
    '`--activations float32`': {'dtype': 'float32'},
    '`--backend tensorflow`': {'backend': 'tensorflow'},
    'all photos shuffled together': {'order': Fully},
    'batches of neighbours, shuffled': {'order': InPieces},
    'one epoch of fine-tuning': {'epochs': 1},
    'four epochs of fine-tuning': {'epochs': 4},
    'the best of all epochs kept': {'undo_if_worse': False, 'restore_best': True},
}


def measure(seed: int, dropout: float = 0.0, augment: str = 'none', dtype: str = 'float16', backend: str = 'auto',
            order: type[Data] = Data, epochs: int = EPOCHS, **fast) -> dict:
    """Both stages: losses and accuracies on validation and test photos together after each, and seconds."""
    keras.utils.set_random_seed(seed)
    loaded = load_data('cats_vs_dogs', seed=seed, splits=SPLITS)
    data, found = order(**{field.name: getattr(loaded, field.name) for field in fields(loaded)}), {}
    asked = data.batches(data.raw_validation.concatenate(data.raw_test))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, dtype=dtype, backend=backend)
        started = time.perf_counter()
        boundary = BASES[BASE].fine_tune_from
        model = train_head(base_model(BASE), data, store=store, fine_tune_from=boundary,
                           dropout=dropout, augment=augment, verbose=0)
        found['head_seconds'] = round(time.perf_counter() - started, 1)
        found['head_loss'], found['head_accuracy'] = model.evaluate(asked, verbose=0)
        started = time.perf_counter()
        recipe = fast_recipe(sum(data.counts['train'].values()), epochs) | fast
        fine_tune(model, data, boundary, **recipe, store=store, augment=augment, verbose=0)
        found['tuning_seconds'] = round(time.perf_counter() - started, 1)
        found['tuned_loss'], found['tuned_accuracy'] = model.evaluate(asked, verbose=0)
        tuned = model.histories['fine_tuning']
        return found | {'engine': tuned.get('backend', ''), 'precision': tuned['precision']}


def table(rows: list[dict]) -> str:
    """Means over the seeds, and differences to the first row with their spread, as a page of Markdown."""
    reference = {(row['seed'], row['processor']): row for row in rows if row['option'] == next(iter(OPTIONS))}
    engines = sorted({row['engine'] for row in rows if row['engine']})
    precisions = sorted({row['precision'] for row in reference.values()})
    lines = [f'# What the options change\n\n{conditions("openvino", "onnxruntime", rows=rows)}.\n\n'
             f'cats_vs_dogs, {PHOTOS:,} photos for training; {BASE} at 160 pixels, ten epochs of the head, '
             f'then {EPOCHS} of the fast schedule where nothing else is said. '
             'Loss and accuracy are those on 2,000 other photos, half of which decide whether the end is kept '
             'or the start: one photo is 0.0005. '
             f'Engines: {"; ".join(engines)}; '
             f'products in fine-tuning in {", ".join(precisions)} where nothing else is said. '
             'Means over the seeds; after a difference to the first row stands the standard deviation '
             'of its single values. Seconds are given for runs that had the machine to themselves.\n',
             '| option | seeds | accuracy, head | loss, head | accuracy, fine-tuned | loss, fine-tuned '
             '| difference in accuracy | difference in loss | head (s) | fine-tuning (s) |',
             '| --- ' * 10 + '|']
    for option in dict.fromkeys(row['option'] for row in rows):
        group = [row for row in rows if row['option'] == option and (row['seed'], row['processor']) in reference]
        means = [f'{mean(row[key] for row in group):.4f}'
                 for key in ('head_accuracy', 'head_loss', 'tuned_accuracy', 'tuned_loss')]
        differences = ['', '']
        if option != next(iter(OPTIONS)):
            single = [[row[key] - reference[row['seed'], row['processor']][key] for row in group]
                      for key in ('tuned_accuracy', 'tuned_loss')]
            differences = [f'{mean(values):+.4f}' + (f' ({stdev(values):.4f})' if len(values) > 1 else '')
                           for values in single]
        alone = all(row['alone'] for row in group)
        seconds = [f'{mean(row[key] for row in group):.0f}' if alone else ''
                   for key in ('head_seconds', 'tuning_seconds')]
        lines.append('| ' + ' | '.join([option, str(len(group)), *means, *differences, *seconds]) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: leave the seconds out')
    arguments = parser.parse_args()
    rows = Rows(RESULTS / 'options.jsonl')
    for seed in arguments.seeds:
        for option, settings in OPTIONS.items():
            rows.get({'option': option, 'seed': seed},
                     lambda: measure(seed, **settings) | {'alone': not arguments.not_alone})
            (RESULTS / 'options.md').write_text(table(rows.rows))
    print(table(rows.rows))
