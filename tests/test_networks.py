"""Every base takes the same batches, has the figures of its list and can be cut in two; its weights are found.

One network of each family is built, every network with TRANSFER_CVD_ALL_BASES=1.
"""
import math
import os
import re
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from transfer_cvd.networks.surgery import find_cut, layer_position, macs, split_backbone
from transfer_cvd.base_model import base_model
from transfer_cvd.networks.registry import BASES, bases_table, build_backbone, weights_path
from transfer_cvd.errors import InputError

FAMILIES = (
    'mobilenet', 'mobilenet_v2', 'mobilenet_v3_small', 'efficientnet_lite0', 'nasnet_mobile', 'efficientnet_b0',
    'efficientnet_v2_b0', 'convnext_tiny', 'densenet121', 'inception_v3', 'xception', 'resnet50', 'resnet50_v2',
    'vgg16',
)
NAMES = tuple(BASES) if os.environ.get('TRANSFER_CVD_ALL_BASES') == '1' else FAMILIES

# where the name of a layer says to which block it belongs; the others are listed by hand in TAILS
BLOCKS = {
    'mobilenet_v2': r'block_(\d+)_', 'mobilenet_v3': r'expanded_conv(_\d+)?', 'mobilenet': r'conv_(?:dw|pw|pad)_(\d+)',
    'efficientnet_lite': r'block_(\d+)_', 'efficientnet': r'block(\d+[a-z])_', 'convnext': r'stage_(\d_block_\d+)_',
    'densenet': r'conv(\d_block\d+)', 'resnet': r'conv(\d_block\d+)', 'vgg': r'block(\d)_', 'xception': r'block(\d+)_',
}
TAILS = {
    'inception_v3': [f'mixed{i}' for i in range(11)],
    'inception_resnet_v2': [
        'mixed_5b', *(f'block35_{i}_ac' for i in range(1, 11)),
        'mixed_6a', *(f'block17_{i}_ac' for i in range(1, 21)),
        'mixed_7a', *(f'block8_{i}_conv' for i in range(1, 11)),
    ],
    'nasnet_mobile': [
        'reduction_concat_stem_1', 'reduction_concat_stem_2', *(f'normal_concat_{i}' for i in range(4)),
        'reduction_concat_reduce_4', *(f'normal_concat_{i}' for i in range(5, 9)),
        'reduction_concat_reduce_8', *(f'normal_concat_{i}' for i in range(9, 13)),
    ],
    'nasnet_large': [
        'reduction_concat_stem_1', 'reduction_concat_stem_2', *(f'normal_concat_{i}' for i in range(6)),
        'reduction_concat_reduce_6', *(f'normal_concat_{i}' for i in range(7, 13)),
        'reduction_concat_reduce_12', *(f'normal_concat_{i}' for i in range(13, 19)),
    ],
}


def boundary(name, model):
    "The first layer of the last third of the blocks, or the one that ends the block before."
    if name in TAILS:
        ends = TAILS[name]
        assert [layer.name for layer in model.layers if layer.name in ends] == ends
        return ends[-math.ceil(len(ends) / 3) - 1]
    pattern = next(pattern for start, pattern in BLOCKS.items() if name.startswith(start))
    first = {}
    for layer in model.layers:
        if match := re.search(pattern, layer.name):
            first.setdefault(match[0] if name.startswith('mobilenet_v3') else match[1], layer.name)
    return list(first.values())[-math.ceil(len(first) / 3)]


def preprocess_input(base, pixels):
    "What Keras says the network wants for pixels from 0 to 255."
    return sys.modules[getattr(keras.applications, base.keras_name).__module__].preprocess_input(pixels.copy())


