"""Exports answer like the original and run without TensorFlow where they can; another file is refused in one line."""
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from transfer_cvd.inference import exports
from transfer_cvd.inference.exports import FORMATS, READERS, export_classifier, load_exported, open_classifier
from transfer_cvd.errors import InputError

RUN_ALONE = '''
import sys
from transfer_cvd.inference.exports import open_classifier
answers = open_classifier(sys.argv[1]).predict(sys.argv[2])
packages = {name.split('.')[0] for name in sys.modules}
loaded = sorted(packages & {'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib'})
print(len(answers), [answer.class_name for answer in answers if answer.class_name not in ('cat', 'dog')], loaded)
'''

COMMAND = '''
import atexit, sys
from transfer_cvd.cli import main
atexit.register(lambda: print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules))))
main()
'''


@pytest.fixture(scope='module')
def written(small_classifier, pets, no_runtime, tmp_path_factory):
    """The folder with an export in each format, and what was said of each."""
    folder = tmp_path_factory.mktemp('exports')
    data = {'onnx': None, 'openvino': pets / 'cat'}
    made = {}
    for format in FORMATS:
        options = {'runtime': no_runtime} if format == 'web' else {}
        made[format] = export_classifier(small_classifier, format, folder / format, data.get(format, pets), **options)
    return folder, made


def probabilities(answer):
    return np.array(list(answer.probabilities.values()))


def test_what_is_written_and_said(written):
    folder, made = written
    assert sorted(os.listdir(folder)) == [
        'litert.tflite', 'litert_float16.tflite', 'litert_int8.tflite', 'onnx.onnx',
        'openvino.bin', 'openvino.xml', 'saved_model', 'web',
    ]
    assert {export.n for export in made.values()} == {60, 30, 100}
    assert made['onnx'].source == 'drawn pictures' and made['openvino'].source.endswith('pets/cat')
    assert (made['openvino'].accuracy, made['onnx'].accuracy) == (None, made['onnx'].original_accuracy)
    assert made['saved_model'].n == 60 and made['litert_int8'].n == 30
    assert made['saved_model'].accuracy == made['saved_model'].original_accuracy
    assert made['openvino'].bytes == sum((folder / f'openvino.{kind}').stat().st_size for kind in ('xml', 'bin'))
    for export in made.values():
        assert export.difference <= {'litert_int8': 0.1, 'litert_float16': 1e-2}.get(export.format, 1e-5)
        assert re.search(r'on \d+ photos \(.*\) probabilities differ by at most', str(export))


def test_each_is_used_like_the_original(written, small_classifier, pets):
    expected = [probabilities(answer) for answer in small_classifier.predict(pets)]
    for export in written[1].values():
        loaded = open_classifier(export.path)
        assert (loaded.class_names, loaded.image_size, loaded.facts) == (['cat', 'dog'], 64, {'seed': 3})
        found = [probabilities(answer) for answer in loaded.predict(pets)]
        assert np.abs(np.array(found) - expected).max() <= max(2 * export.difference, 1e-5)
        assert loaded.evaluate(pets).results['n'] == 60


@pytest.mark.parametrize('format', FORMATS)
def test_many_threads_get_the_answers_of_one(written, format):
    loaded = open_classifier(written[1][format].path)
    photos = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    alone = [probabilities(loaded.predict(photo)) for photo in photos]
    assert np.ptp(alone, axis=0).max() > 1e-3  # else an answer to another's photo would not be noticed
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda turn: probabilities(loaded.predict(photos[turn % 8])), range(400)))
    assert np.abs(np.array(together) - 50 * alone).max() <= 1e-6


@pytest.mark.parametrize('format', ['litert', 'onnx', 'openvino'])
def test_no_tensorflow_is_loaded_to_predict(written, pets, format):
    program = [sys.executable, '-c', RUN_ALONE, written[1][format].path, pets]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout == '60 [] []\n', done.stderr
    command = [sys.executable, '-c', COMMAND, 'predict', written[1][format].path, pets / 'cat/000.jpg']
    answer, loaded = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert answer.startswith(f'{pets}/cat/000.jpg: ') and loaded == '[]'


def test_litert_has_no_operation_but_its_own(written):
    from ai_edge_litert.interpreter import Interpreter

    for export in written[1].values():
        if export.path.suffix == '.tflite':
            operations = {operation['op_name'] for operation in Interpreter(str(export.path))._get_ops_details()}
            assert operations and not any('flex' in name.lower() or name == 'CUSTOM' for name in operations)


def test_the_saved_model_takes_photos_of_any_size(written, small_classifier):
    import tensorflow as tf

    loaded = tf.saved_model.load(written[1]['saved_model'].path)
    for size in ((50, 90), (64, 64), (200, 31)):
        photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        answer = loaded.serve(photo[None]).numpy()[0]
        assert np.abs(answer - probabilities(small_classifier.predict(photo))).max() <= 1e-5


