"""Runs killed at random moments, five in each of three stages, and begun again: is the report that of a whole run?

    python benchmarks/kills.py            # a quarter of an hour; goes on where it stopped

On 600 drawn pets of 64 pixels, with dropout, by the tutorial's schedule and the fast one in turn. In a random batch of
the stage a clock of random length is started, and then the process gets SIGKILL, whatever it is at. All figures of the
report count, times do not.
"""
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from measuring import RESULTS, Rows, conditions
from transfer_cvd.datasets.drawn_pets.drawing import draw_pet
from transfer_cvd.config import SCHEDULES

COMMAND = 'from transfer_cvd.cli import main; main()'
KILLED = '''
import os, signal, sys, threading
stage, n, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]); del sys.argv[1:4]
import transfer_cvd.features.store as store, transfer_cvd.training.fit as fit

begun = []

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def begin_batch(of_stage):
    begun.append(of_stage)
    if of_stage == stage and begun.count(stage) == n:
        threading.Timer(seconds, kill).start() if seconds else kill()

def counting(*arguments, choose=store.choose_backend):
    backend = choose(*arguments)
    return backend._replace(run=lambda photos: begin_batch('pass') or backend.run(photos))

store.choose_backend = counting
fit._AfterEachEpoch.on_train_batch_begin = lambda self, batch, logs=None: begin_batch(self.path.stem)
''' + COMMAND  # arguments: a stage, the number of a batch in it, and how many seconds after the beginning of this batch
STAGES = ('pass', 'feature_extraction', 'fine_tuning')
# one of so many is chosen; all others have 44
BATCHES = {('tutorial', 'pass'): 18, ('fast', 'pass'): 18, ('fast', 'fine_tuning'): 23}
LONGEST = 0.1  # seconds


def draw(folder: Path) -> None:
    """Six hundred pets, in sub-folders of `pets`."""
    for i in range(600):
        path = folder / 'pets' / ('cat', 'dog')[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).resize((64, 64)).save(path)


def command(*arguments: str, code: str = COMMAND, folder: Path) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, '-c', code, *arguments], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'})


def train(folder: Path, out: str, *killed: str, schedule: str = 'tutorial') -> subprocess.CompletedProcess:
    """Train on the pets; `killed` are the arguments of KILLED, if it is to be killed."""
    options = ['train', '--offline', '--data', 'pets', '--image-size', '64', '--epochs', '3', '--fine-tune-epochs', '3',
               '--schedule', schedule, '--dropout', '0.2', '--tensorboard',
               '--cache-dir', f'cache of {out}', '--out', out]
    return command(*killed, *options, code=KILLED if killed else COMMAND, folder=folder)


def results(folder: Path, out: str) -> tuple:
    """The report and the history without times."""
    report = json.loads((folder / out / 'report.json').read_text())
    with (folder / out / 'history.csv').open(newline='') as file:
        history = [{name: value for name, value in row.items() if name != 'seconds'} for row in csv.DictReader(file)]
    return {name: value for name, value in report.items() if name != 'seconds'}, history


def kill(folder: Path, stage: str, number: int) -> dict:
    """Kill a run once, begin it again, and compare."""
    rng, out, schedule = random.Random(f'{stage} {number}'), f'{stage} {number}', SCHEDULES[number % 2]
    n, seconds = rng.randint(1, BATCHES.get((schedule, stage), 44)), rng.uniform(0, LONGEST)
    killed = train(folder, out, stage, str(n), str(seconds), schedule=schedule)
    resumed = train(folder, out, schedule=schedule)
    printed = (resumed.stderr + resumed.stdout).splitlines()
    lines = [line.removeprefix('going on with ') for line in printed if line.startswith('going on with ')]
    said = ['the beginning of the stage'] + [line for line in lines if not line.startswith('the unfinished run')]
    return {'schedule': schedule, 'batch': n, 'clock': round(seconds, 3),
            'killed': killed.returncode == -signal.SIGKILL,
            'went on with': said[-1],
            'equal': resumed.returncode == 0 and results(folder, out) == results(folder, schedule)}


def table(rows: list[dict]) -> str:
    """The kills as a page of Markdown."""
    equal = sum(row['equal'] for row in rows if row['killed'])
    lines = [f'# Killed and begun again\n\n{conditions(rows=rows)}.\n\n`transfer_cvd train` on 600 drawn pets of '
             '64 pixels, three epochs in both stages, dropout 0.2. '
             f'{equal} of {sum(row["killed"] for row in rows)} killed runs ended with the report and the history '
             'of a run that was left alone.\n',
             '| schedule | stage | killed in batch | after (s) | went on with | report and history equal |',
             '| --- ' * 6 + '|']
    for row in rows:
        answer = ('yes' if row['equal'] else 'no') if row['killed'] else 'the run was over before'
        lines.append(f'| {row["schedule"]} | {row["stage"].replace("_", " ")} | {row["batch"]} | {row["clock"]} '
                     f'| {row["went on with"]} | {answer} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    found = Rows(RESULTS / 'kills.jsonl')
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place))
        for schedule in SCHEDULES:
            train(Path(place), schedule, schedule=schedule)
        for number in range(5):
            for stage in STAGES:
                found.get({'stage': stage, 'number': number}, lambda: kill(Path(place), stage, number))
                (RESULTS / 'kills.md').write_text(table(found.rows))
    print(table(found.rows))
