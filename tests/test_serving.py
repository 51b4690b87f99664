"""A classifier answers like the trained network, in memory and from its file, wherever and however it is called."""
import copy
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import joblib
import keras
import numpy as np
import pytest
import tensorflow as tf
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from transfer_cvd.inference import classifier as serving
from transfer_cvd.photos.preprocess import format_example
from transfer_cvd.data import load_data
from transfer_cvd.errors import InputError
from transfer_cvd.photos.images import read_photo
from transfer_cvd.photos.preprocess import format_photo
from transfer_cvd.inference.predictor import MEMBER, Predictor
from transfer_cvd.inference.classifier import TOLERANCE, Classifier, random_photos, serving_model
from transfer_cvd.networks.classifier import to_probabilities
from transfer_cvd.summary import predict_batches

PETS = ['cat', 'dog', 'bird']


def mobile_net():
    """Its first blocks, which have a layer of each of its kinds."""
    whole = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None)
    return keras.Model(whole.inputs[0], whole.get_layer('block_3_depthwise_relu').output)


def small_base():
    return keras.Sequential([
        keras.Input((96, 96, 3)),
        keras.layers.Conv2D(32, 5, strides=4),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
    ])


@pytest.fixture(
    scope='module', params=[(mobile_net, 1), (small_base, 3)], ids=['MobileNetV2, two classes', 'small, three classes'])
def network(request):
    """A base with a head as chapters 02 and 03 leave it: first layer frozen, batch norm trainable and adapted."""
    keras.utils.set_random_seed(0)
    make_base, n_logits = request.param
    base = make_base()
    base.layers[1].trainable = False
    model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(n_logits)])
    model.compile('rmsprop', 'mse')
    model.optimizer.build(model.trainable_variables)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # One batch in training mode then gives statistics with which the answers differ from photo to photo.
            layer.momentum = 0.0
    model(np.random.uniform(-1, 1, (8, 96, 96, 3)), training=True)
    return model


def names(network):
    return PETS[:max(2, network.output_shape[-1])]


def expected_probabilities(network, photos):
    """What training would make of the photos: chapter 00's formatting, then the network."""
    images = tf.stack([format_example(photo, 0, network.input_shape[1])[0] for photo in photos])
    return to_probabilities(network(images, training=False))


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
    """The file, and the weights and flags of the training network before. The new process checks more than usual."""
    before = [(variable.path, variable.trainable, variable.numpy()) for variable in network.variables]
    path = tmp_path_factory.mktemp('saved') / 'pets.keras'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, 'FRESH_PROCESS', STRICT)
        classifier = Classifier.from_network(network, names(network), facts={'seed': 3})
        difference = classifier.save(path, random_photos([(200, 300), (150, 97)]))
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
    assert about['image_size'] == 96 and about['facts'] == {'seed': 3}
    assert about['class_names'] == PETS[:len(about['class_names'])]


@pytest.fixture(scope='module')
def classifier(saved):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # Keras warns of an optimizer in the file
        return Classifier.load(saved[0])


@pytest.mark.parametrize('where', ['in memory', 'loaded'])
def test_every_call_agrees_and_changes_nothing(network, classifier, where):
    model = serving_model(network, names(network)) if where == 'in memory' else classifier.model
    before = model.get_weights()
    photos = np.array(random_photos([(123, 77)]))
    expected = expected_probabilities(network, photos)
    assert expected.shape == (1, len(names(network)))
    answers = [model(photos), model(photos, training=False), model(photos, training=True)]
    for answer in (*answers, model.predict(photos, verbose=0)):
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
    photos = np.stack(random_photos(40 * [(50, 60)]))
    answers = [list(answer.probabilities.values()) for answer in classifier.predict(photos)]
    assert difference(answers, expected_probabilities(network, photos)) <= TOLERANCE
    assert classifier.predict(photos[:0]) == []


def test_what_the_file_knows(network, classifier):
    assert (classifier.class_names, classifier.image_size, classifier.facts) == (names(network), 96, {'seed': 3})
    assert all(getattr(layer, 'optimizer', None) is None for layer in classifier.model.layers)


def tiny(*layers):
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(1)])


