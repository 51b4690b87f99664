"""A classifier from a folder of photos: seconds of a run, cross-validated accuracy, and memory at 20,000 photos.

    python benchmarks/own_photos.py FOLDER            # about ten minutes; goes on where it stopped

FOLDER has a sub-folder of photos for each class.
Needs the weights of the base model (KERAS_HOME), which are downloaded if they are not there.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import RESULTS, PeakMemory, Rows, conditions
from transfer_cvd.config import TrainConfig
from transfer_cvd.runs import run

BASE = 'mobilenet_v2'
KINDS = ('whole command', 'memory')
COMMAND = 'from transfer_cvd.cli import main; main()'


def whole_command(folder: Path, seed: int) -> dict:
    """`transfer_cvd train --data FOLDER`, from the shell and with nothing kept from before."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        subprocess.run([sys.executable, '-c', COMMAND, 'train', '--data', folder, '--base', BASE, '--seed', str(seed),
                        '--cache-dir', Path(place, 'cache'), '--out', Path(place, 'run')], check=True)
        seconds = time.perf_counter() - started
        report = json.loads(Path(place, 'run/report.json').read_text())
    crossed = report['cross_validation']
    return {'seconds': round(seconds, 1), 'accuracy': crossed['accuracy'], 'interval': crossed['interval'],
            'n': crossed['n'], 'stages': report['seconds']}


def memory(folder: Path, n: int) -> dict:
    """The peak of a run on `n` photos, which are links to those of the folder."""
    photos = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    with tempfile.TemporaryDirectory() as place, PeakMemory() as peak:
        for i in range(n):
            link = Path(place, 'photos', photos[i % len(photos)].parent.name, f'{i}{photos[i % len(photos)].suffix}')
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(photos[i % len(photos)].resolve(), link)
        Path(place, 'run').mkdir()
        run(TrainConfig(str(Path(place, 'photos')), base=BASE, fine_tune_epochs=1), Path(place, 'run'))
    return {'peak_gigabytes': round(peak.gigabytes, 2)}


def table(rows: list[dict]) -> str:
    """The measurements as a page of Markdown."""
    lines = [f'# Photos of one\'s own\n\n{conditions(rows=rows)}.\n\n'
             f'A folder of {rows[0]["photos"]} photos, {BASE} at 160 pixels, the defaults of `transfer_cvd train`. '
             'Seconds are given for measurements that had the machine to themselves.\n',
             '| measured | seed | result | seconds |', '| --- ' * 4 + '|']
    for row in sorted(rows, key=lambda row: (KINDS.index(row['what']), row['seed'])):
        if row['what'] == 'whole command':
            low, high = row['interval']
            result = (f'cross-validated accuracy {row["accuracy"]:.4f} (95% interval {low:.4f} to {high:.4f}), '
                      f'{row["n"]} photos')
        else:
            result = f'peak of {row["peak_gigabytes"]:.2f} GB of anonymous memory'
        seconds = format(row['seconds'], '.0f') if row['alone'] else ''
        lines.append(f'| {row["name"]} | {row["seed"]} | {result} | {seconds} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--many', type=int, default=20_000, help='photos for the peak of memory')
    parser.add_argument('--not-alone', action='store_true',
                        help='other work runs on this machine: leave the seconds out')
    arguments = parser.parse_args()
    rows, photos = Rows(RESULTS / 'own_photos.jsonl'), sum(path.is_file() for path in arguments.folder.rglob('*'))
    known = {'photos': photos, 'alone': not arguments.not_alone}
    for seed in (0, 1, 2):
        rows.get({'what': 'whole command', 'seed': seed},
                 lambda: whole_command(arguments.folder, seed) | known | {'name': 'the whole command'})
    name = f'a run on {arguments.many:,} photos (links to these)'
    rows.get({'what': 'memory', 'seed': 0}, lambda: memory(arguments.folder, arguments.many) | known | {'name': name})
    page = table(rows.rows)
    (RESULTS / 'own_photos.md').write_text(page)
    print(page)
