"""Three classes instead of two: logits, losses, reports and files have a column for each."""
import json

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.all import Classifier, base_model, fine_tune, load_data, report, train_head
from transfer_cvd.features.store import Store


@pytest.fixture(scope='module')
def three(pets, tmp_path_factory):
    """Thirty cats, thirty dogs and eighteen tiles of one colour each."""
    folder = tmp_path_factory.mktemp('three') / 'three'
    folder.mkdir()
    for name in ('cat', 'dog'):
        (folder / name).symlink_to(pets / name)
    (folder / 'tile').mkdir()
    rng = np.random.default_rng(0)
    for i in range(18):
        Image.fromarray(np.full((90, 120, 3), rng.integers(0, 256, 3), np.uint8)).save(folder / f'tile/{i:02}.png')
    return folder


@pytest.fixture(scope='module')
def classifier(three, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'three'
    return Classifier.train(three, out, base='efficientnet_lite0', image_size=64, fine_tune_epochs=1), out


def test_the_report_counts_three_classes(classifier):
    trained, out = classifier
    test = json.loads((out / 'report.json').read_text())['test']
    assert trained.class_names == ['cat', 'dog', 'tile']
    assert np.shape(test['confusion']) == (3, 3) and np.sum(test['confusion']) == test['n'] > 5
    assert test['recall']['tile'] == 1.0  # nothing is easier to tell apart
    assert trained.report.fine_tuning['epochs'] == 1 and trained.network.output_shape == (None, 3)


def test_every_class_has_a_probability(classifier, three):
    trained, out = classifier
    answer = trained.predict(three / 'tile/00.png')
    assert answer.class_name == 'tile' and list(answer.probabilities) == ['cat', 'dog', 'tile']
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    again = Classifier.load(out / 'model.keras').predict(three / 'tile/00.png')
    assert again.probabilities == pytest.approx(answer.probabilities, abs=1e-5)
    titles = [axis.get_title() for axis in trained.explain(three / 'tile/00.png').axes]
    assert f'tile, {answer.probability:.3f}' in titles


def test_both_stages_by_epochs(three):
    """As the chapters train, with sparse labels in both."""
    store = Store.temporary(backend='tensorflow')
    data = load_data(three, image_size=64)
    model = train_head(base_model('efficientnet_lite0', 64), data, epochs=6, learning_rate=1e-2, verbose=0, store=store)
    losses = model.histories['feature_extraction']['loss']
    assert losses[-1] < losses[0]
    fine_tune(model, data, 'block_14_expand', epochs=1, verbose=0, store=store)
    assert model.output_shape == (None, 3) and model.loss.name == 'sparse_categorical_crossentropy'
    found = report(model, data)
    assert found.test['recall']['tile'] == 1.0 and np.isfinite(found.test['loss'])
