"""A folder of one's own: uneven classes, a burst, a broken file; trained without a word about epochs."""
import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from transfer_cvd.base_model import base_model
from transfer_cvd.config import TrainConfig
from transfer_cvd.features.store import Store
from transfer_cvd.photos.splits import group_numbers
from transfer_cvd.runs import Stopwatch, needs_splits, read_own_photos, run
from transfer_cvd.training.head import CS, choose_C, class_weights, cross_validate


def rows(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_all_photos_train_and_the_burst_is_known(own_run):
    report = json.loads((own_run / 'report.json').read_text())
    groups = [[path.rsplit('/', 1)[1] for path in group] for group in report['near_duplicates']]
    assert groups == [['00-60.jpg', '00-80.jpg', '00.jpg']]
    assert {(row['split'], row['origin']) for row in rows(own_run / 'splits.csv')} == {('train', 'all train')}
    assert report['fine_tuning'] is None and report['feature_extraction']['penalty'] > 0


@pytest.fixture(scope='module')
def apart(untidy):
    """The photos as they are read where some are set aside for the test."""
    config = TrainConfig(str(untidy), fine_tune_epochs=0, test_share=0.2)
    return read_own_photos(config, base_model('efficientnet_lite0'), Store.temporary(), None, Stopwatch())


def test_with_a_test_share_the_burst_is_on_one_side(apart):
    found = apart.data.photos
    burst = [i for i, path in enumerate(found.paths) if '/cat/00' in path]
    assert len(burst) == 3 and len({found.splits[i] for i in burst}) == 1
    assert sum(found.origin[i].startswith('duplicate of ') for i in burst) == 2
    assert not apart.all_train and all(sum(of_class.values()) for of_class in found.counts.values())


def test_with_splits_few_photos_are_cross_validated_as_well(apart):
    assert apart.crossed.probabilities.shape == (54, 2)
    assert (apart.crossed.probabilities.argmax(axis=1) == apart.data.photos.labels).mean() > 0.8


@pytest.mark.parametrize('options, given, n, expected', [
    ({}, '', 1999, False), ({}, '', 2000, True), ({}, 'test', 50, True), ({'test_share': 0.1}, '', 50, True),
    ({'epochs': 3}, '', 50, True), ({'fine_tune_epochs': 0}, '', 50, False), ({'fine_tune_epochs': 2}, '', 50, True),
    ({'augment': 'flip'}, '', 50, True), ({'dropout': 0.1}, '', 50, True),
])
def test_photos_are_set_aside_where_that_is_asked_for_or_easily_spared(options, given, n, expected):
    found = SimpleNamespace(given=[given] * n, paths=['photo.jpg'] * n)
    assert needs_splits(TrainConfig(**options), found) is expected


def test_every_file_is_accounted_for(own_run, untidy):
    split, skipped = rows(own_run / 'splits.csv'), rows(own_run / 'skipped.csv')
    paths = sorted(str(path) for path in untidy.rglob('*') if path.is_file())
    assert sorted(row['path'] for row in split + skipped) == paths
    assert [row['path'].rsplit('/', 1)[1] for row in skipped] == ['cut.jpg', 'text.jpg']
    assert all(row['reason'] for row in skipped)
    counts = json.loads((own_run / 'report.json').read_text())['data']['counts']
    assert {name: sum(of_class.values()) for name, of_class in counts.items()} == {
        'train': len(split), 'validation': 0, 'test': 0}


def test_the_figures_are_cross_validated(own_run):
    report = json.loads((own_run / 'report.json').read_text())
    crossed, test = report['cross_validation'], report['test']
    assert crossed['n'] == test['n'] == 54 and crossed['folds'] == 10
    low, high = crossed['interval']
    assert low < crossed['accuracy'] < high and crossed['accuracy'] == test['accuracy'] > 0.8
    assert [sum(row) for row in test['confusion']] == [*report['data']['counts']['train'].values()]
    page = (own_run / 'report.html').read_text()
    assert 'by one of 10 heads that had not seen it' in page and 'test photos' not in page
    assert 'cross-validated accuracy' in (own_run.parent / 'said.txt').read_text()


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
    labels = np.repeat(labels, 5)
    honest, leaking = ((cross_validate(features, labels, kept_together).probabilities.argmax(axis=1) == labels).mean()
                       for kept_together in (groups, np.arange(300)))
    assert honest < 0.65 < leaking