@pytest.fixture(scope='module', params=NAMES)
def built(request):
    """A base of its default size, built as if its ImageNet weights were there, and the files that Keras asked for."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, 'get_file', lambda name, *arguments, **options: asked.append(name))
        patch.setattr(keras.Model, 'load_weights', lambda *arguments, **options: None)
        base = BASES[request.param]
        return base, build_backbone(base, base.image_size, 'imagenet' if base.keras_name else None), asked


def test_a_base_is_what_its_line_says(built):
    base, model, asked = built
    assert (model.count_params(), macs(model)) == (base.parameters, base.macs)
    assert model.input_shape == (None, base.image_size, base.image_size, 3) and len(model.output_shape) == 4
    assert asked == ([weights_path(base, base.image_size).name] if base.keras_name else [])
    rule = boundary(base.name, model)
    assert base.fine_tune_from == ('block_11_expand_BN' if base.name == 'mobilenet_v2' else rule)
    assert layer_position(model, base.fine_tune_from) > 0


def test_batches_in_one_range_and_two_parts_that_make_the_whole(built):
    base, model, _ = built
    pixels = np.random.default_rng(0).integers(0, 256, (1, base.image_size, base.image_size, 3)).astype('float32')
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    images = pixels / 127.5 - 1
    conversion = model.operations[{'tf': 0, 'pixels': 1, 'torch': 1, 'caffe': 2}[base.family.scaling]]
    assert not getattr(conversion, 'variables', ())
    if base.keras_name:
        reaches = np.asarray(keras.Model(model.input, conversion.output)(images))
        np.testing.assert_allclose(reaches, preprocess_input(base, pixels), atol=1e-4)

    lower, upper = split_backbone(model, base.fine_tune_from)
    whole, in_two = np.asarray(model(images)), np.asarray(upper(lower(images)))
    np.testing.assert_allclose(in_two, whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    cut = find_cut(model, base.fine_tune_from)
    assert (len(cut) == 1) == (base.family.weights != '{name}_no_top.h5')  # NASNet's cells read from two cells below
    assert sum(math.prod(tensor.shape[1:]) for tensor in cut) == math.prod(lower.output_shape[1:])
    trained = [layer for layer in model.layers[layer_position(model, base.fine_tune_from):] if layer.weights]
    trained_paths = {variable.path for layer in trained for variable in layer.weights}
    assert trained_paths <= {variable.path for variable in upper.weights}


# with one layer and with two operations before the network
@pytest.mark.parametrize('name', ('mobilenet_v3_small', 'vgg16'))
def test_weights_of_the_plain_network_fit_and_plain_keras_opens_the_file(name, tmp_path):
    build = getattr(keras.applications, BASES[name].keras_name)
    plain = build(input_shape=(32, 32, 3), include_top=False, weights=None)
    plain.save(tmp_path / 'plain.h5')
    base = build_backbone(BASES[name], 32, str(tmp_path / 'plain.h5'))
    base.save(tmp_path / 'base.keras')
    opened = keras.models.load_model(tmp_path / 'base.keras', safe_mode=True)

    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype('float32')
    expected = np.asarray(plain(preprocess_input(BASES[name], pixels)))
    for model in (base, opened):
        answer = np.asarray(model(pixels / 127.5 - 1))
        np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_missing_and_damaged_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv('KERAS_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    path = weights_path(BASES['vgg19'])
    path.parent.mkdir()
    path.write_bytes(b'half a file')
    message = r'convnext_tiny_notop.h5, .* not on this machine and .* --offline .*: efficientnet_lite0, vgg19\)$'
    with pytest.raises(InputError, match=message):
        base_model('convnext_tiny')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, 'get_file', lambda *arguments, **options: str(path))
        with pytest.raises(InputError, match='cannot be loaded .* delete .*vgg19_weights.* and try again') as error:
            base_model('vgg19', image_size=32)
    assert '\n' not in str(error.value)


def never(*arguments, **options):
    raise AssertionError('Keras was asked for a file that is here')


@pytest.fixture
def readonly(nobody, monkeypatch):
    """A cache of weights that the user may only read, as a function that puts weights there and returns their path."""
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv('KERAS_HOME', home)
        monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')

        def put(name, size, model=None):
            path = weights_path(BASES[name], size)
            path.parent.mkdir(exist_ok=True)
            if model is None:
                path.write_bytes(b'half a file')
            else:
                model.save(path)
            os.chmod(home, 0o555)
            return path

        yield put
        os.chmod(home, 0o755)


def test_weights_in_a_cache_that_may_only_be_read(readonly, monkeypatch):
    model = build_backbone(BASES['mobilenet_v2'], 96, None)
    readonly('mobilenet_v2', 96, model)
    monkeypatch.setattr(file_utils, 'get_file', never)
    loaded = base_model('mobilenet_v2', image_size=96)
    for ours, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_half_a_file_in_a_cache_that_may_only_be_read(readonly, monkeypatch):
    path = readonly('vgg16', 32)
    monkeypatch.setattr(file_utils, 'get_file', never)
    with pytest.raises(InputError, match=f'weights of vgg16 cannot be loaded .* delete {path} and try again$') as error:
        base_model('vgg16', image_size=32)
    assert '\n' not in str(error.value)


def test_weights_that_may_not_be_read(readonly):
    path = readonly('vgg16', 32)
    path.chmod(0)
    with pytest.raises(InputError, match=f'weights of vgg16 may not be read: make {path} readable$'):
        base_model('vgg16', image_size=32)


def test_a_download_that_fails_leaves_nothing_to_delete(tmp_path, monkeypatch):
    monkeypatch.setenv('KERAS_HOME', str(tmp_path))
    monkeypatch.setattr('transfer_cvd.networks.registry.require_network', lambda *arguments: None)

    def fails(*arguments, **options):
        raise Exception('URL fetch failure')  # as Keras does

    monkeypatch.setattr(file_utils, 'get_file', fails)
    with pytest.raises(InputError, match=r'cannot be loaded \(URL fetch failure\): try again$'):
        base_model('vgg16', image_size=32)


def test_efficientnet_from_a_file_is_what_keras_makes_of_it(tmp_path, monkeypatch):
    path = tmp_path / 'weights.h5'
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype('float32')
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.layers[2].adapt_mean.assign([0.485, 0.456, 0.406])
    plain.layers[2].adapt_variance.assign([0.05, 0.06, 0.07])
    plain.save(path)
    monkeypatch.setattr(file_utils, 'get_file', lambda *arguments, **options: str(path))
    by_keras, from_file = (build_backbone(BASES['efficientnet_b0'], 32, weights) for weights in ('imagenet', str(path)))
    expected = np.asarray(by_keras(pixels))
    np.testing.assert_allclose(np.asarray(from_file(pixels)), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


LIST = '''
import sys
from transfer_cvd.networks.registry import bases_table
print(bases_table())
assert not {'keras', 'tensorflow'} & set(sys.modules)
'''


def test_the_list_needs_no_tensorflow():
    done = subprocess.run([sys.executable, '-c', LIST], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == bases_table() + '\n'
