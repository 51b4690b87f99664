"""The main job on the embedded default: seconds of the whole command, and accuracy on 2,000 further drawn pictures.

    python benchmarks/offline_run.py            # about 4 minutes a seed

The command is timed from the shell, data set already drawn. The further pictures come from another seed than all pictures of the run.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from measuring import RESULTS, Rows, conditions
from transfer_cvd.data import load_data, prepare
from transfer_cvd.predicting import accuracy_interval

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
COMMAND = 'from transfer_cvd.command_line import main; main()'


def run(seed: int) -> dict:
    """Train from the shell; test the model file on the further pictures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'run'
        started = time.perf_counter()
        subprocess.run([sys.executable, '-c', COMMAND, 'train', '--seed', str(seed), '--out', out], check=True)
        seconds = time.perf_counter() - started
        report = json.loads((out / 'report.json').read_text())
        model = keras.models.load_model(out / 'model.keras')
    data = load_data('drawn_pets/further')
    right = [int(np.argmax(model(image[None], training=False)) == label)
             for raw in (data.raw_train, data.raw_validation, data.raw_test) for image, label in raw]
    return {'seconds': round(seconds, 1), 'right': sum(right), 'n': len(right),
            'validation_features': report['feature_extraction']['accuracy'], 'validation_tuned': report['fine_tuning']['accuracy'],
            'test': report['test']['accuracy'], 'test_n': report['test']['n'], 'stages': report['seconds']}


def table(rows: list[dict]) -> str:
    """The runs as a page of Markdown."""
    lines = [f'# The main job, offline\n\n{conditions()}.\n\n`transfer_cvd train --offline` as a whole, on 2,000 drawn pictures '
             f'(1,600 for training), tested on {rows[0]["n"]:,} further ones. Seconds are given for runs that had the machine to themselves.\n',
             '| seed | whole command (s) | validation, features | validation, fine-tuned | test | further pictures | 95% interval |', '| --- ' * 7 + '|']
    for row in rows:
        low, high = accuracy_interval(row['right'], row['n'])
        seconds = f'{row["seconds"]:.0f}' if row['alone'] else ''
        lines.append(f'| {row["seed"]} | {seconds} | {row["validation_features"]:.3f} | {row["validation_tuned"]:.3f} | {row["test"]:.3f} '
                     f'| {row["right"] / row["n"]:.4f} | {low:.4f} to {high:.4f} |')
    page = '\n'.join(lines) + '\n'
    for row in [row for row in rows if row['alone']][:1]:
        stages = ', '.join(f'{name.replace("_", " ")} {seconds:.0f} s' for name, seconds in row['stages'].items())
        page += f'\nSeconds by stage (seed {row["seed"]}): {stages}; the rest is loading TensorFlow.\n'
    return page


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--not-alone', action='store_true', help='other work runs on this machine: leave the seconds out')
    arguments = parser.parse_args()
    prepare('drawn_pets')
    rows = Rows(RESULTS / 'offline_run.jsonl')
    for seed in arguments.seeds:
        rows.get({'seed': seed}, lambda: run(seed) | {'alone': not arguments.not_alone})
        page = table(rows.rows)
        (RESULTS / 'offline_run.md').write_text(page)
    print(page)
