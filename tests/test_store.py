"""Activations that are kept: damage, a full disk, two processes at once, and what must not be taken for something else."""
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from filelock import FileLock

from transfer_cvd import store as module
from transfer_cvd.photos.data import Data, Series
from transfer_cvd.errors import InputError
from transfer_cvd.features.store import BLOCK, NoRoom, Store, Wanted, keep

N = 2 * BLOCK + 70  # the last block is a short one


def data(identity='these photos', size=32):
    photos = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 3), np.uint8)
    labels = np.arange(N) % 2
    raw = tf.data.Dataset.from_tensor_slices((photos, labels))
    series = Series(identity, raw, labels), np.arange(N)
    return Data('made up', raw, raw, raw, ['cat', 'dog'], {}, size, series={split: series for split in ('train', 'validation', 'test')})


def network(seed=0, size=32, scale=1.0):
    keras.utils.set_random_seed(seed)
    photos = keras.Input((size, size, 3))
    return keras.Model(photos, keras.layers.Conv2D(4, 16, strides=16, bias_initializer=keras.initializers.Constant(scale))(photos))


class Counting:
    """TensorFlow as the engine, and how many photos it was given."""

    def __init__(self, monkeypatch):
        self.photos, choose = 0, module.choose_engine

        def counting(model, *arguments):
            engine = choose(model, *arguments)
            return engine._replace(run=lambda photos: self.run(engine, photos))

        monkeypatch.setattr(module, 'choose_engine', counting)

    def run(self, engine, photos):
        self.photos += len(photos)
        return engine.run(photos)


@pytest.fixture
def counting(monkeypatch):
    return Counting(monkeypatch)


def kept(folder, given=None, model=None, dtype='float32', **settings):
    return keep(Store(folder, **settings), given or data(), 'train', Wanted(model or network(), dtype))[0]


def expected(model):
    return np.concatenate([model(images).numpy() for images, _ in data().batches(data().raw_train)])


def test_a_damaged_block_is_computed_again_and_no_other(tmp_path, counting):
    first = np.array(kept(tmp_path).values)
    assert counting.photos == N
    np.testing.assert_allclose(first, expected(network()), rtol=1e-4, atol=1e-5)
    values = next(tmp_path.glob('*/values.npy'))
    content = bytearray(values.read_bytes())
    content[-1] ^= 1
    values.write_bytes(content)
    np.testing.assert_array_equal(kept(tmp_path).values, first)
    assert counting.photos == N + N % BLOCK


@pytest.mark.parametrize('other', [
    dict(given=data('other photos')),
    dict(model=network(seed=1)),
    dict(given=data(size=48), model=network(size=48)),
    dict(dtype='float16'),
    dict(engine='tensorflow'),
])
def test_only_an_exact_match_is_found(tmp_path, counting, other):
    kept(tmp_path)
    kept(tmp_path)
    assert counting.photos == N
    kept(tmp_path, **other)
    assert counting.photos == 2 * N and len(Store(tmp_path).entries()) == 2


def test_an_entry_that_says_nothing_is_made_anew(tmp_path, counting):
    kept(tmp_path)
    next(tmp_path.glob('*/entry.json')).write_text('{')
    assert kept(tmp_path).values.shape == (N, 2, 2, 4)
    assert counting.photos == 2 * N


def test_all_splits_are_computed_by_the_engine_of_the_whole(tmp_path, monkeypatch):
    given, asked, choose = data(), [], module.choose_engine
    given.series['validation'] = Series('others', given.raw_train.skip(9).take(40), given.series['train'][0].labels[9:49]), np.arange(40)
    monkeypatch.setattr(module, 'choose_engine', lambda model, *arguments: asked.append(arguments) or choose(model, *arguments))
    for split in ('train', 'validation'):  # with a new store each time, as after a stop between the two
        keep(Store(tmp_path), given, split, Wanted(network()))
    (name, sample, n), (other_name, other_sample, other_n) = asked
    assert (name, n) == (other_name, other_n) == ('auto', N + 40)
    assert np.array_equal(sample, other_sample)


