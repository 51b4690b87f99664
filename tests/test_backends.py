"""Backends answer in the model's order for any batch; one that is missing or disagrees is refused, and auto goes on."""
import importlib.util
import os
import subprocess
import sys
import tempfile
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from transfer_cvd.config import BACKENDS
from transfer_cvd.errors import InputError
from transfer_cvd.features import backends
from transfer_cvd.features.backends import EXPORT_PAYS_FROM, PACKAGES, TOLERANCES, choose_backend, deviations

RUN_ALONE = '''
import sys
import keras, numpy
from transfer_cvd.features.backends import choose_backend
photos = keras.Input((8, 8, 3))
model = keras.Model(photos, keras.layers.Conv2D(2, 3)(photos))
print(choose_backend(model, 'openvino', numpy.ones((2, 8, 8, 3), 'float32'), 1).name, sys.modules['openvino_telemetry'])
'''


@pytest.fixture(scope='module')
def model():
    """Twelve outputs in no order: converters that sort them by name put the eleventh before the third."""
    keras.utils.set_random_seed(0)
    tensor = photos = keras.Input((16, 16, 3))
    outputs = []
    for filters in range(4, 10):
        tensor = keras.layers.Conv2D(filters, 3, padding='same')(tensor)
        tensor = keras.layers.BatchNormalization(moving_mean_initializer='random_normal')(tensor)
        tensor = keras.layers.ReLU(6)(tensor)
        outputs += [tensor, keras.layers.GlobalAveragePooling2D()(tensor)]
    return keras.Model(photos, [outputs[i] for i in np.random.default_rng(0).permutation(12)])


@pytest.fixture(scope='module')
def sample():
    return np.random.default_rng(0).uniform(-1, 1, (32, 16, 16, 3)).astype('float32')


def require(name):
    for package in PACKAGES.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed')


@pytest.mark.parametrize('name', BACKENDS[1:])
def test_order_batches_and_what_is_left_behind(name, model, sample, tmp_path, monkeypatch):
    require(name)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    before = model.to_json(), [weight.copy() for weight in model.get_weights()]
    backend = choose_backend(model, name, sample, 1)
    allowed = TOLERANCES[backend.precision]
    assert (backend.name, backend.reason) == (name, '')
    assert backend.difference <= allowed
    for n in (32, 5, 1, 32):  # the last batch is smaller, and then another pass begins
        outputs = backend.run(sample[:n])
        expected = [tensor.numpy() for tensor in model(sample[:n], training=False)]
        assert [(output.shape, output.dtype) for output in outputs] == [(each.shape, np.float32) for each in expected]
        assert max(deviations(outputs, expected)) <= allowed
    first = backend.run(sample[:5])
    kept = [output.copy() for output in first]
    backend.run(-sample)
    assert all(np.array_equal(*pair) for pair in zip(first, kept)), 'a later batch must not overwrite an earlier one'
    left = [name for name in os.listdir(tmp_path) if not name.startswith('__autograph')]
    assert left == [], 'only what TensorFlow will remove itself when it ends'
    assert model.to_json() == before[0]
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), before[1]))


def refusal(*arguments):
    with pytest.raises(InputError) as refused:
        choose_backend(*arguments)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_what_is_not_there(model, sample, monkeypatch):
    assert 'did you mean onnxruntime?' in refusal(model, 'onnxruntim', sample, 1)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setitem(sys.modules, 'tf2onnx', None)
    said = refusal(model, 'openvino', sample, 1)
    assert said == 'the backend openvino is not installed: pip install "transfer_cvd[fast]"'
    assert 'pip install "transfer_cvd[export]"' in refusal(model, 'onnxruntime', sample, 1)
    backend = choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM)
    assert backend.name == 'tensorflow'
    assert backend.run(sample[:3])[0].shape[0] == 3
    assert str(backend) == ('tensorflow, float32 (the engine openvino is not installed: '
                            'pip install "transfer_cvd[fast]"; the engine onnxruntime is not '
                            'installed: pip install "transfer_cvd[export]")')


def pretend_installed(monkeypatch, name):
    """Let the packages of a backend be found, whether they are there or not."""
    find_spec = importlib.util.find_spec

    def find(package):
        return sys if package in PACKAGES[name] else find_spec(package)

    monkeypatch.setattr(importlib.util, 'find_spec', find)


def pretend(monkeypatch, name, change, precision='float32'):
    """Replace a library by TensorFlow with `change` applied to its outputs, as if it were installed."""
    pretend_installed(monkeypatch, name)

    def prepare(given):
        graph = given if name == 'openvino' else backends.inference_graph(given)
        return lambda photos: change([output.numpy() for output in graph(photos)]), precision

    monkeypatch.setattr(backends, f'in_{name}', prepare)


