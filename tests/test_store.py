"""Activations that are kept: damage, a full disk, two processes at once, and what must not be mistaken for another."""
import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from filelock import FileLock

from transfer_cvd.errors import InputError
from transfer_cvd.features import store as module
from transfer_cvd.features.store import BLOCK, NoRoom, Store, Wanted, default_folder, mirror, read_kept
from transfer_cvd.photos.data import Series

N = 2 * BLOCK + 70  # the last block is a short one


def photo_series(identity='these photos', size=32):
    photos = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 3), np.uint8)
    labels = np.arange(N) % 2
    raw = tf.data.Dataset.from_tensor_slices((photos, labels))
    return Series('made up', identity, raw, labels, size, n_all=N)


def network(seed=0, size=32, scale=1.0):
    keras.utils.set_random_seed(seed)
    photos = keras.Input((size, size, 3))
    bias = keras.initializers.Constant(scale)
    return keras.Model(photos, keras.layers.Conv2D(4, 16, strides=16, bias_initializer=bias)(photos))


class Counting:
    """The backend that would be chosen, and how many photos it was given."""

    def __init__(self, monkeypatch):
        self.photos = 0
        choose = module.choose_backend

        def counting(model, *arguments):
            backend = choose(model, *arguments)
            return backend._replace(run=lambda photos: self.run(backend, photos))

        monkeypatch.setattr(module, 'choose_backend', counting)

    def run(self, backend, photos):
        self.photos += len(photos)
        return backend.run(photos)


@pytest.fixture
def counting(monkeypatch):
    return Counting(monkeypatch)


def kept(folder, series=None, model=None, dtype='float32', **settings):
    return Store(folder, **settings).keep(series or photo_series(), Wanted(model or network(), dtype))[0]


def expected(model):
    return np.concatenate([model(images).numpy() for images, _ in photo_series().formatted().batch(32)])


