"""EfficientNet-Lite0: its weight file is read without running what is in it; the network is the published one."""
import hashlib
import io
import math
import os
import pickle
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError

import keras
import numpy as np
import pytest

import transfer_cvd.networks._torch_weights as torch_weights
import transfer_cvd.networks.efficientnet_lite0 as lite0
from transfer_cvd.errors import InputError


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(path, **checksum) -> str:
    """The one line with which the file at `path` is refused."""
    with pytest.raises(InputError) as error:
        lite0.read_weights(path, **checksum)
    message = str(error.value)
    assert '\n' not in message and str(path) in message
    return message


def refused_despite_checksum(path, data: bytes) -> str:
    """The one line with which `data` is refused though its checksum is given as the right one."""
    path.write_bytes(data)
    return refused(path, sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'weights.pth'


@pytest.fixture(scope='module')
def tensors():
    return lite0.read_weights(lite0.weight_file())


@pytest.fixture(scope='module')
def network():
    return lite0.efficientnet_lite0(64, include_top=True)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('place', ['first', 'tensors'])
def test_a_command_in_the_file_is_not_run(path, tmp_path, protocol, place):
    trace = tmp_path / 'trace'
    attack = pickle.dumps(Call(os.system, f'echo ran > {trace}'), protocol)
    parts = torch_weights.MAGIC, torch_weights.VERSION, {'little_endian': True}
    header = b''.join(pickle.dumps(part, 2) for part in parts)
    data = attack if place == 'first' else header + attack
    path.write_bytes(data)
    assert 'SHA-256' in refused(path)
    assert '.system, which no tensor needs' in refused_despite_checksum(path, data)
    assert not trace.exists()
    pickle.loads(attack)
    assert trace.exists(), 'the attack itself must work, or this test shows nothing'


@pytest.mark.parametrize('name', [
    'builtins.eval', 'builtins.getattr', 'torch.load', 'torch._utils._rebuild_tensor_v2.__globals__',
    'collections.OrderedDict.fromkeys', 'numpy.ndarray', 'torch.DoubleStorage',
])
def test_only_four_names_are_admitted(path, name):
    module, _, attribute = name.rpartition('.')
    by_line = f'c{module}\n{attribute}\n.'
    from_stack = f'\x80\x04\x8c{chr(len(module))}{module}\x8c{chr(len(attribute))}{attribute}\x93.'
    for program in by_line, from_stack:
        assert f'it asks for {name}, which' in refused_despite_checksum(path, program.encode('latin-1'))


def test_a_truncated_or_altered_file_is_refused(path):
    data = lite0.weight_file().read_bytes()
    path.write_bytes(data[:-1])
    assert 'damaged or was changed' in refused(path)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:])
    assert 'damaged or was changed' in refused(path)
    assert 'pip install' in refused(path)


@pytest.mark.parametrize('keep', [0, 1, 100, 140, 30_000, 45_000, 60_000, -1])
def test_a_truncated_file_is_refused_whatever_its_checksum(path, keep):
    assert 'not a file of weights' in refused_despite_checksum(path, lite0.weight_file().read_bytes()[:keep])


def test_a_file_that_cannot_be_opened(tmp_path):
    assert 'No such file' in refused(tmp_path / 'missing.pth')
    assert 'directory' in refused(tmp_path)