@pytest.mark.parametrize('wrong', [2e-5, np.nan])
def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch, wrong):
    (tmp_path / 'pets.keras').write_text('an older one')
    model = tiny()
    def wrong_probabilities(path, photos):
        return expected_probabilities(model, photos) + wrong

    monkeypatch.setattr(serving, 'fresh_probabilities', wrong_probabilities)
    with pytest.raises(RuntimeError, match='gives other probabilities'):
        Classifier.from_network(model, ['cat', 'dog']).save(tmp_path / 'pets.keras')
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('pets.keras', 'an older one')]


@keras.saving.register_keras_serializable('tests')
class Unknown(keras.layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs):
        return inputs


def test_a_file_that_others_cannot_open_is_not_kept(tmp_path):
    with pytest.raises(RuntimeError, match='a new process failed: .*Unknown') as error:
        Classifier.from_network(tiny(Unknown()), ['cat', 'dog']).save(tmp_path / 'pets.keras')
    assert '\n' not in str(error.value) and os.listdir(tmp_path) == []


def test_names_must_fit():
    with pytest.raises(ValueError, match='2 classes apart, but there are 3 names'):
        serving_model(tiny(), PETS)


@pytest.mark.parametrize('path, message', [
    ('model.h5', 'ends in .keras'),
    ('nowhere/model.keras', 'No such file or directory'),
])
def test_where_it_cannot_be_written(tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        Classifier.from_network(tiny(), ['cat', 'dog']).save(tmp_path / path)
    assert os.listdir(tmp_path) == []


def test_no_permission_to_write(nobody):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        message = rf'^cannot write {folder}/model.keras \(Permission denied\): choose another place$'
        with pytest.raises(InputError, match=message):
            Classifier.from_network(tiny(), ['cat', 'dog']).save(f'{folder}/model.keras')
        assert os.listdir(folder) == []


def with_member(source, target, name, content):
    """A copy of an archive with one more member."""
    shutil.copy(source, target)
    with zipfile.ZipFile(target, 'a') as archive:
        archive.writestr(name, content)


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
    about = json.dumps({'class_names': PETS, 'image_size': 32, 'facts': {}})
    with_member(tmp_path / 'other.keras', tmp_path / 'no probabilities.keras', MEMBER, about)
    Classifier.from_network(tiny(), PETS[:2]).model.save(tmp_path / 'two.keras')
    with_member(tmp_path / 'two.keras', tmp_path / 'three names.keras', MEMBER, about)
    for path in [*tmp_path.iterdir(), tmp_path / 'none.keras', tmp_path]:
        with pytest.raises(InputError) as error:
            Classifier.load(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_climbs_out_is_refused_and_writes_nothing(saved, tmp_path):
    folder = tmp_path / 'a' / 'b'
    folder.mkdir(parents=True)
    for name in ('../../climbed.txt', f'{tmp_path}/climbed.txt', 'assets/further.txt'):
        with_member(saved[0], folder / 'climbs.keras', name, 'here')
        with pytest.raises(InputError, match='is no classifier'):
            Classifier.load(folder / 'climbs.keras')
    assert [path.name for path in tmp_path.rglob('*')] == ['a', 'b', 'climbs.keras']


def test_a_lambda_layer_is_refused_and_not_run(tmp_path):
    mark = tmp_path / 'executed'
    layer = keras.layers.Lambda(lambda x, mark=str(mark): (open(mark, 'w').close(), x)[1], output_shape=(32, 32, 3))
    network = tiny(layer)
    mark.unlink(missing_ok=True)
    network.save(tmp_path / 'other.keras')
    about = json.dumps({'class_names': PETS[:2], 'image_size': 32, 'facts': {}})
    with_member(tmp_path / 'other.keras', tmp_path / 'lambda.keras', MEMBER, about)
    with pytest.raises(InputError, match='cannot be used .*lambda') as error:
        Classifier.load(tmp_path / 'lambda.keras')
    assert '\n' not in str(error.value) and not mark.exists()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Photos of two sizes, one of them unreadable."""
    folder = tmp_path_factory.mktemp('photos')
    for i, photo in enumerate(random_photos([(480, 640), (96, 96)])):
        Image.fromarray(photo).save(folder / f'{i}.png')
    (folder / 'text.jpg').write_text('this is no picture')
    shutil.copy(folder / '1.png', os.fsdecode(os.fsencode(folder) + b'/\xff.png'))
    return folder


def test_predictions(network, classifier, folder):
    answers = classifier.predict(folder)
    read = [os.path.basename(answer.path) for answer in answers]
    assert read == ['0.png', '1.png', 'text.jpg', os.fsdecode(b'\xff.png')]
    assert [bool(answer.error) for answer in answers] == [False, False, True, False]
    assert str(folder / 'text.jpg') in answers[2].error and answers[2].class_name is None
    pixels = [read_photo(folder / f'{i}.png', 96) for i in range(2)]
    for answer, expected in zip(answers, expected_probabilities(network, pixels)):
        assert difference(list(answer.probabilities.values()), expected) <= TOLERANCE
        assert list(answer.probabilities) == names(network)
        assert answer.class_name == names(network)[expected.argmax()]
        assert answer.probability == max(answer.probabilities.values())
        assert abs(classifier.predict(answer.path).probability - answer.probability) <= 1e-6


def test_the_working_directory_and_the_file_change_nothing(network, saved, folder, tmp_path, monkeypatch):
    """To 1e-6, between the classifier in memory and a copy of its file, opened by a relative path from elsewhere."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(saved[0], 'copy.keras')
    loaded = Classifier.load('copy.keras').predict(folder)
    for answer, again in zip(Classifier.from_network(network, names(network)).predict(folder), loaded):
        assert (answer.path, answer.error) == (again.path, again.error)
        if not answer.error:
            assert difference(list(answer.probabilities.values()), list(again.probabilities.values())) <= 1e-6


def test_the_graph_is_built_once(network, monkeypatch):
    """Whatever the sizes of photos and batches."""
    classifier, calls = Classifier.from_network(network, names(network)), []
    call = keras.Sequential.call

    def counted(self, *given, **named):
        calls.append(self)
        return call(self, *given, **named)

    monkeypatch.setattr(keras.Sequential, 'call', counted)
    for n, size in ((1, (30, 40)), (40, (41, 30)), (3, (300, 5))):
        classifier.predict(random_photos(n * [size]))
    assert [model for model in calls if model is classifier.network] == [classifier.network]


def odd_pictures():
    """Forty files: sizes, modes and orientations; name, content."""
    sizes = [(200, 150), (160, 160), (97, 33), (1, 1), (1, 700), (500, 375), (2000, 1500)]
    kinds = [
        ('L', 'PNG'), ('RGB', 'JPEG'), ('RGBA', 'PNG'), ('P', 'GIF'), ('CMYK', 'JPEG'),
        ('I;16', 'PNG'), ('1', 'TIFF'), ('LA', 'PNG'), ('RGB', 'WEBP'), ('RGB', 'BMP'),
    ]
    rng = np.random.default_rng(0)
    for i in range(40):
        (width, height), (mode, kind) = sizes[i % len(sizes)], kinds[i % len(kinds)]
        if mode == 'I;16':
            image = Image.fromarray(rng.integers(0, 2**16, (height, width), np.uint16))
        else:
            small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            image = small.resize((width, height), Image.Resampling.BICUBIC).convert(mode[:2] if mode == 'LA' else mode)
        exif = Image.Exif()
        exif[0x0112] = i % 8 + 1
        buffer = io.BytesIO()
        image.save(buffer, kind, **({'exif': exif} if kind in ('JPEG', 'PNG', 'WEBP', 'TIFF') else {}))
        yield f'{i:02}.{kind.lower()}', buffer.getvalue()


def test_one_way_in_training_prediction_and_the_file(network, classifier, tmp_path):
    for name, content in odd_pictures():
        (tmp_path / name).write_bytes(content)
    answers = classifier.predict(tmp_path)
    assert len(answers) == 40 and not any(answer.error for answer in answers)
    photos = [read_photo(answer.path, 96) for answer in answers]
    trained = tf.stack([format_example(photo, 0, 96)[0] for photo in photos])
    formatted = np.stack([format_photo(photo, 96) for photo in photos])
    assert np.array_equal(formatted, trained)
    features = keras.Model(network.inputs[0], network.layers[-2].output)
    assert difference(features(formatted, training=False), features(trained, training=False)) <= 1e-5
    expected = expected_probabilities(network, photos)
    assert difference([list(answer.probabilities.values()) for answer in answers], expected) <= TOLERANCE
    in_file = tf.function(classifier.model, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    assert difference(np.concatenate([in_file(photo[None]) for photo in photos]), expected) <= TOLERANCE


def test_large_jpegs_are_read_as_in_training(network, classifier, tmp_path):
    """At a reduced size, then resized like any other."""
    large = Image.fromarray(random_photos([(40, 60)])[0]).resize((1800, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / 'large.jpg')
    answer = classifier.predict(tmp_path / 'large.jpg')
    reduced = read_photo(tmp_path / 'large.jpg', 96)
    assert reduced.shape == (300, 450, 3)
    expected = expected_probabilities(network, [reduced])[0]
    assert difference(list(answer.probabilities.values()), expected) <= TOLERANCE


def test_an_explanation_names_the_answer(classifier, folder):
    answer, figure = classifier.predict(folder / '0.png'), classifier.explain(folder / '0.png')
    assert f'{answer.class_name}, {answer.probability:.3f}' in [axis.get_title() for axis in figure.axes]
    with pytest.raises(InputError, match='text.jpg'):
        classifier.explain(folder / 'text.jpg')


def test_evaluation_agrees_with_the_report_of_chapter_04(pets):
    keras.utils.set_random_seed(0)
    network = tiny(keras.layers.Conv2D(4, 3))
    data, classifier = load_data(pets, image_size=32), Classifier.from_network(network, PETS[:2])
    evaluation = classifier.evaluate(data)
    theirs, ours = predict_batches(network, data.test, data.class_names).results, evaluation.results
    folders = [os.path.basename(os.path.dirname(path)) for path in evaluation.paths]
    assert evaluation.paths == data.paths['test'] and folders == [PETS[i] for i in evaluation.labels]
    for key in ('n', 'confusion', 'accuracy', 'interval'):
        assert ours[key] == theirs[key]
    assert abs(ours['loss'] - theirs['loss']) < 1e-5


def test_paths_labels_and_probabilities_stay_together(pets):
    classifier = Classifier.from_network(tiny(), PETS[:2])
    evaluation = classifier.evaluate(pets)
    assert len(evaluation.paths) == 60 and len(set(evaluation.paths)) == 60
    for i in (0, 17, 59):
        assert os.path.basename(os.path.dirname(evaluation.paths[i])) == PETS[evaluation.labels[i]]
        alone = classifier.predict(evaluation.paths[i])
        assert difference(evaluation.probabilities[i], list(alone.probabilities.values())) <= 1e-6


def test_classes_that_the_classifier_does_not_know(pets):
    message = 'photos of dog, but the classifier knows bird, cat: give photos of these'
    with pytest.raises(InputError, match=message) as error:
        Classifier.from_network(tiny(), ['bird', 'cat']).evaluate(pets)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('wrong', [
    np.zeros((5, 5, 3)),
    np.zeros((5, 5, 2), np.uint8),
    np.zeros((0, 5, 3), np.uint8),
])
def test_arrays_that_are_no_photos(classifier, wrong):
    with pytest.raises(InputError, match='is no photo'):
        classifier.predict(wrong)


def test_it_travels_and_is_copied(classifier):
    photo = random_photos()[0]
    expected = classifier.predict(photo)
    for again in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        assert again.predict(photo) == expected
        assert (again.class_names, again.facts) == (classifier.class_names, classifier.facts)


def test_eight_threads_have_the_answers_of_one(classifier):
    photos = random_photos(16 * [(50, 60)])
    expected = [classifier.predict(photo) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classifier.predict, photos)) == expected


def by_spawned(predict, batches):
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:
        return list(pool.map(predict, batches))


def by_joblib(predict, batches):
    try:
        return joblib.Parallel(n_jobs=2)(joblib.delayed(predict)(batch) for batch in batches)
    finally:
        get_reusable_executor().shutdown()  # its processes would stay for minutes


@pytest.mark.parametrize('by_processes', [by_spawned, by_joblib])
def test_other_processes_have_the_same_answers(small_classifier, by_processes):
    batches = random_photos()[:2], random_photos()[2:]
    for answers, batch in zip(by_processes(small_classifier.predict, batches), batches, strict=True):
        for answer, expected in zip(answers, small_classifier.predict(batch), strict=True):
            assert answer.class_name == expected.class_name
            assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_its_text_is_one_readable_line(classifier):
    text = repr(classifier)
    assert text.startswith('Classifier of ') and '\n' not in text and len(text) < 200


def test_the_text_names_a_few_of_many_classes():
    text = repr(Predictor(None, [f'class\n{i}' for i in range(1000)], 160))
    assert text.startswith('Predictor of class\\n0, class') and text.endswith(' and 992 more at 160 x 160 pixels')
    assert repr(Predictor(None, list('abcdefgh'), 160)) == 'Predictor of a, b, c, d, e, f, g, h at 160 x 160 pixels'