def damage(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_damaged_block_is_computed_again_and_no_other(tmp_path, counting):
    first = np.array(kept(tmp_path).values)
    assert counting.photos == N
    np.testing.assert_allclose(first, expected(network()), rtol=1e-4, atol=1e-5)
    damage(next(tmp_path.glob('*/values.npy')), -1)
    np.testing.assert_array_equal(kept(tmp_path).values, first)
    assert counting.photos == N + N % BLOCK


def test_what_two_entries_lack_is_computed_in_one_pass(tmp_path, counting):
    straight = Wanted(network())
    wanted = straight, mirror(straight)
    before = [np.array(each.values) for each in Store(tmp_path).keep(photo_series(), *wanted)]
    assert counting.photos == N
    store = Store(tmp_path)
    for each, position in zip(wanted, (500, -1)):  # in the first block of one, in the last of the other
        damage(store._request(photo_series(), each).folder / 'values.npy', position)
    after = store.keep(photo_series(), *wanted)
    assert all(np.array_equal(*pair) for pair in zip(before, [each.values for each in after]))
    assert counting.photos == N + BLOCK + N % BLOCK, 'the block in the middle is not computed again'


@pytest.mark.parametrize('other', [
    dict(series=photo_series('other photos')),
    dict(model=network(seed=1)),
    dict(series=photo_series(size=48), model=network(size=48)),
    dict(dtype='float16'),
    dict(backend='tensorflow'),
])
def test_only_an_exact_match_is_found(tmp_path, counting, other):
    kept(tmp_path)
    kept(tmp_path)
    assert counting.photos == N
    kept(tmp_path, **other)
    assert counting.photos == 2 * N
    assert len(Store(tmp_path).entries()) == 2


def test_an_entry_that_says_nothing_is_made_anew(tmp_path, counting):
    kept(tmp_path)
    next(tmp_path.glob('*/entry.json')).write_text('{')
    assert kept(tmp_path).values.shape == (N, 2, 2, 4)
    assert counting.photos == 2 * N


def test_the_series_of_another_split_is_computed_by_the_same_backend(tmp_path, monkeypatch):
    asked = []
    choose = module.choose_backend

    def recording(model, name, sample, n_photos):
        asked.append((name, n_photos))
        return choose(model, name, sample, n_photos)

    monkeypatch.setattr(module, 'choose_backend', recording)
    train = photo_series()
    validation = replace(train, identity='others', raw=train.raw.skip(9).take(40), labels=train.labels[9:49])
    store = Store(tmp_path)
    store.keep(train, Wanted(network()))
    store.keep(validation, Wanted(network()))
    assert asked == [('auto', N)], 'it is remembered'
    Store(tmp_path).keep(replace(validation, identity='more'), Wanted(network()))
    assert asked == 2 * [('auto', N)], 'another process, as after a stop between the two, asks for the same'


def test_what_is_kept_says_what_computed_it(tmp_path):
    assert kept(tmp_path).backend == 'tensorflow, float32 (exporting pays from 2,000 photos on)'
    (entry,) = Store(tmp_path).entries()
    about = json.loads((entry.folder / 'entry.json').read_text())
    (entry.folder / 'entry.json').write_text(json.dumps(about | {'backend': 'openvino, bfloat16'}))
    assert kept(tmp_path).backend == 'openvino, bfloat16'
    damage(entry.folder / 'values.npy', -1)
    assert kept(tmp_path).backend == 'openvino, bfloat16', 'it computed the most, before the damage'


def test_some_photos_of_a_series(tmp_path):
    whole = kept(tmp_path)
    assert np.array_equal(whole.indices, np.arange(N))
    indices = np.array([N - 1, 3, 300])
    (part,) = Store(tmp_path).keep(photo_series(), Wanted(network()), indices=indices)
    ((values, labels),) = read_kept(part, tf.data.Dataset.from_tensors([2, 0]))
    assert np.array_equal(values, whole.values[[300, N - 1]])
    assert np.array_equal(labels, photo_series().labels[[300, N - 1]])


def test_photos_in_another_order_than_their_labels_are_noticed(tmp_path):
    series = photo_series()
    with pytest.raises(ValueError, match='another order'):
        kept(tmp_path, replace(series, labels=series.labels[::-1]))


def test_too_few_photos_are_noticed(tmp_path):
    series = photo_series()
    with pytest.raises(ValueError, match=f'520 photos came, and {N} were expected'):
        kept(tmp_path, replace(series, raw=series.raw.take(520)))


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


def test_a_disk_that_fills_up_is_one_line_and_the_rest_is_computed_later(tmp_path, monkeypatch, counting, caplog):
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
    with caplog.at_level(logging.INFO):
        kept(tmp_path)
    assert counting.photos == before + N - BLOCK
    assert f'going on with activations: {BLOCK} of {N} photos are there' in caplog.messages


def test_the_limit_removes_what_was_not_used(tmp_path):
    kept(tmp_path)
    (old,) = Store(tmp_path).entries()
    os.utime(old.folder / 'entry.json', (1, 1))
    kept(tmp_path, model=network(seed=1), limit=1.5 * old.n_bytes / 1e9)
    assert [entry.folder for entry in Store(tmp_path).entries()] != [old.folder]
    assert not old.folder.exists()


def test_size_and_folder_are_told_before_anything_is_computed(tmp_path, monkeypatch, caplog):
    def forbidden(*arguments):
        raise AssertionError('this would compute')

    monkeypatch.setattr(module, 'choose_backend', forbidden)
    with caplog.at_level(logging.INFO), pytest.raises(AssertionError, match='this would compute'):
        kept(tmp_path)
    assert caplog.messages == [f'activations of {N} photos: {N * 2 * 2 * 4 * 4 / 1e6:.3g} MB in {tmp_path}']


def test_where_a_store_is(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert Store().folder == default_folder() == tmp_path / 'transfer_cvd' / 'activations'
    assert Store(tmp_path / 'here').folder == tmp_path / 'here'
    store = Store.temporary(dtype='float32', backend='tensorflow')
    folder = store.folder
    assert (store.dtype, store.backend) == ('float32', 'tensorflow')
    assert folder.is_dir()
    del store
    assert not folder.exists()


def test_the_command_lists_and_clears(tmp_path, shell):
    kept(tmp_path)
    code, lines, errors = shell('cache', '--cache-dir', tmp_path)
    assert (code, len(lines), errors) == (0, 2, [])
    assert 'made up' in lines[0] and f'for {N} photos' in lines[0]
    code, lines, errors = shell('cache', '--clear', '--cache-dir', tmp_path)
    assert (code, lines[-1], errors) == (0, f'0.00 GB in {tmp_path}', [])
    assert Store(tmp_path).entries() == []


def test_who_waits_for_another_run_reads_why(tmp_path, caplog):
    kept(tmp_path)
    held = threading.Event()

    def hold():
        with FileLock(next(tmp_path.glob('*.lock'))):
            held.set()
            time.sleep(3)

    threading.Thread(target=hold).start()
    held.wait()
    kept(tmp_path)
    assert f'another run is computing the same activations in {tmp_path}: waiting for it' in caplog.messages


TWO = '''
import sys
from test_store import *
done = Counting(pytest.MonkeyPatch())
values = kept(sys.argv[1]).values
print(done.photos, float(np.abs(values).sum()))
'''


def test_two_processes_at_once_compute_it_once(tmp_path):
    command = [sys.executable, '-c', TWO, tmp_path]
    here = os.path.dirname(__file__)
    both = [subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    (first, total), (second, other) = (process.communicate()[0].split() for process in both)
    assert {int(first), int(second)} == {0, N}
    assert total == other
    assert float(total) == pytest.approx(float(np.abs(expected(network())).sum()), rel=1e-4)
