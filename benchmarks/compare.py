"""The tutorial as written (as_written.py) against `transfer_cvd train`, on the same photos: seconds, accuracy, memory.

    python benchmarks/compare.py                        # hours; goes on where it stopped
    python benchmarks/compare.py features --seeds 0     # only the runs that this row of the table needs

One run after the other, both sides in turn, each in a new process and ours with an empty cache; a ratio compares runs
of the same seed. "plain" is TensorFlow as the engine of the frozen pass, "[fast]" the engine that is chosen when the
packages of that extra are installed.
Needs cats_vs_dogs (TFDS_DATA_DIR) and MobileNetV2's ImageNet weights (KERAS_HOME); missing ones are downloaded.
"""
import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from measuring import RESULTS, PeakMemory, Rows, conditions, slices

ROOT = Path(__file__).resolve().parent.parent
DATA, BASE = 'cats_vs_dogs', 'mobilenet_v2'
# on both sides, so that it is no part of the difference; `transfer_cvd` sets it by itself
MEMORY = {'TF_CPU_ALLOCATOR_USE_BFC': '1'}


class Size(NamedTuple):
    """How large the runs are. The default is the tutorial's."""

    photos: int = 8000  # for training; an eighth of it each for validation and testing
    epochs: int = 10  # of each stage of the tutorial's schedule


def in_process(*command: str | Path, **settings) -> dict:
    """Run a command to its end: seconds, and the peak of anonymous memory, seen from outside."""
    started = time.perf_counter()
    process = subprocess.Popen(command, **settings)
    with PeakMemory(process.pid) as peak:
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {'process_seconds': round(time.perf_counter() - started, 1), 'peak_gigabytes': round(peak.gigabytes, 2)}


def in_new_process(function: Callable, *arguments):
    """What a function of this file gives when it is called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()


def as_written(seed: int, size: Size) -> dict:
    """The tutorial's own way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, 'result.json')
        measured = in_process(sys.executable, ROOT / 'benchmarks/as_written.py',
                              '--seed', str(seed), '--photos', str(size.photos),
                              '--epochs', str(size.epochs), '--fine-tune-epochs', str(size.epochs), '--out', out)
        return json.loads(out.read_text()) | measured


def accuracies(model: Path, photos: int) -> dict:
    """What a saved classifier gets right of the validation and of the test photos."""
    from transfer_cvd.data import load_data
    from transfer_cvd.inference.classifier import Classifier

    classifier, data = Classifier.load(model), load_data(DATA, splits=slices(photos))
    right = {}
    for split in ('validation', 'test'):
        answers = [classifier.run(images.numpy()).argmax(axis=1) == labels.numpy()
                   for images, labels in getattr(data, split)]
        right[split] = mean(float(answer) for batch in answers for answer in batch)
    return right


# The command, but on other slices of the data set than usual.
TRAIN_ON_SLICES = '''
from functools import partial
from transfer_cvd import cli, runs
runs.load_data = partial(runs.load_data, splits={splits})
cli.main()
'''


def train(folder: Path, name: str, flags: list[str], photos: int) -> dict:
    """The command once: seconds of its stages, what each epoch ended with, and the accuracies of the file it wrote."""
    code = TRAIN_ON_SLICES.format(splits=slices(photos))
    measured = in_process(sys.executable, '-c', code, 'train', '--data', DATA, '--base', BASE, *flags,
                          '--cache-dir', folder / 'cache', '--out', folder / name)
    report = json.loads((folder / name / 'report.json').read_text())
    with (folder / name / 'history.csv').open(newline='') as file:
        columns = 'epoch', 'seconds', 'val_accuracy'
        epochs = [{key: float(row[key]) for key in columns} for row in csv.DictReader(file)]
    features, counts = report['feature_extraction'], report['data']['counts']
    found = {'stages': report['seconds'], 'engine': report.get('engine'),
             'validation_features': features and features['accuracy'],
             'n': sum(sum(counts[split].values()) for split in ('train', 'validation'))}
    return found | in_new_process(accuracies, folder / name / 'model.keras', photos) | measured | {'history': epochs}


