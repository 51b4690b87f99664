"""Engines answer in the model's order for any batch, an engine that cannot be had or disagrees is refused in one line, and auto goes on without it."""
import importlib.util
import os
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from transfer_cvd import engines
from transfer_cvd.features.backends import FEWEST, PACKAGES, choose_engine
from transfer_cvd.errors import InputError

RUN_ALONE = '''
import sys
import keras, numpy
from transfer_cvd.features.backends import choose_engine
photos = keras.Input((8, 8, 3))
model = keras.Model(photos, keras.layers.Conv2D(2, 3)(photos))
print(choose_engine(model, 'openvino', numpy.ones((2, 8, 8, 3), 'float32'), 1).name, sys.modules['openvino_telemetry'])
'''


@pytest.fixture(scope='module')
def model():
    """Twelve outputs of several shapes, in no order: converters that sort them by name put the eleventh before the third."""
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


@pytest.mark.parametrize('name', engines.ENGINES)
def test_order_batches_and_what_is_left_behind(name, model, sample, tmp_path, monkeypatch):
    require(name)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    before = model.to_json(), [weight.copy() for weight in model.get_weights()]
    engine = choose_engine(model, name, sample, 1)
    assert (engine.name, engine.passed_over) == (name, '') and engine.difference <= engines.TOLERANCES[engine.precision]
    tolerance = engines.TOLERANCES[engine.precision]
    for n in (32, 5, 1, 32):  # the last batch is smaller, and then another pass begins
        outputs, expected = engine.run(sample[:n]), [tensor.numpy() for tensor in model(sample[:n], training=False)]
        assert [(output.shape, output.dtype) for output in outputs] == [(tensor.shape, np.float32) for tensor in expected]
        assert max(engines.deviations(outputs, expected)) <= tolerance
    first = engine.run(sample[:5])
    kept = [output.copy() for output in first]
    engine.run(-sample)
    assert all(np.array_equal(*pair) for pair in zip(first, kept)), 'a later batch must not write into what an earlier one gave'
    assert [left for left in os.listdir(tmp_path) if not left.startswith('__autograph')] == []  # TensorFlow clears its own when it ends
    assert model.to_json() == before[0] and all(np.array_equal(*pair) for pair in zip(model.get_weights(), before[1]))


def refusal(*arguments):
    with pytest.raises(InputError) as refused:
        choose_engine(*arguments)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_what_is_not_there(model, sample, monkeypatch):
    assert 'did you mean onnxruntime?' in refusal(model, 'onnxruntim', sample, 1)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setitem(sys.modules, 'tf2onnx', None)
    assert refusal(model, 'openvino', sample, 1) == 'the engine openvino is not installed: pip install "transfer_cvd[fast]"'
    assert 'pip install "transfer_cvd[export]"' in refusal(model, 'onnxruntime', sample, 1)
    engine = choose_engine(model, 'auto', sample, FEWEST)
    assert engine.name == 'tensorflow' and str(engine).count('is not installed') == 2 and '\n' not in str(engine)
    assert engine.run(sample[:3])[0].shape[0] == 3


def pretend(monkeypatch, name, change, precision='float32'):
    """Replace a library by TensorFlow with `change` applied to its outputs, as if it were installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda package: sys if package in PACKAGES[name] else found(package))

    def prepare(given):
        graph = given if name == 'openvino' else engines.inference(given)
        return lambda photos: change([output.numpy() for output in graph(photos)]), precision

    monkeypatch.setattr(engines, f'in_{name}', prepare)


def fail(outputs):
    raise RuntimeError('no such operation\nand more lines')


@pytest.mark.parametrize('change, said', [
    (lambda outputs: [output * np.float32(1.01) for output in outputs], r'disagrees with TensorFlow by 1.0e-02 of the largest value, 1.0e-02'),
    (lambda outputs: outputs[1:] + outputs[:1], 'by inf of'),
    (lambda outputs: [output[:1] for output in outputs], 'by inf of'),
    (lambda outputs: [*outputs[:-1], outputs[-1] * np.float32('nan')], 'by nan of'),
    (fail, 'cannot run this network (RuntimeError: no such operation)'),
])
def test_one_that_disagrees(change, said, model, sample, monkeypatch):
    pretend(monkeypatch, 'openvino', change)
    assert said in refusal(model, 'openvino', sample, 1)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    engine = choose_engine(model, 'auto', sample, FEWEST)
    assert engine.name == 'tensorflow' and said in engine.passed_over


def test_one_wrong_photo_is_enough(model, sample, monkeypatch):
    def change(outputs):
        outputs[3][17] *= np.float32(0.9)
        return outputs

    pretend(monkeypatch, 'openvino', change)
    assert 'disagrees' in refusal(model, 'openvino', sample, 1)


def test_bfloat16_is_recorded(model, sample, monkeypatch):
    pretend(monkeypatch, 'openvino', lambda outputs: [output * np.float32(1.01) for output in outputs], 'bfloat16')
    engine = choose_engine(model, 'auto', sample, FEWEST)
    assert (engine.name, engine.precision, round(engine.difference, 4)) == ('openvino', 'bfloat16', 0.01)


def test_auto_goes_on_to_the_next(model, sample, monkeypatch):
    pretend(monkeypatch, 'onnxruntime', lambda outputs: outputs)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    engine = choose_engine(model, 'auto', sample, FEWEST)
    assert engine.name == 'onnxruntime' and engine.passed_over.startswith('the engine openvino is not installed')


def test_auto_stays_with_tensorflow(model, sample, monkeypatch):
    monkeypatch.setattr(engines, 'exported_engine', fail)
    assert 'photos' in choose_engine(model, 'auto', sample, FEWEST - 1).passed_over
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'])
    assert choose_engine(model, 'auto', sample, 10**6).passed_over == 'a GPU is there'


def test_a_gpu_gets_a_compiled_graph_in_mixed_precision(model, sample, monkeypatch):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'])
    asked, function = [], tf.function
    monkeypatch.setattr(tf, 'function', lambda *arguments, **settings: asked.append(settings['jit_compile']) or function(*arguments, **settings))
    engine = engines.tensorflow_engine(model, sample)
    assert engine.precision == 'float16' and 0 < engine.difference <= engines.TOLERANCES['float16'] and set(asked) == {True}
    assert {output.dtype for output in engine.run(sample)} == {np.dtype('float32')}
    assert {layer.compute_dtype for layer in model.layers} == {'float32'}
    monkeypatch.setitem(engines.TOLERANCES, 'float16', 0.0)
    assert str(engines.tensorflow_engine(model, sample)) == 'tensorflow, float32'


def test_nothing_is_reported_to_the_makers_of_a_library(tmp_path):
    require('openvino')
    done = subprocess.run([sys.executable, '-c', RUN_ALONE], env=os.environ | {'HOME': str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.split() == ['openvino', 'None'], done.stderr
    assert not (tmp_path / 'intel').exists()  # where it keeps the number it knows a machine by