def test_what_is_no_export(written, tmp_path):
    folder = written[0]
    for kind in (*READERS, '.txt', ''):
        (tmp_path / f'empty{kind}').touch()
        (tmp_path / f'text{kind}').write_text('no model')
    for name in ('litert.tflite', 'onnx.onnx', 'openvino.xml'):
        whole = (folder / name).read_bytes()
        for tenth in range(1, 10):
            (tmp_path / f'cut{tenth}{name}').write_bytes(whole[:len(whole) * tenth // 10])
    (tmp_path / 'folder').mkdir()
    shutil.copytree(folder / 'saved_model', tmp_path / 'no graph')
    os.remove(tmp_path / 'no graph' / 'saved_model.pb')
    for path in [*tmp_path.iterdir(), tmp_path / 'none.onnx']:
        with pytest.raises(InputError, match='give a model.keras') as error:
            load_exported(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_nothing_is_left_of_an_export_that_differs(small_classifier, pets, tmp_path, monkeypatch):
    (tmp_path / 'pets.tflite').write_text('an older one')
    answers = exports.original_answers
    monkeypatch.setattr(exports, 'original_answers', lambda *given: answers(*given) + 2e-4)
    with pytest.raises(RuntimeError, match='other probabilities than the original, by 0.0002'):
        export_classifier(small_classifier, 'litert', tmp_path / 'pets', pets)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('pets.tflite', 'an older one')]


@pytest.mark.parametrize('package, format', [
    ('ai_edge_litert', 'litert'),
    ('tf2onnx', 'onnx'),
    ('openvino', 'openvino'),
])
def test_a_missing_package_is_named_with_its_extra(small_classifier, written, tmp_path, monkeypatch, package, format):
    find = exports.importlib.util.find_spec
    missing = package, 'onnxruntime'
    monkeypatch.setattr(exports.importlib.util, 'find_spec', lambda name: None if name in missing else find(name))
    uses = (
        lambda: export_classifier(small_classifier, format, tmp_path / 'pets'),
        lambda: load_exported(written[1][format].path),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"needs the package \w+: pip install 'transfer_cvd\[export\]'"):
            use()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_name(small_classifier, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='. is no name for an export: choose one, such as pets'):
        export_classifier(small_classifier, 'litert', '.')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('path, message', [('nowhere/pets', 'No such file or directory'), ('used', 'is in use')])
def test_where_it_cannot_be_written(small_classifier, pets, tmp_path, path, message):
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used' / 'note').write_text('mine')
    with pytest.raises(InputError, match=message):
        export_classifier(small_classifier, 'saved_model', tmp_path / path, pets)
    assert os.listdir(tmp_path) == ['used'] and json.dumps(os.listdir(tmp_path / 'used')) == '["note"]'


ALONE = {
    'onnx': '''
import onnxruntime
session = onnxruntime.InferenceSession(path)
(entry,) = session.get_inputs()
assert (entry.name, entry.type) == ('photos', 'tensor(uint8)')
def ask(photos): return session.run(None, {'photos': photos})[0]
''',
    'openvino': '''
import openvino
model = openvino.compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
def ask(photos): return model(photos)[0]
''',
    'saved_model': '''
import tensorflow
signature = tensorflow.saved_model.load(path).signatures['serving_default']
def ask(photos): return next(iter(signature(photos=tensorflow.constant(photos)).values())).numpy()
''',
    'litert': '''
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(path)
interpreter.allocate_tensors()
(entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
assert entry['dtype'] == numpy.uint8
def ask(photos):
    interpreter.set_tensor(entry['index'], photos)
    interpreter.invoke()
    return interpreter.get_tensor(exit_['index'])
''',
}
ALONE['litert_float16'] = ALONE['litert_int8'] = ALONE['litert']
ALONE['web'] = ALONE['onnx'].replace('(path)', "(path + '/classifier.onnx')")
ASK = '''
given = numpy.load(photos)
numpy.savez(answers, **{name: ask(given[name]) for name in given.files})
assert not any(name.startswith('transfer_cvd') for name in sys.modules)
'''


@pytest.mark.parametrize('format', FORMATS)
def test_each_takes_photos_in_its_own_runtime_alone(written, small_classifier, tmp_path, format):
    rng = np.random.default_rng(0)
    sizes = [(64, 64)] if format.startswith('litert') else [(64, 64), (1, 7), (375, 500), (531, 1299), (1500, 2000)]
    photos = {str(size): rng.integers(0, 256, (1, *size, 3), np.uint8) for size in sizes}
    if not format.startswith('litert'):
        photos['two'] = rng.integers(0, 256, (2, 150, 99, 3), np.uint8)
    np.savez(tmp_path / 'photos.npz', **photos)
    program = 'import sys, numpy\npath, photos, answers = sys.argv[1:]\n' + ALONE[format] + ASK
    names = str(written[1][format].path), str(tmp_path / 'photos.npz'), str(tmp_path / 'answers.npz')
    done = subprocess.run([sys.executable, '-P', '-c', program, *names], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tolerance = {'litert_float16': 1e-2, 'litert_int8': 0.1}.get(format, 1e-5)
    answers = np.load(tmp_path / 'answers.npz')
    for name, given in photos.items():
        expected = small_classifier.model(given).numpy()
        assert answers[name].shape == expected.shape and np.abs(answers[name] - expected).max() <= tolerance


@pytest.mark.parametrize('format', [format for format in FORMATS if format != 'web'])
def test_formatted_photos_where_somebody_wants_them(small_classifier, pets, tmp_path, format):
    export = export_classifier(small_classifier, format, tmp_path / 'pets', pets, formatted=True)
    opened = exports.open_export(export.path)
    assert opened.run_photos is None
    images = np.random.default_rng(0).uniform(-1, 1, (3, 64, 64, 3)).astype(np.float32)
    tolerance = {'litert_float16': 1e-2, 'litert_int8': 0.1}.get(format, 1e-5)
    assert np.abs(opened.run(images) - small_classifier.run(images)).max() <= tolerance