def ours(seed: int, size: Size, schedule: str, engine: str, again: bool = False) -> dict:
    """This project's way from an empty cache; `again`: and a second time with what is in the cache then."""
    flags = ['--schedule', schedule, '--backend', engine, '--seed', str(seed)]
    if schedule == 'tutorial':
        flags += ['--epochs', str(size.epochs), '--fine-tune-epochs', str(size.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        result = train(Path(folder), 'first', flags, size.photos)
        return result | {'again': train(Path(folder), 'second', flags, size.photos)} if again else result


def rate(work: Callable[[], int]) -> float:
    """Photos a second of something that returns how many it did."""
    started = time.perf_counter()
    n = work()
    return n / (time.perf_counter() - started)


def pass_rates(photos: int) -> dict:
    """Photos a second of the frozen pass, and of its halves alone: the engine on images in memory, and decoding."""
    import keras

    from transfer_cvd.base_model import base_model
    from transfer_cvd.data import load_data
    from transfer_cvd.features import store
    from transfer_cvd.networks.registry import BASES
    from transfer_cvd.networks.surgery import split_backbone

    data, base = load_data(DATA, batch_size=store.PASS_BATCH, splits=slices(photos)), base_model(BASE)
    features = keras.Model(base.input, keras.layers.GlobalAveragePooling2D()(base.output))
    lower, _ = split_backbone(base, BASES[BASE].fine_tune_from)
    decode = partial(data.batches, data.raw_train)
    images = [batch.numpy() for batch, _ in decode().take(40)]
    engine = store.choose_backend(keras.Model(base.input, [features.output, lower.output]), 'auto', images[0], photos)
    store.choose_backend = lambda *_: engine  # the pass is timed, not the choice
    engine.run(images[0])
    halves = {
        'engine_alone': lambda: sum(len(engine.run(batch)[0]) for batch in images),
        'decoding_alone': lambda: sum(len(labels) for _, labels in decode()),
    }
    before = [rate(work) for work in halves.values()]
    with tempfile.TemporaryDirectory() as folder:
        wanted = store.Wanted(features), store.Wanted(lower, 'float16')
        series, _ = data.series_of('train')
        whole = rate(lambda: len(store.Store(folder).keep(series, *wanted)[0].indices))
    after = [rate(work) for work in halves.values()]  # the means: what else runs on the machine may change
    rates = dict(zip(halves, map(mean, zip(before, after)))) | {'pass': whole}
    rates['possible'] = 1 / (1 / rates['engine_alone'] + 1 / rates['decoding_alone'])
    return {name: round(value, 1) for name, value in rates.items()} | {'engine': f'{engine.name}, {engine.precision}'}


def two_sizes(seed: int, size: Size, part: int, schedule: str, engine: str) -> dict:
    """A run on so small a part of the photos, and directly after it one on all of them."""
    few, all_of_them = (ours(seed, size._replace(photos=photos), schedule, engine)
                        for photos in (size.photos // part, size.photos))
    return {'few': few, 'all': all_of_them}


def make_train(seed: int, size: Size) -> dict:
    """`make train` twice, after all was installed, the first time with no activations kept."""
    subprocess.run(['make', '.venv/.train'], cwd=ROOT, check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ('TFDS_DATA_DIR', 'KERAS_HOME')}
    before = set((ROOT / 'runs').glob('*'))
    with tempfile.TemporaryDirectory() as cache:
        first, second = (in_process('make', 'train', cwd=ROOT, env=environment | {'XDG_CACHE_HOME': cache})
                         for _ in range(2))
    for folder in set((ROOT / 'runs').glob('*')) - before:
        shutil.rmtree(folder)
    return {'first_seconds': first['process_seconds'], 'second_seconds': second['process_seconds']}


RUNS = {
    'as written': as_written,
    'tutorial, [fast]': partial(ours, schedule='tutorial', engine='auto', again=True),
    'fast, [fast]': partial(ours, schedule='fast', engine='auto'),
    'tutorial, plain': partial(ours, schedule='tutorial', engine='tensorflow'),
    'fast, plain': partial(ours, schedule='fast', engine='tensorflow'),
    'frozen pass': lambda seed, size: in_new_process(pass_rates, size.photos),
    'memory, plain': partial(two_sizes, part=10, schedule='fast', engine='tensorflow'),
    'memory, openvino': partial(two_sizes, part=10, schedule='fast', engine='openvino'),
    'growth': partial(two_sizes, part=8, schedule='tutorial', engine='auto'),
    'make train': make_train,
}


def until_head(row: dict) -> float:
    """Seconds from photos to a trained head."""
    return row['stages']['data'] + row['stages']['feature_extraction']


def until_trained(row: dict) -> float:
    """Seconds from photos to a trained network: what comes later is testing and writing."""
    return sum(row['stages'].get(stage, 0) for stage in ('data', 'feature_extraction', 'fine_tuning'))


def epoch_lengths(row: dict) -> list[float]:
    """Seconds of each epoch of a run, validation included."""
    ends = [0.0] + [epoch['seconds'] for epoch in row['history']]
    return [end - start for start, end in zip(ends, ends[1:])]


def at_least(row: dict, stages: int) -> float:
    """Seconds of one stage or two of the tutorial as written, had each epoch been as short as its stage's shortest."""
    lengths, n = epoch_lengths(row), row['epochs']
    return n * sum(min(lengths[n * stage:n * (stage + 1)]) for stage in range(stages))


def of_a_photo(row: dict) -> float:
    """Milliseconds a photo, from the photos to the trained network."""
    return 1000 * until_trained(row) / row['n']


def of_a_photo_and_epoch(row: dict) -> float:
    """Milliseconds a photo in an epoch of fine-tuning: the median of all but its first, which builds the network."""
    lengths = epoch_lengths(row)
    return 1000 * median(lengths[len(lengths) // 2 + 1:]) / row['n']


class Comparison(NamedTuple):
    """A row of the table: what is measured on one run, over what is measured on another of the same seed."""

    row: str  # its name on the command line
    what: str
    goal: str
    over: tuple[str, Callable]
    under: tuple[str, Callable]
    unit: str = 's'
    least: Callable | None = None  # what the first would be at the least


HEAD, TRAINED = ('as written', until_head), ('as written', until_trained)
LEAST_HEAD, LEAST_TRAINED = partial(at_least, stages=1), partial(at_least, stages=2)
COMPARISONS = [
    Comparison('features', 'feature extraction, plain', 'at least 10',
               HEAD, ('tutorial, plain', until_head), least=LEAST_HEAD),
    Comparison('features', 'feature extraction, [fast]', 'at least 20',
               HEAD, ('tutorial, [fast]', until_head), least=LEAST_HEAD),
    Comparison('tutorial', 'whole tutorial schedule, plain', 'at least 3',
               TRAINED, ('tutorial, plain', until_trained), least=LEAST_TRAINED),
    Comparison('tutorial', 'whole tutorial schedule, [fast]', 'at least 4',
               TRAINED, ('tutorial, [fast]', until_trained), least=LEAST_TRAINED),
    Comparison('fast', 'as written : `--schedule fast`, plain', 'at least 12',
               TRAINED, ('fast, plain', until_trained), least=LEAST_TRAINED),
    Comparison('fast', 'as written : `--schedule fast`, [fast]', 'at least 20',
               TRAINED, ('fast, [fast]', until_trained), least=LEAST_TRAINED),
    Comparison('second', 'feature extraction, `train` a second time', 'at least 30', HEAD,
               ('tutorial, [fast]', lambda row: until_head(row['again'])), least=LEAST_HEAD),
    Comparison('pass', 'frozen pass : 1 / (1 / engine alone + 1 / decoding alone)', 'at least 0.9',
               ('frozen pass', lambda row: row['pass']), ('frozen pass', lambda row: row['possible']), 'photos/s'),
    *(Comparison('memory', f'peak memory, {{all}} photos : {{tenth}}, `--schedule fast`, {name} for both',
                 'at most 1.1, under 2 GB',
                 (run, lambda row: row['all']['peak_gigabytes']), (run, lambda row: row['few']['peak_gigabytes']), 'GB')
      for name, run in (('TensorFlow', 'memory, plain'), ('OpenVINO', 'memory, openvino'))),
    Comparison('growth', 'time per photo, {all} photos : {eighth}, [fast]', 'at most 1.1',
               ('growth', lambda row: of_a_photo(row['all'])), ('growth', lambda row: of_a_photo(row['few'])), 'ms'),
    Comparison('growth', 'time per photo in an epoch of fine-tuning, {all} photos : {eighth}', 'at most 1.1',
               ('growth', lambda row: of_a_photo_and_epoch(row['all'])),
               ('growth', lambda row: of_a_photo_and_epoch(row['few'])), 'ms'),
    Comparison('offline', 'offline `make train`, first time : second time', 'second under 120 s',
               ('make train', lambda row: row['first_seconds']), ('make train', lambda row: row['second_seconds'])),
]


def paired(rows: list[dict], comparison: Comparison) -> list[tuple[dict, dict]]:
    """Both runs for each seed that has both, from one kind of machine."""
    by_run = [{(row['seed'], row['processor']): row for row in rows if row['run'] == run}
              for run, _ in (comparison.over, comparison.under)]
    return [(by_run[0][same], by_run[1][same]) for same in by_run[0] if same in by_run[1]]


def ratio_line(comparison: Comparison, pairs: list[tuple[dict, dict]], what: str) -> str:
    """A line of the table: the median of the ratios, their range, and the medians of both sides."""
    sides = [[comparison.over[1](a) for a, _ in pairs], [comparison.under[1](b) for _, b in pairs]]
    ratios = [over / under for over, under in zip(*sides)]
    digits = 2 if comparison.unit == 'GB' else 1
    mark = '' if comparison.unit == 'GB' or all(row['alone'] for pair in pairs for row in pair) else '*'
    least = ''
    if comparison.least:
        least = f'{median(comparison.least(a) / under for (a, _), under in zip(pairs, sides[1])):.2f}'
    shown = ' | '.join(f'{median(values):,.{digits}f} {comparison.unit}' for values in sides)
    return (f'| {what} | {comparison.goal} | {median(ratios):.2f}{mark} | {min(ratios):.2f} to {max(ratios):.2f} '
            f'| {least} | {len(pairs)} | {shown} |')


def ratio_table(rows: list[dict], size: Size) -> list[str]:
    """A line for each comparison."""
    lines = ['| ratio, as written : ours where nothing else is said | goal | median | lowest to highest '
             '| at the least | runs | one side | other side |', '| --- ' * 8 + '|']
    sizes = {'all': f'{size.photos:,}', 'tenth': f'{size.photos // 10:,}', 'eighth': f'{size.photos // 8:,}'}
    for comparison in COMPARISONS:
        what = comparison.what.format(**sizes)
        pairs = paired(rows, comparison)
        not_run = f'| {what} | {comparison.goal} | not run | | | | | |'
        lines.append(ratio_line(comparison, pairs, what) if pairs else not_run)
    return lines


def predict_lines() -> list[str]:
    """A line for each exported file, from the table that exports.py wrote."""
    page = RESULTS / 'exports.md'
    text = page.read_text() if page.exists() else ''
    seconds = dict(re.findall(r'^\| (\w+) \|.*\| ([\d.]+) \|$', text, re.MULTILINE))
    return [f'| `predict` of one photo, cold, {name} : Keras (exports.md) | at most 0.2 '
            f'| {float(seconds[form]) / float(seconds["keras"]):.2f} | | | 1 '
            f'| {seconds[form]} s | {seconds["keras"]} s |'
            for form, name in (('litert', 'LiteRT'), ('onnx', 'ONNX')) if form in seconds]


def accuracy_table(rows: list[dict]) -> list[str]:
    """Means over the seeds, and how far each is from the tutorial as written, over the seeds that both have."""
    lines = ['| run | seeds | validation, features | validation, end | difference to as written '
             '| test | validation and test | difference to as written |',
             '| --- ' * 8 + '|']
    reference = {row['seed']: row for row in rows if row['run'] == 'as written'}
    for run in list(RUNS)[:5]:
        of_run = {row['seed']: row for row in rows if row['run'] == run}
        both = [seed for seed in of_run if seed in reference]
        if not of_run:
            continue
        end, whole = lambda row: row['validation'], lambda row: (row['validation'] + row['test']) / 2
        differences = ['', '']
        if both and run != 'as written':
            differences = [f'{mean(value(of_run[seed]) - value(reference[seed]) for seed in both):+.4f}'
                           for value in (end, whole)]
        features = [row['validation_features'] for row in of_run.values() if row['validation_features']]
        at_the_head = format(mean(features), '.4f') if features else ''
        test = mean(row['test'] for row in of_run.values())
        lines.append(f'| {run} | {len(of_run)} | {at_the_head} | {mean(map(end, of_run.values())):.4f} '
                     f'| {differences[0]} '
                     f'| {test:.4f} | {mean(map(whole, of_run.values())):.4f} | {differences[1]} |')
    return lines


def spread(rows: list[dict]) -> str:
    """How long epochs of the tutorial's first stage took, where they were measured."""
    lengths = [length for row in rows if row['run'] == 'as written' for length in epoch_lengths(row)[1:row['epochs']]]
    if not lengths:
        return ''
    return (' (on a machine that is shared with others, epochs of feature extraction took '
            f'from {min(lengths):.0f} to {max(lengths):.0f} s)')


def table(rows: list[dict], size: Size) -> str:
    """All results as a page of Markdown."""
    engines = sorted({row['engine'] for row in rows if isinstance(row.get('engine'), str)})
    ratios = ratio_table(rows, size)
    parts = [
        f'# The tutorial as written, and this project\n\n{conditions("openvino", "onnxruntime", rows=rows)}.\n',
        f'{DATA}, {size.photos:,} photos for training and an eighth of it each for validation and for testing, '
        f'{BASE} at 160 pixels; the tutorial\'s schedule is '
        f'{size.epochs} and {size.epochs} epochs, batches of 32, '
        'batch normalization of the unfrozen layers in training mode on both sides. '
        'Seconds are counted from the photos to the trained network, with ours from an empty cache, '
        'choosing and preparing the engine included, '
        'and leave out importing TensorFlow and testing on both sides. '
        'Each run has a process of its own; a ratio is one of two runs with the same seed. '
        '"At the least" is the median of what it would be had each epoch of the tutorial as written '
        f'been as short as the shortest of its stage{spread(rows)}; ours are taken as they were. '
        '"plain" is TensorFlow in the frozen pass, "[fast]" the engine chosen by `--engine auto`'
        f'{" (" + "; ".join(engines) + ")" if engines else ""}. '
        'Both sides reuse memory (`TF_CPU_ALLOCATOR_USE_BFC=1`).\n',
        *ratios, *predict_lines(),
    ]
    if any('* |' in line for line in ratios):
        parts.append('\n\\* Other work ran on the machine during some of these runs.')
    parts += ['\nAccuracies at the end, means over the seeds; there are as many validation as test photos. '
              'Goals: the tutorial\'s schedule within 0.005 on validation photos, '
              '`--schedule fast` within 0.002 on both together.\n', *accuracy_table(rows)]
    return '\n'.join(parts) + '\n'


def draw(rows: list[dict]) -> plt.Figure:
    """Validation accuracy over the seconds since the photos were first touched, a line for each run."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for number, run in enumerate(list(RUNS)[:5]):
        for i, row in enumerate(row for row in rows if row['run'] == run):
            points = [(epoch['seconds'], epoch['val_accuracy']) for epoch in row['history']]
            label = None if i else run if run == 'as written' else f'ours: {run}'
            axis.plot(*zip(*points), 'o-', color=f'C{number}', markersize=3, linewidth=1, alpha=0.7, label=label)
    axis.set(title='Validation accuracy against time', xscale='log',
             xlabel='seconds since the start', ylabel='validation accuracy')
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter('{x:,.0f}')
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend()
    figure.tight_layout()
    return figure


if __name__ == '__main__':
    names = list(dict.fromkeys(comparison.row for comparison in COMPARISONS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'by default all: {", ".join(names)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='a run of each kind for each')
    parser.add_argument('--photos', type=int, default=Size().photos, help='for training')
    parser.add_argument('--epochs', type=int, default=Size().epochs, help="of each stage of the tutorial's schedule")
    parser.add_argument('--results', type=Path, default=RESULTS, help='the folder for rows, table and picture')
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: mark the ratios of times')
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(names):
        parser.error(f'no row {", ".join(unknown)}: there are {", ".join(names)}')
    wanted = {run for comparison in COMPARISONS if comparison.row in (arguments.rows or names)
              for run, _ in (comparison.over, comparison.under)}
    os.environ.update(MEMORY)
    size, rows = Size(arguments.photos, arguments.epochs), Rows(arguments.results / 'compare.jsonl')
    for seed in arguments.seeds:
        for run in [run for run in RUNS if run in wanted]:
            rows.get({'run': run, 'seed': seed} | size._asdict(),
                     lambda: RUNS[run](seed, size) | {'alone': not arguments.not_alone})
            done = [row for row in rows.rows if all(row[name] == value for name, value in size._asdict().items())]
            page, figure = table(done, size), draw(done)
            (arguments.results / 'compare.md').write_text(page)
            figure.savefig(arguments.results / 'time_against_accuracy.png', dpi=120)
            plt.close(figure)
    print(page)
