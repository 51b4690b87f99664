"""Data sets of the catalogue that are grey, unsuitable or cannot be made; names that are also folders; lost photos."""
import os
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from transfer_cvd.photos.data import LostPhoto, reporting_lost_photos
from transfer_cvd.photos.catalogue import is_path, prepare
from transfer_cvd.data import load_data
from transfer_cvd.errors import InputError


class GreyDigits(tfds.core.GeneratorBasedBuilder):
    """Twenty pictures, each of one shade, in two classes; like `mnist`, which would have to be downloaded."""

    VERSION = tfds.core.Version('1.0.0')
    SHAPE, SPLIT = (28, 28, 1), 'train'

    def _info(self):
        features = tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=self.SHAPE),
            'label': tfds.features.ClassLabel(num_classes=2),
        })
        return tfds.core.DatasetInfo(
            builder=self, description='Shades.', features=features, supervised_keys=('image', 'label'))

    def _split_generators(self, dl_manager):
        return {self.SPLIT: self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            yield i, {'image': np.full(self.SHAPE, 10 * i, np.uint8), 'label': i % 2}


class FourChannels(GreyDigits):
    SHAPE = (28, 28, 4)


class AnyChannels(GreyDigits):
    SHAPE = (None, None, None)


class OnlyTested(GreyDigits):
    SPLIT = 'test'


class FetchedByHand(GreyDigits):
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Ask the owner.\nThen wait.'

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(dl_manager.manual_dir)}


class Fetched(GreyDigits):
    URL = ''

    def _split_generators(self, dl_manager):
        dl_manager.download(self.URL)


class NeedsMore(GreyDigits):
    def _split_generators(self, dl_manager):
        import no_such_package  # noqa: F401


@pytest.fixture
def catalogue(monkeypatch, tmp_path):
    """Data sets are made in an empty folder, which is returned."""
    folder = tmp_path / 'tfds'
    monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', str(folder))
    return folder


def refused(call, *arguments):
    """The one line with which the call refuses."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_grey_photos_have_three_channels(catalogue):
    data = load_data('grey_digits', image_size=32, batch_size=16)
    image_spec, _ = data.raw_train.element_spec
    assert (image_spec.shape.as_list(), image_spec.dtype) == ([28, 28, 3], tf.uint8)
    splits = data.raw_train, data.raw_validation, data.raw_test
    assert [len(split) for split in splits] == [16, 2, 2]
    for images in (image for split in splits for image, _ in split.as_numpy_iterator()):
        assert images.dtype == np.uint8 and (images == images[0, 0, 0]).all()
    images, labels = next(iter(data.train))
    assert images.shape == (16, 32, 32, 3) and set(labels.numpy()) == {0, 1}
    assert data.class_names == ['0', '1']


@pytest.mark.parametrize('name', ('four_channels', 'any_channels'))
def test_other_photos_are_refused_before_they_are_made(name, catalogue):
    assert f'{name} are given as Image(shape=' in refused(load_data, name)
    assert not catalogue.exists()


def test_a_data_set_without_the_split_train(catalogue):
    assert "only_tested has no split 'train', only test" in refused(load_data, 'only_tested')


def test_files_to_be_fetched_by_hand(catalogue):
    message = refused(prepare, 'fetched_by_hand')
    assert f'Manual directory {catalogue}/downloads/manual does not exist or is empty' in message
    assert 'see to that' in message


def test_a_package_that_is_missing(catalogue):
    assert "(No module named 'no_such_package')" in refused(prepare, 'needs_more')


def test_a_program_with_an_error_is_not_taken_for_wrong_input(catalogue, monkeypatch):
    monkeypatch.setattr(GreyDigits, '_split_generators', lambda self, dl_manager: {}['train'])
    with pytest.raises(KeyError):
        prepare('grey_digits')


class Breaking(BaseHTTPRequestHandler):
    """Answers /half with the first bytes of many, and anything else with 404."""

    def do_GET(self):
        self.send_response(200 if self.path == '/half' else 404)
        self.send_header('Content-Length', '1000000')
        self.end_headers()
        self.wfile.write(b'the beginning')

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize('path, reason', (('half', 'IncompleteRead'), ('nothing', '404')))
def test_a_download_that_breaks(path, reason, catalogue, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with HTTPServer(('127.0.0.1', 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(Fetched, 'URL', f'http://127.0.0.1:{server.server_port}/{path}')
        message = refused(prepare, 'fetched')
        server.shutdown()
    assert reason in message and 'run again' in message
    assert not list(catalogue.glob('fetched/*'))


@pytest.mark.parametrize('name, known', [
    ('drawn_pets/furthr', 'drawn_pets/further'),
    ('grey_digits/photos', 'grey_digits'),
    ('grey_digits/', 'grey_digits'),
])
def test_a_configuration_that_there_is_not(name, known, catalogue):
    said, _, hint = refused(prepare, name).partition(': ')
    assert said == f"there is no data set named '{name}'" and known in hint.rstrip('?').split()


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The working directory: it holds folders named like data sets."""
    for name in ('grey_digits/photos', 'drawn_pets/further'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'grey_digits/list.csv').touch()
    (tmp_path / 'fetched').touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('path', (
    './grey_digits', 'grey_digits/', 'grey_digits/photos', 'grey_digits/list.csv', 'grey_digits/none/',
    'grey_digits/none.csv', './drawn_pets/further', 'no/such/folder', '~/photos', Path('grey_digits'),
    Path('cats_vs_dogs'),
))
def test_what_is_a_path(path, here):
    assert is_path(path)


