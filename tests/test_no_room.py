"""Where activations find no room, all photos go through the whole network: the training is the same and reported."""
import keras
import numpy as np
import pytest

from transfer_cvd.data import load_data
from transfer_cvd.feature_extraction import train_head
from transfer_cvd.fine_tuning import fine_tune
from transfer_cvd.errors import InputError
from transfer_cvd.features.store import Store
from transfer_cvd.summary import report


@pytest.fixture(scope='module')
def data(pets):
    return load_data(pets, image_size=32, batch_size=16)


@pytest.fixture(scope='module')
def base():
    keras.utils.set_random_seed(0)
    photos, layers = keras.Input((32, 32, 3)), keras.layers
    below = layers.ReLU()(layers.BatchNormalization(name='normalization')(layers.Conv2D(8, 3, strides=4)(photos)))
    return keras.Model(photos, layers.Conv2D(8, 1, name='last')(below))


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    """With room and without."""
    return {True: Store(tmp_path_factory.mktemp('kept')), False: Store(tmp_path_factory.mktemp('not kept'), limit=1e-6)}


def losses(base, data, store, augment):
    keras.utils.set_random_seed(0)
    model = train_head(base, data, 1, learning_rate=0.01, verbose=0, store=store, augment=augment)
    return model.histories['feature_extraction']['loss']


def test_photos_are_mirrored_without_room_too(base, data, stores):
    plain, mirrored = (losses(base, data, stores[False], augment) for augment in ('none', 'flip'))
    assert plain == pytest.approx(losses(base, data, stores[True], 'none'), abs=1e-4)
    assert mirrored != pytest.approx(plain, abs=1e-4)


def test_both_ways_end_with_the_same_weights(base, data, stores, tmp_path):
    """Each variable by itself: kernels, and the moving statistics of batch normalization in training mode."""
    start, ends = base.get_weights(), []
    for store in (Store(tmp_path, dtype='float32', backend='tensorflow'), stores[False]):
        base.set_weights(start)
        model = train_head(base, data, 1, verbose=0, store=store)
        fine_tune(model, data, 'normalization', 2, learning_rate=0.001, verbose=0, store=store)
        ends.append(base.get_weights())
    base.set_weights(start)
    moved = [np.abs(end - weights).max() for weights, end in zip(start, ends[0])]
    apart = [np.abs(one - other).max() for one, other in zip(*ends)]
    assert sum(length > 0 for length in moved) == 6, 'scale, centre, both statistics, and the last kernel and bias'
    assert all(distance <= length / 500 for distance, length in zip(apart, moved))


@pytest.mark.parametrize('room, precision', [(True, 'bfloat16'), (False, 'float32')])
def test_the_report_says_which_way_it_went(base, data, stores, room, precision):
    model = train_head(base, data, 1, verbose=0, store=stores[room])
    fine_tune(model, data, 'last', 1, verbose=0, store=stores[room], precision='bfloat16')
    said = report(model, data)
    assert said.feature_extraction['activations'] == said.fine_tuning['activations'] == room
    assert said.fine_tuning['precision'] == precision


def test_a_checkpoint_of_the_other_way_is_refused(base, data, stores, tmp_path):
    arguments = {'verbose': 0, 'checkpoint': tmp_path / 'head.npz', 'key': 'this'}
    train_head(base, data, 1, store=stores[False], **arguments)
    with pytest.raises(InputError, match='kept in one of the two only'):
        train_head(base, data, 2, store=stores[True], **arguments)
