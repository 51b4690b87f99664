"""A run that is killed, again and again, ends with the report of one that was not."""
import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.drawn_pets import draw_pet

COMMAND = 'from transfer_cvd.command_line import main; main()'
# The process ends itself when, in the stage that is named, something is about to be written for the nth time.
KILLED = '''
import os, signal, sys
stage, n = sys.argv[1], int(sys.argv[2]); del sys.argv[1:3]
import transfer_cvd.checkpoints as checkpoints, transfer_cvd.store as store

def killing(write, of_stage):
    calls = []
    def wrapped(*arguments):
        if of_stage(arguments[0]):
            calls.append(1)
            if len(calls) == n: os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments)
    return wrapped

store.Entry.write = killing(store.Entry.write, lambda entry: stage == 'pass')
checkpoints.write_checkpoint = killing(checkpoints.write_checkpoint, lambda path: path.stem == stage)
''' + COMMAND


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('resume')
    for i in range(600):
        path = folder / 'pets' / ('cat', 'dog')[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).resize((64, 64)).save(path)
    return folder


def train(folder, out, cache, *before, code=COMMAND, options=()):
    command = ['train', '--offline', '--data', 'pets', '--image-size', '64', '--epochs', '3', '--fine-tune-epochs', '3', '--schedule', 'tutorial',
               '--dropout', '0.2', '--tensorboard', '--cache-dir', cache, '--out', out]
    return subprocess.run([sys.executable, '-c', code, *before, *(options or command)], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'})


def results(folder, out):
    report = json.loads((folder / out / 'report.json').read_text())
    with (folder / out / 'history.csv').open(newline='') as file:
        history = [{name: value for name, value in row.items() if name != 'seconds'} for row in csv.DictReader(file)]
    return {name: value for name, value in report.items() if name != 'seconds'}, history


def test_a_run_killed_in_each_stage_ends_with_the_same_report(folder):
    whole = train(folder, 'whole', 'cache')
    assert whole.returncode == 0, whole.stderr
    for stage, n, said in (('pass', 4, ''), ('feature_extraction', 2, 'going on with the unfinished run'), ('fine_tuning', 3, 'after epoch 1 of 3')):
        killed = train(folder, 'killed', 'other cache', stage, str(n), code=KILLED)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert said in killed.stdout
        assert not (folder / 'killed').exists()
    other = train(folder, 'killed', 'other cache', options=['train', '--offline', '--seed', '1', '--out', 'killed'])
    assert other.returncode == 2 and 'with other settings' in other.stderr and 'seed 0 there, 1 here' in other.stderr
    resumed = train(folder, 'killed', '', options=['train', '--resume', 'killed'])
    assert resumed.returncode == 0, resumed.stderr
    assert 'going on after epoch 5 of 6' in resumed.stdout
    assert results(folder, 'killed') == results(folder, 'whole')
    assert {path.name for path in (folder / 'killed').iterdir()} == {path.name for path in (folder / 'whole').iterdir()}

    again = train(folder, 'killed', 'other cache')
    assert again.returncode == 2 and 'is in use' in again.stderr
    assert results(folder, 'killed') == results(folder, 'whole')


def test_ctrl_c_is_one_line_that_says_how_to_go_on(folder):
    code = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); ' + COMMAND  # it is ignored in a job in the background
    command = [sys.executable, '-c', code, 'train', '--offline', '--data', 'pets', '--cache-dir', 'third cache', '--out', 'stopped']
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert any(line.startswith('activations of 600 photos') for line in process.stderr)
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert last == 'transfer_cvd: stopped; the same command, or transfer_cvd train --resume stopped, goes on from here'
    assert (folder / 'stopped.unfinished/settings.json').exists() and not (folder / 'stopped').exists()


@pytest.mark.parametrize('options, said', [
    (['--resume', 'nothing'], 'there is no unfinished run for nothing'),
    (['--resume', 'nothing', '--seed', '1'], 'leave out --seed'),
    (['--schedule', 'quick'], "no schedule named 'quick'"),
    (['--activations', 'float8'], 'give float16 or float32'),
])
def test_what_cannot_be_is_one_line(tmp_path, options, said):
    tried = train(tmp_path, '', '', options=['train', '--offline', *options, '--out', 'out'] if '--resume' not in options else ['train', *options])
    assert tried.returncode == 2 and tried.stderr.count('\n') == 1 and said in tried.stderr
    assert not list(tmp_path.glob('out*'))