def test_the_store_says_what_computed_the_training_photos(tmp_path):
    kept(tmp_path)
    entry, = Store(tmp_path).entries()
    about = json.loads((entry.folder / 'entry.json').read_text())
    (entry.folder / 'entry.json').write_text(json.dumps(about | {'engine': 'openvino, bfloat16'}))
    store = Store(tmp_path)
    keep(store, data(), 'train', Wanted(network()))
    assert store.computed_by == 'openvino, bfloat16'
    keep(store, data('others'), 'validation', Wanted(network()))
    assert store.computed_by == 'openvino, bfloat16' and len(store.entries()) == 2


def test_photos_in_another_order_than_their_labels_are_noticed(tmp_path):
    given = data()
    series, places = given.series['train']
    given.series['train'] = series._replace(labels=series.labels[::-1]), places
    with pytest.raises(ValueError, match='another order'):
        kept(tmp_path, given)


def test_what_float16_cannot_hold_is_an_error(tmp_path):
    assert np.isfinite(kept(tmp_path, model=network(scale=1e5)).values).all()
    with pytest.raises(InputError, match='too large for float16'):
        kept(tmp_path, model=network(scale=1e5), dtype='float16')


def test_a_disk_that_is_too_small_is_noticed_before(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda _: usage(1000, 0, 1000))
    with pytest.raises(NoRoom, match='0.001 MB are free'):
        kept(tmp_path)
    assert not Store(tmp_path).entries()


def test_a_disk_that_fills_up_is_one_line_and_the_rest_is_computed_later(tmp_path, monkeypatch, counting):
    write = module.Entry.write

    def full(entry, block, values):
        if block == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(entry, block, values)

    with monkeypatch.context() as patch:
        patch.setattr(module.Entry, 'write', full)
        with pytest.raises(InputError, match='No space left on device') as caught:
            kept(tmp_path)
    assert '\n' not in str(caught.value)
    before = counting.photos
    kept(tmp_path)
    assert counting.photos == before + N - BLOCK


def test_the_limit_removes_what_was_not_used(tmp_path):
    kept(tmp_path)
    old, = Store(tmp_path).entries()
    os.utime(old.folder / 'entry.json', (1, 1))
    kept(tmp_path, model=network(seed=1), limit=1.5 * old.n_bytes / 1e9)
    assert [entry.folder for entry in Store(tmp_path).entries()] != [old.folder]
    assert not old.folder.exists()


def test_the_command_lists_and_clears(tmp_path, shell):
    kept(tmp_path)
    code, lines, errors = shell('cache', '--cache-dir', tmp_path)
    assert (code, len(lines), errors) == (0, 2, []) and 'made up' in lines[0] and f'for {N} photos' in lines[0]
    code, lines, errors = shell('cache', '--clear', '--cache-dir', tmp_path)
    assert (code, lines[-1], errors) == (0, f'0.00 GB in {tmp_path}', []) and Store(tmp_path).entries() == []


def test_who_waits_for_another_run_reads_why(tmp_path, capsys):
    kept(tmp_path)
    held = threading.Event()

    def hold():
        with FileLock(next(tmp_path.glob('*.lock'))):
            held.set()
            time.sleep(3)

    threading.Thread(target=hold).start()
    held.wait()
    kept(tmp_path)
    assert 'another run is computing the same activations' in capsys.readouterr().err


TWO = '''
import sys
from test_store import *
done = Counting(pytest.MonkeyPatch())
values = kept(sys.argv[1]).values
print(done.photos, float(np.abs(values).sum()))
'''


def test_two_processes_at_once_compute_it_once(tmp_path):
    both = [subprocess.Popen([sys.executable, '-c', TWO, tmp_path], cwd=os.path.dirname(__file__), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    (first, total), (second, other) = (process.communicate()[0].split() for process in both)
    assert {int(first), int(second)} == {0, N} and total == other
    assert float(total) == pytest.approx(float(np.abs(expected(network())).sum()), rel=1e-4)
