"""A run killed at random moments, five in each of three stages, and begun again: is its report that of a run that was left alone?

    python benchmarks/kills.py            # about twenty minutes; goes on where it stopped

On 600 drawn pets of 64 pixels, with dropout, by the tutorial's schedule and the fast one in turn. After a random number of writes
of the stage (blocks of activations, or checkpoints) a clock of random length runs, and then the process gets SIGKILL, whatever it
is at. All figures of the report count, times do not.
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
from transfer_cvd.drawn_pets import draw_pet
from transfer_cvd.schedules import SCHEDULES

COMMAND = 'from transfer_cvd.command_line import main; main()'
KILLED = '''
import os, signal, sys, threading
stage, n, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]); del sys.argv[1:4]
import transfer_cvd.checkpoints as checkpoints, transfer_cvd.store as store

def killing(write, of_stage):
    calls = []
    def wrapped(*arguments):
        calls.append(of_stage(arguments[0]))
        if calls[-1] and sum(calls) == n:
            if not seconds: os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return write(*arguments)
    return wrapped

store.Entry.write = killing(store.Entry.write, lambda entry: stage == 'pass')
checkpoints.write_checkpoint = killing(checkpoints.write_checkpoint, lambda path: path.stem == stage)
''' + COMMAND  # arguments: a stage; when it is about to write for which time; how many seconds after that
WRITES = {'pass': 5, 'feature_extraction': 3, 'fine_tuning': 3}  # of these, one is chosen
SECONDS = {'pass': 1.5, 'feature_extraction': 0.6, 'fine_tuning': 5.0}  # the longest a clock runs


def draw(folder: Path) -> None:
    """Six hundred pets, in sub-folders of `pets`."""
    for i in range(600):
        path = folder / 'pets' / ('cat', 'dog')[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).resize((64, 64)).save(path)


def command(*arguments: str, code: str = COMMAND, folder: Path) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, '-c', code, *arguments], cwd=folder, capture_output=True, text=True, env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'})


def train(folder: Path, out: str, *killed: str, schedule: str = 'tutorial') -> subprocess.CompletedProcess:
    """Train on the pets; `killed` are the arguments of KILLED, if it is to be killed."""
    options = ['train', '--offline', '--data', 'pets', '--image-size', '64', '--epochs', '3', '--fine-tune-epochs', '3', '--schedule', schedule,
               '--dropout', '0.2', '--tensorboard', '--cache-dir', f'cache of {out}', '--out', out]
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
    n, seconds = rng.randint(1, WRITES[stage]), rng.uniform(0, SECONDS[stage])
    killed = train(folder, out, stage, str(n), str(seconds), schedule=schedule)
    resumed = train(folder, out, schedule=schedule)
    return {'schedule': schedule, 'write': n, 'clock': round(seconds, 2), 'killed': killed.returncode == -signal.SIGKILL,
            'equal': resumed.returncode == 0 and results(folder, out) == results(folder, schedule)}


def table(rows: list[dict]) -> str:
    """The kills as a page of Markdown."""
    equal = sum(row['equal'] for row in rows if row['killed'])
    lines = [f'# Killed and begun again\n\n{conditions(rows=rows)}.\n\n`transfer_cvd train` on 600 drawn pets of 64 pixels, three epochs in both stages, dropout 0.2. '
             f'{equal} of {sum(row["killed"] for row in rows)} killed runs ended with the report and the history of a run that was left alone.\n',
             '| schedule | stage | killed after write | and seconds | report and history equal |', '| --- ' * 5 + '|']
    for row in rows:
        answer = ('yes' if row['equal'] else 'no') if row['killed'] else 'the run was over before'
        lines.append(f'| {row["schedule"]} | {row["stage"].replace("_", " ")} | {row["write"]} | {row["clock"]} | {answer} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    found = Rows(RESULTS / 'kills.jsonl')
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place))
        for schedule in SCHEDULES:
            train(Path(place), schedule, schedule=schedule)
        for number in range(5):
            for stage in WRITES:
                found.get({'stage': stage, 'number': number}, lambda: kill(Path(place), stage, number))
                (RESULTS / 'kills.md').write_text(table(found.rows))
    print(table(found.rows))
