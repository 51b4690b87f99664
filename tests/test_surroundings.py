"""Whatever a process inherits, the command line answers, and from Python one line says what to change."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.config import check_keras, require_network
from transfer_cvd.errors import InputError
from transfer_cvd.inference.classifier import Classifier
from transfer_cvd.inference.exports import export_classifier


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos') / '猫.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    return path


def command(*arguments, shell='', **environment):
    """The command line in a process of its own; `shell` is what a shell would put behind it."""
    line = f'exec "$0" -m transfer_cvd "$@" {shell}'
    environment = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.run(['sh', '-c', line, sys.executable, *map(str, arguments)], env=environment,
                          capture_output=True, text=True)


@pytest.fixture(scope='module')
def exported(finished_run, tmp_path_factory):
    """A classifier that answers without TensorFlow, and so at once."""
    path = tmp_path_factory.mktemp('exported') / 'pets.tflite'
    export_classifier(Classifier.load(finished_run / 'model.keras'), 'litert', path)
    return path


@pytest.fixture(scope='module')
def answer(exported, photo):
    return json.loads(command('predict', exported, photo, '--json').stdout)


def test_the_command_line_is_immune_to_what_it_inherits(finished_run, photo, tmp_path):
    settings = {'floatx': 'float16', 'epsilon': 1e-7, 'backend': 'torch', 'image_data_format': 'channels_first'}
    (tmp_path / 'keras.json').write_text(json.dumps(settings))
    (tmp_path / 'matplotlibrc').write_text('text.usetex: True\nbackend: module://of.nobody\n')
    inherited = {'KERAS_BACKEND': 'jax', 'KERAS_HOME': str(tmp_path), 'MPLBACKEND': 'module://of.nobody',
                 'MATPLOTLIBRC': str(tmp_path / 'matplotlibrc')}
    done = command('predict', finished_run / 'model.keras', photo, '--json', **inherited)
    expected = Classifier.load(finished_run / 'model.keras').predict(photo).probabilities
    assert json.loads(done.stdout)['probabilities'] == pytest.approx(expected, abs=1e-5), done.stderr
    done = command('explain', finished_run / 'model.keras', photo, '--out', tmp_path / 'seen.png', **inherited)
    assert done.returncode == 0 and (tmp_path / 'seen.png').exists(), done.stderr


@pytest.mark.parametrize('setting, value, restored', [
    ('image_data_format', 'channels_first', 'channels_last'), ('floatx', 'float16', 'float32'),
    ('dtype_policy', 'mixed_float16', 'float32'), ('dtype_policy', 'mixed_bfloat16', 'float32'),
])
def test_from_python_one_line_says_what_to_change(setting, value, restored):
    import keras

    change = getattr(keras.config, f'set_{setting}')
    check_keras()
    change(value)
    try:
        with pytest.raises(InputError, match=f'{value}.*call keras.config.set_{setting}') as raised:
            check_keras()
        assert '\n' not in str(raised.value)
    finally:
        change(restored)
    check_keras()


@pytest.mark.parametrize('shell', ['2>&-', '2>&- <&-'])
def test_without_an_error_channel(exported, photo, answer, shell):
    done = command('predict', exported, photo, '--json', shell=shell)
    assert json.loads(done.stdout) == answer


@pytest.mark.parametrize('shell', ['>&-', '>&- 2>&-'])
def test_without_an_output_channel(exported, photo, shell):
    assert command('predict', exported, photo, shell=shell).returncode == 0


def test_python_without_a_console(exported, photo, tmp_path):
    code = (f'import sys; sys.stdout = sys.stderr = None\n'
            f'from transfer_cvd.inference.exports import open_classifier\n'
            f'answer = open_classifier({str(exported)!r}).predict({str(photo)!r})\n'
            f'open({str(tmp_path / "answer")!r}, "w").write(answer.class_name)')
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    assert (tmp_path / 'answer').read_text() in ('cat', 'dog')


@pytest.mark.parametrize('encoding', ['cp1252', 'ascii', 'utf-8'])
def test_output_in_any_encoding(exported, photo, answer, encoding):
    done = command('predict', exported, photo, '--json', PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout) == answer
    told = command('predict', exported, photo, PYTHONIOENCODING=encoding)
    assert told.returncode == 0 and answer['class'] in told.stdout


@pytest.mark.parametrize('home', [None, '', '/nonexistent'], ids=str)
def test_without_a_home(tmp_path, home):
    """With a user who is in no list of users, where the tests may become one."""
    code = ('import os, pwd, platformdirs.unix\n'  # while the files of the environment may still be read
            'from transfer_cvd._files import cache_folder\n'
            'if os.getuid() == 0: os.setuid(54321)\n'
            'print(cache_folder())')
    environment = {name: value for name, value in os.environ.items() if name not in ('HOME', 'XDG_CACHE_HOME')}
    environment |= {} if home is None else {'HOME': home}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.path.isabs(done.stdout.strip()) and not os.listdir(tmp_path)


@pytest.mark.parametrize('name', [250 * 'x', 'loop/run'])
def test_a_place_that_cannot_be_is_one_line(pets, tmp_path, name):
    (tmp_path / 'loop').symlink_to('loop')
    done = command('train', '--offline', '--data', pets, '--out', tmp_path / name)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'cannot' in done.stderr, done.stderr


@pytest.mark.parametrize('proxy', ['127.0.0.1:9', 'http://127.0.0.1:9', 'http://127.0.0.1:9/'])
def test_a_proxy_needs_no_scheme(monkeypatch, proxy):
    monkeypatch.setenv('https_proxy', proxy)
    with pytest.raises(InputError, match='cannot be reached'):
        require_network('https://example.invalid/x', 'the data set')


@pytest.mark.parametrize('proxy', ['localhost:port', 'http://localhost:99999'])
def test_a_proxy_with_a_bad_port_is_one_line(monkeypatch, proxy):
    monkeypatch.setenv('https_proxy', proxy)
    with pytest.raises(InputError, match='correct https_proxy'):
        require_network('https://example.invalid/x', 'the data set')
