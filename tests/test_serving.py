"""The saved classifier answers like the trained network, wherever and however it is called, and changes nothing."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from transfer_cvd import serving
from transfer_cvd.offline import InputError
from transfer_cvd.photos import read_photo
from transfer_cvd.serving import (
    MEMBER, TOLERANCE, expected_probabilities, load_classifier, predict_photos, random_photos, save_classifier, serving_model,
)

PETS = ['cat', 'dog', 'bird']


def mobile_net():
    return keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None)


def small_base():
    return keras.Sequential([keras.Input((96, 96, 3)), keras.layers.Conv2D(32, 5, strides=4), keras.layers.BatchNormalization(), keras.layers.ReLU()])


@pytest.fixture(scope='module', params=[(mobile_net, 1), (small_base, 3)], ids=['MobileNetV2, two classes', 'small, three classes'])
def network(request):
    """A base with a head as chapters 02 and 03 leave it: its first layer frozen, batch norm trainable, with statistics of its own."""
    keras.utils.set_random_seed(0)
    make_base, n_logits = request.param
    base = make_base()
    base.layers[1].trainable = False
    model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(n_logits)])
    model.compile('rmsprop', 'mse')
    model.optimizer.build(model.trainable_variables)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one batch in training mode then gives statistics with which the answers differ from photo to photo
    model(np.random.uniform(-1, 1, (8, 96, 96, 3)), training=True)
    return model


def names(network):
    return PETS[:max(2, network.output_shape[-1])]


def difference(answer, expected):
    return np.abs(keras.ops.convert_to_numpy(answer) - expected).max()


STRICT = serving.FRESH_PROCESS + '''
for name, answer in zip(photos.files, answers):
    for again in model(photos[name][None], training=False), model.predict(photos[name][None], verbose=0):
        assert np.abs(keras.ops.convert_to_numpy(again) - answer).max() <= 1e-5
assert not any(name.startswith('transfer_cvd') for name in sys.modules)
'''


@pytest.fixture(scope='module')
def saved(network, tmp_path_factory):
    """The file, and the training network's weights and flags before it was saved. The new process checks a little more than usual."""
    before = [(variable.path, variable.trainable, variable.numpy()) for variable in network.variables]
    path = tmp_path_factory.mktemp('saved') / 'pets.keras'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, 'FRESH_PROCESS', STRICT)
        difference = save_classifier(network, names(network), path, facts={'seed': 3}, photos=random_photos([(200, 300), (150, 97)]))
    assert 0 <= difference <= TOLERANCE
    return path, before


def test_the_training_network_stays_as_it_was(network, saved):
    assert len(saved[1]) == len(network.variables)
    for variable, (path, trainable, value) in zip(network.variables, saved[1]):
        assert (variable.path, variable.trainable) == (path, trainable)
        assert np.array_equal(variable.numpy(), value)
    assert network.optimizer is not None and len(network.trainable_variables) > 3


def test_only_the_file_is_left(saved):
    assert os.listdir(saved[0].parent) == ['pets.keras']
    about = json.loads(zipfile.ZipFile(saved[0]).read(MEMBER))
    assert about['image_size'] == 96 and about['facts'] == {'seed': 3} and about['class_names'] == PETS[:len(about['class_names'])]


@pytest.fixture(scope='module')
def classifier(saved):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # Keras warns of an optimizer in the file
        return load_classifier(saved[0])


@pytest.mark.parametrize('where', ['in memory', 'loaded'])
def test_every_call_agrees_and_changes_nothing(network, classifier, where):
    model = serving_model(network, names(network)) if where == 'in memory' else classifier.model
    before = model.get_weights()
    photos = np.array(random_photos([(123, 77)]))
    expected = expected_probabilities(network, photos)
    assert expected.shape == (1, len(names(network)))
    for answer in (model(photos), model(photos, training=False), model(photos, training=True), model.predict(photos, verbose=0)):
        assert difference(answer, expected) <= TOLERANCE
    assert all(np.array_equal(was, now) for was, now in zip(before, model.get_weights()))
    assert model.trainable_variables == []


def test_answers_differ_from_photo_to_photo(network):
    """Else the comparisons here would prove nothing."""
    photos = [np.asarray(Image.effect_noise((200, 150), sigma).convert('RGB')) for sigma in (1, 200)]
    probabilities = expected_probabilities(network, [*photos, *random_photos()])
    assert np.ptp(probabilities, axis=0).max() > 100 * TOLERANCE
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_batch_answers_like_its_photos(network, classifier):
    photos = np.stack(random_photos(3 * [(50, 60)]))
    assert difference(classifier.probabilities(photos), expected_probabilities(network, photos)) <= TOLERANCE
    assert classifier.probabilities(photos[:0]).shape == (0, len(classifier.class_names))


def test_what_the_file_knows(network, classifier):
    assert (classifier.class_names, classifier.image_size, classifier.facts) == (names(network), 96, {'seed': 3})
    assert all(getattr(layer, 'optimizer', None) is None for layer in classifier.model.layers)