@pytest.mark.parametrize('change, said', [
    (lambda outputs: [output * np.float32(1.01) for output in outputs],
     'disagrees with TensorFlow by 1.0e-02 of the largest value, 1.0e-02'),
    (lambda outputs: outputs[1:] + outputs[:1], 'by inf of'),
    (lambda outputs: [output[:1] for output in outputs], 'by inf of'),
    (lambda outputs: [*outputs[:-1], outputs[-1] * np.float32('nan')], 'by nan of'),
])
def test_one_that_disagrees(change, said, model, sample, monkeypatch):
    pretend(monkeypatch, 'openvino', change)
    assert said in refusal(model, 'openvino', sample, 1)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    backend = choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM)
    assert backend.name == 'tensorflow'
    assert said in backend.reason


class FailingInUse:
    """A library that fails at the first photo, with an error that is made for programmers."""

    def convert_model(self, graph):
        return graph

    def compile_model(self, graph, device, settings):
        return self

    def output(self, name):
        return name

    def get_property(self, name):
        return types.SimpleNamespace(get_type_name=lambda: 'f32')

    def __call__(self, photos):
        raise TypeError('no such operation')


class FailingAtOnce(FailingInUse):
    """A library that cannot read a network."""

    def convert_model(self, graph):
        raise RuntimeError('no such operation\nand more lines')


@pytest.mark.parametrize('library', [FailingAtOnce, FailingInUse])
def test_one_that_fails(library, model, sample, monkeypatch):
    pretend_installed(monkeypatch, 'openvino')
    monkeypatch.setattr(backends, 'import_openvino', library)
    with pytest.raises(InputError, match=r'cannot run this network \(\w+Error: no such operation\)') as refused:
        choose_backend(model, 'openvino', sample, 1)
    assert '\n' not in str(refused.value)
    assert isinstance(refused.value.__cause__, RuntimeError | TypeError)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert 'cannot run this network' in choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM).reason


def test_an_error_of_our_own_is_not_taken_for_one_of_the_library(model, sample, monkeypatch):
    def wrong(*arguments):
        raise TypeError('ours')

    pretend(monkeypatch, 'openvino', lambda outputs: outputs)
    monkeypatch.setattr(backends, 'deviations', wrong)
    with pytest.raises(TypeError, match='ours'):
        choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM)


def test_one_wrong_photo_is_enough(model, sample, monkeypatch):
    def change(outputs):
        outputs[3][17] *= np.float32(0.9)
        return outputs

    pretend(monkeypatch, 'openvino', change)
    assert 'disagrees' in refusal(model, 'openvino', sample, 1)


def test_bfloat16_is_recorded(model, sample, monkeypatch):
    pretend(monkeypatch, 'openvino', lambda outputs: [output * np.float32(1.01) for output in outputs], 'bfloat16')
    backend = choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM)
    assert (backend.name, backend.precision, round(backend.difference, 4)) == ('openvino', 'bfloat16', 0.01)


def test_auto_goes_on_to_the_next(model, sample, monkeypatch):
    pretend(monkeypatch, 'onnxruntime', lambda outputs: outputs)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    backend = choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM)
    assert backend.name == 'onnxruntime'
    assert backend.reason.startswith('the backend openvino is not installed')


def test_auto_stays_with_tensorflow(model, sample, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError('nothing should be exported')

    monkeypatch.setattr(backends, 'exported_backend', forbidden)
    few = choose_backend(model, 'auto', sample, EXPORT_PAYS_FROM - 1)
    assert str(few) == 'tensorflow, float32 (exporting pays from 2,000 photos on)'
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'])
    assert choose_backend(model, 'auto', sample, 10**6).reason == 'a GPU is there'


def test_a_gpu_gets_a_compiled_graph_in_mixed_precision(model, sample, monkeypatch):
    function = tf.function
    asked = []

    def recording(*arguments, **settings):
        asked.append(settings['jit_compile'])
        return function(*arguments, **settings)

    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'])
    monkeypatch.setattr(tf, 'function', recording)
    backend = backends.tensorflow_backend(model, sample)
    assert set(asked) == {True}
    assert backend.precision == 'float16'
    assert 0 < backend.difference <= TOLERANCES['float16']
    assert {output.dtype for output in backend.run(sample)} == {np.dtype('float32')}
    assert {layer.compute_dtype for layer in model.layers} == {'float32'}
    monkeypatch.setitem(TOLERANCES, 'float16', 0.0)
    assert str(backends.tensorflow_backend(model, sample)) == 'tensorflow, float32'


def test_nothing_is_reported_to_the_makers_of_a_library(tmp_path):
    require('openvino')
    done = subprocess.run([sys.executable, '-c', RUN_ALONE], env=os.environ | {'HOME': str(tmp_path)},
                          capture_output=True, text=True)
    assert done.stdout.split() == ['openvino', 'None'], done.stderr
    assert not (tmp_path / 'intel').exists()  # where it keeps the number it knows a machine by
