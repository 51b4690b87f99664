"""A folder of one's own: uneven classes, a burst, a broken file; trained without a word about epochs."""
import csv
import json
import shutil

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from transfer_cvd.photos.splits import group_numbers
from transfer_cvd.training.head import CS, choose_C, class_weights, cross_validate
from transfer_cvd.config import TrainConfig
from transfer_cvd.runs import run


def rows(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_the_burst_is_on_one_side(own_run):
    report = json.loads((own_run / 'report.json').read_text())
    groups = [[path.rsplit('/', 1)[1] for path in group] for group in report['near_duplicates']]
    assert groups == [['00-60.jpg', '00-80.jpg', '00.jpg']]
    burst = [row for row in rows(own_run / 'splits.csv') if '/cat/00' in row['path']]
    assert len(burst) == 3 and len({row['split'] for row in burst}) == 1
    assert sum(row['origin'].startswith('duplicate of ') for row in burst) == 2


def test_every_file_is_accounted_for(own_run, untidy):
    split, skipped = rows(own_run / 'splits.csv'), rows(own_run / 'skipped.csv')
    paths = sorted(str(path) for path in untidy.rglob('*') if path.is_file())
    assert sorted(row['path'] for row in split + skipped) == paths
    assert [row['path'].rsplit('/', 1)[1] for row in skipped] == ['cut.jpg', 'text.jpg']
    assert all(row['reason'] for row in skipped)
    counts = json.loads((own_run / 'report.json').read_text())['data']['counts']
    for name in ('train', 'validation', 'test'):
        assert sum(row['split'] == name for row in split) == sum(counts[name].values()) > 0


def test_few_photos_are_cross_validated(own_run):
    report = json.loads((own_run / 'report.json').read_text())
    measured = report['cross_validation']
    assert measured['n'] == 54 and measured['folds'] == 5
    low, high = measured['interval']
    assert low < measured['accuracy'] < high and measured['accuracy'] > 0.8


def test_one_burst_for_a_class(pets, tmp_path, caplog):
    """All dogs are shots of one burst: there is nothing to leave out, and it is said."""
    shutil.copytree(pets / 'cat', tmp_path / 'pets/cat')
    (tmp_path / 'pets/dog').mkdir()
    with Image.open(pets / 'dog/001.jpg') as photo:
        for quality in (60, 65, 70, 75, 80, 85):
            photo.save(tmp_path / f'pets/dog/{quality}.jpg', quality=quality)
    (tmp_path / 'out').mkdir()
    caplog.set_level('INFO', 'transfer_cvd')
    report = run(TrainConfig(str(tmp_path / 'pets'), fine_tune_epochs=0, image_size=64), tmp_path / 'out')
    assert 'no cross-validation: a class has photos of one group only' in caplog.text
    assert report.cross_validation is None and 'cross_validation' not in report.as_dict()
    assert 'too few for 3 splits' in caplog.text
    assert '1 of them in more than one split' in caplog.text and report.near_duplicates_apart == 1


def test_uneven_classes_are_weighed(own_run):
    weights = json.loads((own_run / 'report.json').read_text())['class_weights']
    assert weights['dog'] > 3 * weights['cat']


def test_equal_classes_are_not_weighed():
    assert class_weights(np.array([0, 1, 0, 1, 1])) is None
    assert class_weights(np.repeat([0, 1, 2], [8, 2, 4])) == {0: 14 / 24, 1: 14 / 6, 2: 14 / 12}


def test_the_head_is_the_one_that_scikit_learn_finds():
    """On features that no line separates, the chosen C is neither end, and predicts better than both."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = rng.normal(size=(200, 60)).astype(np.float32) + labels[:, None] * 0.3
    further = rng.normal(size=(2000, 60)).astype(np.float32) + (np.arange(2000) % 2)[:, None] * 0.3
    chosen = choose_C(features, labels, np.arange(200))
    assert chosen not in (CS[0], CS[-1])

    def loss(C):
        probabilities = LogisticRegression(C=C, max_iter=1000).fit(features, labels).predict_proba(further)
        return -np.log(probabilities[np.arange(2000), np.arange(2000) % 2]).mean()

    assert loss(chosen) < min(loss(CS[0]), loss(CS[-1]))


def test_a_rare_class_is_not_lost():
    rng = np.random.default_rng(0)
    labels = (np.arange(6000) >= 5996).astype(int)
    features = rng.normal(size=(6000, 5)).astype(np.float32) + 2 * labels[:, None]
    assert choose_C(features, labels, np.arange(6000)) in CS


def test_near_duplicates_do_not_vouch_for_each_other():
    """Labels that follow from nothing: cross-validation says chance if copies are kept together, more if torn apart."""
    rng = np.random.default_rng(1)
    shots, labels = rng.normal(size=(60, 30)), np.arange(60) % 2
    features = (np.repeat(shots, 5, axis=0) + rng.normal(scale=0.01, size=(300, 30))).astype(np.float32)
    groups = group_numbers(300, [list(range(i, i + 5)) for i in range(0, 300, 5)])
    honest = cross_validate(features, np.repeat(labels, 5), groups)['accuracy']
    leaking = cross_validate(features, np.repeat(labels, 5), np.arange(300))['accuracy']
    assert honest < 0.65 < leaking