def tiny(*layers):
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(1)])


@pytest.mark.parametrize('wrong', [2e-5, np.nan])
def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch, wrong):
    (tmp_path / 'pets.keras').write_text('an older one')
    model = tiny()
    monkeypatch.setattr(serving, 'fresh_probabilities', lambda path, photos: expected_probabilities(model, photos) + wrong)
    with pytest.raises(RuntimeError, match='gives other probabilities'):
        save_classifier(model, ['cat', 'dog'], tmp_path / 'pets.keras')
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('pets.keras', 'an older one')]


@keras.saving.register_keras_serializable('tests')
class Unknown(keras.layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs):
        return inputs


def test_a_file_that_others_cannot_open_is_not_kept(tmp_path):
    with pytest.raises(RuntimeError, match='a new process cannot use the model file: .*Unknown') as error:
        save_classifier(tiny(Unknown()), ['cat', 'dog'], tmp_path / 'pets.keras')
    assert '\n' not in str(error.value) and os.listdir(tmp_path) == []


def test_names_must_fit():
    with pytest.raises(ValueError, match='2 classes apart, but there are 3 names'):
        serving_model(tiny(), PETS)


@pytest.mark.parametrize('path, message', [('model.h5', 'ends in .keras'), ('nowhere/model.keras', 'No such file or directory')])
def test_where_it_cannot_be_written(tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        save_classifier(tiny(), ['cat', 'dog'], tmp_path / path)
    assert os.listdir(tmp_path) == []


def test_no_permission_to_write():
    """Tried as a user without the permission; root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        code = f'''
import os, keras
from transfer_cvd.serving import InputError, save_classifier
model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    save_classifier(model, ['cat', 'dog'], {folder!r} + '/model.keras')
except InputError as error:
    print(error)
'''
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert done.stdout == f'cannot write a model to {folder} (Permission denied): choose another place\n', done.stderr
        assert os.listdir(folder) == []


def test_files_that_are_no_classifier(saved, tmp_path):
    whole = saved[0].read_bytes()
    (tmp_path / 'text.keras').write_text('no model')
    (tmp_path / 'empty.keras').touch()
    tiny().save(tmp_path / 'other.keras')
    for tenth in range(1, 10):
        (tmp_path / f'cut{tenth}.keras').write_bytes(whole[:len(whole) * tenth // 10])
    with zipfile.ZipFile(saved[0]) as archive, zipfile.ZipFile(tmp_path / 'no weights.keras', 'w') as less:
        for name in archive.namelist():
            if name != 'model.weights.h5':
                less.writestr(name, archive.read(name))
    with zipfile.ZipFile(tmp_path / 'json.keras', 'w') as archive:
        archive.writestr(MEMBER, '[]')
    lambda_layer = tiny(keras.layers.Lambda(lambda x: x))
    lambda_layer.save(tmp_path / 'lambda.keras')
    with zipfile.ZipFile(tmp_path / 'lambda.keras', 'a') as archive:
        archive.writestr(MEMBER, zipfile.ZipFile(saved[0]).read(MEMBER))
    for path in [*tmp_path.iterdir(), tmp_path / 'none.keras', tmp_path]:
        with pytest.raises(InputError) as error:
            load_classifier(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_predictions(network, classifier, tmp_path):
    pixels = random_photos([(480, 640), (96, 96)])
    for i, photo in enumerate(pixels):
        Image.fromarray(photo).save(tmp_path / f'{i}.png')
    (tmp_path / 'text.jpg').write_text('this is no picture')
    odd = os.fsdecode(os.fsencode(tmp_path) + b'/\xff.png')
    shutil.copy(tmp_path / '1.png', odd)
    answers = predict_photos(classifier, [tmp_path / '0.png', tmp_path / 'text.jpg', tmp_path / '1.png', odd])
    assert [answer.path for answer in answers] == [tmp_path / '0.png', tmp_path / 'text.jpg', tmp_path / '1.png', odd]
    assert [bool(answer.error) for answer in answers] == [False, True, False, False]
    assert str(tmp_path / 'text.jpg') in answers[1].error and answers[1].class_name is None
    for answer, expected in zip([answers[0], answers[2]], expected_probabilities(network, pixels)):
        assert difference(list(answer.probabilities.values()), expected) <= TOLERANCE
        assert list(answer.probabilities) == names(network)
        assert answer.class_name == names(network)[expected.argmax()] and answer.probability == max(answer.probabilities.values())


def test_large_jpegs_are_read_as_in_training(network, classifier, tmp_path):
    """At a reduced size, then resized like any other."""
    large = Image.fromarray(random_photos([(40, 60)])[0]).resize((1800, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / 'large.jpg')
    answer, = predict_photos(classifier, [tmp_path / 'large.jpg'])
    reduced = read_photo(tmp_path / 'large.jpg', 96)
    assert reduced.shape == (300, 450, 3)
    expected = expected_probabilities(network, [reduced])[0]
    assert difference(list(answer.probabilities.values()), expected) <= TOLERANCE