def legacy_file(tensor, kind='FloatStorage', size=6) -> bytes:
    """A file of the old format with one tensor `t` on a storage of six numbers, which may be described wrongly."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ('storage', kind, 'a', 'cpu', size, None) if value == 'the storage' else None

    file = io.BytesIO()
    for part in torch_weights.MAGIC, torch_weights.VERSION, {'little_endian': True}:
        pickle.dump(part, file, 2)
    Pickler(file, 2).dump({'t': tensor})
    pickle.dump(['a'], file, 2)
    return file.getvalue() + size.to_bytes(8, 'little') + np.arange(6, dtype='<f4').tobytes()


def rebuild(storage, offset, shape, strides):
    """Pickles as a call of the function in PyTorch, which need not be installed."""
    return Call(torch_weights.rebuild_tensor, storage, offset, shape, strides, False, OrderedDict())


def with_torch_names(data: bytes) -> bytes:
    ours = b'transfer_cvd.networks._torch_weights\nrebuild_tensor\n'
    return data.replace(ours, b'torch._utils\n_rebuild_tensor_v2\n')


def test_the_old_format_is_understood():
    data = with_torch_names(legacy_file(rebuild('the storage', 1, (2, 2), (1, 3))))
    np.testing.assert_array_equal(torch_weights.read_tensors(io.BytesIO(data))['t'], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    'tensor, storage',
    [
        (rebuild('the storage', 0, (7,), (1,)), {}),  # reaches beyond its storage
        (rebuild('the storage', 0, (2, 3), (6, 1)), {}),
        (rebuild('the storage', -1, (2,), (1,)), {}),
        (rebuild('the storage', 2, (4,), (-1,)), {}),
        (rebuild('the storage', 0, (2**62,), (1,)), {}),
        (rebuild('the storage', 0, (7,), (1,)), {'size': 7}),  # the file is shorter than it says
        (rebuild('the storage', 0, (3,), (1,)), {'kind': 'O'}),  # an array of addresses
        (rebuild('the storage', 0, (3,), (1,)), {'kind': '<f4'}),
        (rebuild(('O', 'a', 6), 0, (3,), (1,)), {}),  # no storage at all
        (('O', 'a', 6), {}),  # no tensor at all
        ('the storage', {}),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(path, tensor, storage):
    assert 'not a file of weights' in refused_despite_checksum(path, with_torch_names(legacy_file(tensor, **storage)))


@pytest.mark.parametrize('found', [False, True])
def test_without_the_wheel_one_line_says_what_to_install(monkeypatch, tmp_path, found):
    class Distribution:
        """A wheel whose file is gone."""

        def locate_file(self, name):
            return tmp_path / name

    def distribution(name):
        if not found:
            raise PackageNotFoundError(name)
        return Distribution()

    monkeypatch.setattr(lite0, 'distribution', distribution)
    with pytest.raises(InputError, match=r'pip install transfer_cvd\[offline\]') as error:
        lite0.efficientnet_lite0(32)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('wrong', [{'weights': 'noisy'}, {'weights': ''}, {'image_size': 31}, {'image_size': -160}])
def test_wrong_arguments_give_one_line(wrong):
    with pytest.raises(InputError) as error:
        lite0.efficientnet_lite0(**wrong)
    assert '\n' not in str(error.value)


def test_shapes_and_parameters():
    base = lite0.efficientnet_lite0(weights=None)
    assert base.predict(np.zeros((2, 160, 160, 3), np.float32), verbose=0).shape == (2, 5, 5, 1280)
    assert base.count_params() == 3_413_024
    assert sum(math.prod(variable.shape) for variable in base.trainable_variables) == 3_371_008
    assert len(base.layers) == 142
    assert base.layers[-1].name == 'head_relu'


def test_the_top_adds_a_thousand_probabilities(network):
    assert network.count_params() == 3_413_024 + 1280 * 1000 + 1000
    np.testing.assert_allclose(network(np.zeros((2, 64, 64, 3), np.float32)).numpy().sum(axis=1), 1, rtol=1e-5)


def test_save_and_load_with_plain_keras(tmp_path):
    base = lite0.efficientnet_lite0(64)
    base.save(tmp_path / 'base.keras')
    again = keras.models.load_model(tmp_path / 'base.keras', safe_mode=True)
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(again(batch), base(batch), atol=1e-6)
    assert all(type(layer).__module__.startswith('keras.') for layer in again.layers)


def test_every_tensor_is_used_once(tensors, network):
    with pytest.raises(ValueError, match='no layer takes extra'):
        lite0.set_weights(network, tensors | {'extra': np.zeros(1)})
    with pytest.raises(KeyError, match='_bn1.bias'):
        lite0.set_weights(network, {name: value for name, value in tensors.items() if name != '_bn1.bias'})


def convolve(x, weight, stride, depthwise=False):
    """A convolution of (C, H, W) without bias, padded as the weights' authors do: what is odd goes right and below."""
    kernel = weight.shape[-1]
    size = math.ceil(x.shape[1] / stride)
    pad = max((size - 1) * stride + kernel - x.shape[1], 0)
    before, after = pad // 2, pad - pad // 2
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    total = 0
    for i in range(kernel):
        for j in range(kernel):
            part = x[:, i : i + size * stride : stride, j : j + size * stride : stride][:, :size, :size]
            taps = weight[:, :, i, j]
            total = total + (part * taps[..., None] if depthwise else np.tensordot(taps, part, 1))
    return total


def plain_numpy(x, tensors):
    """Return the class probabilities of one picture (3, H, W), in double precision, from PyTorch's tensors."""

    def norm(x, name):
        parts = 'weight', 'bias', 'running_mean', 'running_var'
        gamma, beta, mean, variance = (tensors[f'{name}.{part}'].astype(float)[:, None, None] for part in parts)
        return (x - mean) / np.sqrt(variance + 0.001) * gamma + beta

    def relu6(x):
        return np.clip(x, 0, 6)

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    x = relu6(norm(convolve(x, tensors['_conv_stem.weight'], 2), '_bn0'))
    for number, stride in enumerate(strides):
        name = f'_blocks.{number}'
        inputs = x
        if number > 0:
            x = relu6(norm(convolve(x, tensors[f'{name}._expand_conv.weight'], 1), f'{name}._bn0'))
        x = relu6(norm(convolve(x, tensors[f'{name}._depthwise_conv.weight'], stride, depthwise=True), f'{name}._bn1'))
        x = norm(convolve(x, tensors[f'{name}._project_conv.weight'], 1), f'{name}._bn2')
        if x.shape == inputs.shape:
            x = x + inputs
    x = relu6(norm(convolve(x, tensors['_conv_head.weight'], 1), '_bn1')).mean(axis=(1, 2))
    logits = tensors['_fc.weight'] @ x + tensors['_fc.bias']
    return np.exp(logits) / np.exp(logits).sum()


def test_it_computes_what_the_original_computes(tensors, network):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    ours = network((pixels[np.newaxis] / 127.5 - 1).astype(np.float32)).numpy()[0]
    expected = plain_numpy((pixels.transpose(2, 0, 1) - 127) / 128, tensors)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-7)
