"""A run leaves its files, says what it did, and gives the same figures again."""
import csv
import json
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

from transfer_cvd.config import TrainConfig
from transfer_cvd.runs import run

# What a run on a folder leaves behind, and nothing else.
FILES = {'model.keras', 'report.json', 'report.html', 'history.csv', 'splits.csv', 'skipped.csv',
         'curves.png', 'confusion.png', 'mistakes.png'}


def test_files(finished_run):
    assert {path.name for path in finished_run.iterdir()} == FILES
    for name in ('confusion.png', 'curves.png', 'mistakes.png'):
        assert min(Image.open(finished_run / name).size) > 200


def test_report(finished_run, pets):
    report = json.loads((finished_run / 'report.json').read_text())
    assert report['class_names'] == ['cat', 'dog']
    assert report['data']['name'] == str(pets)
    assert sum(n for split in report['data']['counts'].values() for n in split.values()) == 60
    assert report['base'] == {'name': 'efficientnet_lite0', 'image_size': 160, 'weights': 'imagenet'}
    assert (report['feature_extraction']['epochs'], report['feature_extraction']['learning_rate']) == (5, 1e-4)
    assert (report['fine_tuning']['epochs'], report['fine_tuning']['learning_rate']) == (2, 1e-5)
    test = report['test']
    assert test['n'] == sum(report['data']['counts']['test'].values()) == np.sum(test['confusion'])
    assert test['accuracy'] == np.trace(test['confusion']) / test['n']
    assert set(test['recall']) == {'cat', 'dog'}
    assert 0 <= test['balanced_accuracy'] <= 1 and test['majority_baseline'] >= 0.5
    assert test['interval'][0] <= test['accuracy'] <= test['interval'][1]
    assert report['seed'] == 0 and report['skipped'] == []
    assert {'python', 'tensorflow', 'keras'} <= set(report['versions'])
    assert all(seconds >= 0 for seconds in report['seconds'].values())


def test_emoji_for_class_names(pets, tmp_path, recwarn):
    for name, emoji in (('cat', '\N{CAT FACE}'), ('dog', '\N{DOG FACE}')):
        shutil.copytree(pets / name, tmp_path / 'pets' / emoji)
    (tmp_path / 'run').mkdir()
    report = run(TrainConfig(str(tmp_path / 'pets'), fine_tune_epochs=0), tmp_path / 'run')
    assert report.class_names == ['\N{CAT FACE}', '\N{DOG FACE}']
    assert '\N{DOG FACE}' in (tmp_path / 'run/report.html').read_text(encoding='utf-8')
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]


def test_history_counts_epochs_on(finished_run):
    rows = list(csv.DictReader((finished_run / 'history.csv').open()))
    assert [int(row['epoch']) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row['stage'] for row in rows] == ['feature_extraction'] * 5 + ['fine_tuning'] * 2


def test_same_seed_same_report(finished_run, pets, tmp_path):
    """In a process of its own, as somebody who repeats the run would do it."""
    code = f'''
from pathlib import Path
from transfer_cvd.runs import TrainConfig, run
run(TrainConfig({str(pets)!r}, epochs=5, fine_tune_epochs=2, schedule='tutorial'), Path({str(tmp_path)!r}))
'''
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    reports = [json.loads((folder / 'report.json').read_text()) for folder in (finished_run, tmp_path)]
    for report in reports:
        del report['seconds']
    assert reports[0] == reports[1]
    histories = [[row | {'seconds': ''} for row in csv.DictReader((folder / 'history.csv').open())]
                 for folder in (finished_run, tmp_path)]
    assert histories[0] == histories[1]


def test_plain_keras_opens_the_model(finished_run, pets):
    """In a process that never imports this package."""
    code = f'''
import sys
import keras, numpy as np
model = keras.models.load_model({str(finished_run / 'model.keras')!r})
photos = np.random.default_rng(0).integers(0, 256, (2, 123, 77, 3), np.uint8)
probabilities = np.asarray(model(photos))
assert probabilities.shape == (2, 2) and np.allclose(probabilities.sum(1), 1, atol=1e-6)
assert not any(name.startswith('transfer_cvd') for name in sys.modules)
'''
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, cwd='/')