@pytest.mark.parametrize(
    'name', ('cats_vs_dogs', 'fetched', 'drawn_pets/default', 'grey_digits/none', 'cat_vs_dogs', ''))
def test_what_is_a_name(name, here):
    assert not is_path(name)


@pytest.mark.parametrize('name', ('grey_digits', 'drawn_pets', 'drawn_pets/further'))
def test_what_could_be_both(name, here):
    assert f'give ./{name} for the folder' in refused(is_path, name)


def test_the_command_line_asks_which_of_both(shell, here):
    code, _, errors = shell('train', '--offline', '--out', 'out')
    assert (code, len(errors)) == (2, 1) and './drawn_pets' in errors[0]
    code, _, errors = shell('train', '--offline', '--data', 'grey_digits/', '--out', 'out')
    assert (code, len(errors)) == (2, 1) and 'grey_digits has one class only, photos' in errors[0]


def lost(path, reason):
    return f'the photo {path} cannot be read any more ({reason}): put it back or remove it, then run again'


def goes_through(data):
    """Ways to go through the photos for validation, and those for training."""
    network = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    network.compile('sgd', 'binary_crossentropy')
    return (
        lambda: list(data.validation),
        lambda: list(data.raw_validation.as_numpy_iterator()),
        lambda: network.predict(data.validation, verbose=0),
        lambda: network.fit(data.validation, verbose=0),
    )


def assert_reported(call, message):
    with pytest.raises(LostPhoto) as error, reporting_lost_photos():
        call()
    assert str(error.value) == message


def test_a_photo_that_vanishes_is_named(pets, tmp_path):
    folder = tmp_path / 'pets'
    shutil.copytree(pets, folder)
    data = load_data(folder, image_size=32, batch_size=4)
    path = data.paths['validation'][-1]
    os.remove(path)
    for call in goes_through(data):
        assert_reported(call, lost(path, 'no such file or directory'))


def test_a_photo_with_an_odd_name(pets, tmp_path):
    folder, name = tmp_path / 'pets', 'kätzchen: 1\n' + os.fsdecode(b'\xff.jpg')
    shutil.copytree(pets, folder)
    (folder / 'cat/000.jpg').rename(folder / 'cat' / name)
    data = load_data(folder, image_size=32)
    (folder / 'cat' / name).write_text('no picture')
    everything, _ = data.series_of('train')
    expected = lost(rf'{folder}/cat/kätzchen: 1\n\xff.jpg', 'it is no picture of a known format')
    assert_reported(lambda: list(everything.raw), expected)


def test_a_photo_that_may_not_be_read_any_more(nobody):
    with tempfile.TemporaryDirectory() as folder:
        for i in range(12):
            path = Path(folder, 'ab'[i % 2], f'{i}.png')
            path.parent.mkdir(exist_ok=True)
            Image.new('RGB', (40, 40), (20 * i, 0, 0)).save(path)
        data = load_data(folder, image_size=32)
        path.chmod(0)
        everything, _ = data.series_of('train')
        assert_reported(lambda: list(everything.raw), lost(path, 'permission denied'))


OTHER_ERRORS = (
    tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating'),
    tf.errors.InvalidArgumentError(None, None, 'ValueError: no'),
    OSError('disk'),
    KeyError('key'),
)


@pytest.mark.parametrize('error', OTHER_ERRORS, ids=lambda error: type(error).__name__)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as raised, reporting_lost_photos():
        raise error
    assert raised.value is error
