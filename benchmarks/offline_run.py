"""The main job on the embedded default: seconds of the whole command, and accuracy on 2,000 further drawn pictures.

    python benchmarks/offline_run.py            # about 6 minutes a seed

The command is timed from the shell, data set already drawn, first with no activations kept from before, then with those
of the first time. The further pictures come from another seed than all pictures of the run.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from measuring import RESULTS, Rows, conditions
from transfer_cvd.data import load_data
from transfer_cvd.photos.catalogue import prepare
from transfer_cvd.evaluation.metrics import accuracy_interval
from transfer_cvd.inference.classifier import Classifier

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
COMMAND = 'from transfer_cvd.cli import main; main()'


def train(seed: int, folder: Path, name: str) -> float:
    """Train from the shell, with the activations that are kept in `folder`; return the seconds."""
    started = time.perf_counter()
    options = ['--seed', str(seed), '--cache-dir', folder / 'cache', '--out', folder / name]
    subprocess.run([sys.executable, '-c', COMMAND, 'train', *options], check=True)
    return round(time.perf_counter() - started, 1)


def run(seed: int) -> dict:
    """Train from the shell twice; test the model file on the further pictures."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place, 'run')
        seconds, again = train(seed, folder, 'run'), train(seed, folder, 'again')
        report = json.loads((out / 'report.json').read_text())
        classifier = Classifier.load(out / 'model.keras')
    data = load_data('drawn_pets/further')
    everything = replace(data, raw_test=data.raw_train.concatenate(data.raw_validation).concatenate(data.raw_test))
    found = classifier.evaluate(everything).results
    return {'seconds': seconds, 'again': again, 'right': round(found['accuracy'] * found['n']), 'n': found['n'],
            'validation_features': report['feature_extraction']['accuracy'],
            'validation_tuned': report['fine_tuning']['accuracy'],
            'test': report['test']['accuracy'], 'test_n': report['test']['n'], 'stages': report['seconds']}


def table(rows: list[dict]) -> str:
    """The runs as a page of Markdown."""
    lines = [f'# The main job, offline\n\n{conditions(rows=rows)}.\n\n'
             '`transfer_cvd train --offline` as a whole, on 2,000 drawn pictures '
             f'(1,600 for training), tested on {rows[0]["n"]:,} further ones. '
             'Seconds are given for runs that had the machine to themselves.\n',
             '| seed | whole command (s) | the second time (s) | validation, features | validation, fine-tuned '
             '| test | further pictures | 95% interval |', '| --- ' * 8 + '|']
    for row in rows:
        low, high = accuracy_interval(row['right'], row['n'])
        seconds = ' | '.join(f'{row[name]:.0f}' if row['alone'] and name in row else ''
                             for name in ('seconds', 'again'))
        lines.append(f'| {row["seed"]} | {seconds} '
                     f'| {row["validation_features"]:.3f} | {row["validation_tuned"]:.3f} | {row["test"]:.3f} '
                     f'| {row["right"] / row["n"]:.4f} | {low:.4f} to {high:.4f} |')
    page = '\n'.join(lines) + '\n'
    for row in [row for row in rows if row['alone']][:1]:
        stages = ', '.join(f'{name.replace("_", " ")} {seconds:.0f} s' for name, seconds in row['stages'].items())
        page += f'\nSeconds by stage (seed {row["seed"]}): {stages}; the rest is loading TensorFlow.\n'
    return page


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: leave the seconds out')
    arguments = parser.parse_args()
    prepare('drawn_pets')
    rows = Rows(RESULTS / 'offline_run.jsonl')
    for seed in arguments.seeds:
        rows.get({'seed': seed}, lambda: run(seed) | {'alone': not arguments.not_alone})
        page = table(rows.rows)
        (RESULTS / 'offline_run.md').write_text(page)
    print(page)
