"""How much of a Grad-CAM map lies on the animal, on 200 drawn pets with the animal in one corner.

    python benchmarks/explanations.py            # about four minutes

The head learns from the 1,600 training pictures of 'drawn_pets' at 160 pixels, whole animals in the middle; it is asked
about animals drawn into one corner, in a box of at most a quarter of the area.
"""
import keras
import numpy as np
import tensorflow as tf

from measuring import RESULTS, conditions
from transfer_cvd.base_model import base_model
from transfer_cvd.data import load_data
from transfer_cvd.datasets.drawn_pets.localization import boxes, pet_in_corner, share_inside
from transfer_cvd.evaluation.explanations import enlarged, explain_photos
from transfer_cvd.feature_extraction import add_head, train_head

BASE, N, SIZES, SEED = 'efficientnet_lite0', 200, (160, 224, 320, 321, 481), 7
LABELS = np.arange(N) % 2


def images(pictures: np.ndarray, size: int) -> tf.data.Dataset:
    """Batches of `pictures` as the network takes them."""
    def format_batch(batch):
        return tf.image.resize(tf.cast(batch, tf.float32) / 127.5 - 1, (size, size))

    return tf.data.Dataset.from_tensor_slices(pictures).batch(20).map(format_batch)


def accuracy(network: keras.Model, pictures: np.ndarray, size: int) -> float:
    """The share that is classified correctly when the network works at `size` pixels."""
    logits = enlarged(network, size).predict(images(pictures, size), verbose=0)[:, 0]
    return float(((logits > 0) == LABELS).mean())


def all_features(network: keras.Model, pictures: np.ndarray, size: int) -> np.ndarray:
    """The sum of all features at each place, with no class asked about: what any object would light up."""
    features = enlarged(network, size).backbone.predict(images(pictures, size), verbose=0)
    return tf.image.resize(features.sum(axis=-1, keepdims=True), pictures.shape[1:3]).numpy()[..., 0]


def shares(heats: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """The shares of the strongest tenth on the animal's pixels and in its box."""
    return share_inside(heats, masks), share_inside(heats, boxes(masks))


def untrained_shares(pictures: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """The same for networks with random weights, the mean of three."""
    found = []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        network = add_head(base_model(BASE, weights=None), 2, seed)
        found.append(shares(np.stack(explain_photos(network, pictures)), masks))
    return tuple(np.mean(found, axis=0).tolist())


def table(rows: list[tuple], masks: np.ndarray) -> str:
    """The shares, a row each way, as a page of Markdown."""
    area, box = masks.mean(axis=(1, 2)), boxes(masks).mean(axis=(1, 2))
    lines = [
        f'# How much of a Grad-CAM map lies on the animal\n\n{conditions()}.\n\n'
        f'`{BASE}`, its head trained on 1,600 pictures of `drawn_pets` at 160 pixels (10 epochs), '
        f'asked about {N} drawn pets of 320 x 320 pixels, the animal in one corner. '
        'The share of the strongest tenth of each map that lies on the '
        'pixels of the animal, and in the upright box around it. '
        f'The animal\'s pixels are {area.mean():.1%} of the area (at most {area.max():.1%}), its box '
        f'{box.mean():.1%} (at most {box.max():.1%}): a map that knows nothing reaches those figures.\n',
        '| map | pixels a side | photos classified correctly | strongest tenth on its pixels | in its box |',
        '| --- ' * 5 + '|',
    ]
    for name, size, right, on_pixels, in_box in rows:
        share_right = '' if right is None else f'{right:.1%}'
        lines.append(f'| {name} | {size} | {share_right} | {on_pixels:.1%} | {in_box:.1%} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    pets = [pet_in_corner(('cat', 'dog')[label], np.random.default_rng((SEED, i))) for i, label in enumerate(LABELS)]
    pictures, masks = (np.stack(group) for group in zip(*pets))
    network = train_head(base_model(BASE), load_data('drawn_pets'), 10, verbose=0)
    rows = []
    for size in SIZES:
        heats = np.stack(explain_photos(network, pictures, image_size=size))
        rows.append(('Grad-CAM', size, accuracy(network, pictures, size), *shares(heats, masks)))
        print(rows[-1], flush=True)
    rows.append(('Grad-CAM, random weights (mean of three)', 321, None, *untrained_shares(pictures, masks)))
    of_all = shares(all_features(network, pictures, 321), masks)
    rows.append(('the sum of all features, no class asked about', 321, None, *of_all))
    page = table(rows, masks)
    (RESULTS / 'explanations.md').write_text(page)
    print(page)
