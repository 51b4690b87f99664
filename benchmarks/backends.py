"""How many photos a second each backend runs through frozen layers, what the export costs, what bfloat16 changes.

    python benchmarks/backends.py                # efficientnet_lite0 on drawn pets; a minute or two
    python benchmarks/backends.py --mobilenet    # MobileNetV2 on photos too, and bfloat16; both are downloaded
"""
import argparse
import os
import time
from collections.abc import Iterable
from functools import partial

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.linear_model import LogisticRegression

from measuring import RESULTS, conditions
from transfer_cvd.datasets.drawn_pets.drawing import LABELS, draw_pet
from transfer_cvd.errors import InputError
from transfer_cvd.features.backends import (
    PACKAGES, deviations, exported_backend, inference_graph, installed, tensorflow_backend,
)
from transfer_cvd.networks.efficientnet_lite0 import efficientnet_lite0
from transfer_cvd.networks.surgery import find_cut
from transfer_cvd.photos.preprocess import format_example

SIZE, BATCH, ROUNDS = 160, 32, 20
CORES = len(os.sched_getaffinity(0))
TEXT = (
    'Both outputs are computed, the narrow tensor and the pooled features, in batches of 32 at 160 pixels: of drawn'
    ' pets with efficientnet_lite0, of photos with mobilenet_v2. They are formatted beforehand, so decoding is not '
    'counted. The backends take turns, and the shortest of 20 rounds counts. "Ready" is from the Keras model to the'
    ' first answer; export, and comparison with TensorFlow, included. "Pays from" is the number of photos that wins'
    ' this back, by processor time, if exporting keeps one core busy and running all.'
)
COLUMNS = ('network', 'backend', 'precision', 'photos a second', 'x TensorFlow', 'per second of processor time',
           'x TensorFlow', 'ready (s)', 'processor time (s)', 'pays from (photos)', 'largest difference',
           "of a photo's root mean square")
ROUNDING = (
    'What multiplies in bfloat16 rounds the weights and inputs of each convolution to 8 bits. Here that is done in '
    'TensorFlow, so that it can be tried on any processor: 2,400 photos of cats_vs_dogs, a head (logistic '
    'regression) fitted to the features of 1,600 and asked about the other 800.'
)
ROUNDING_COLUMNS = ('network', 'largest difference', "of a photo's root mean square", 'accuracy in float32',
                    'in bfloat16', 'same answer')


def mobilenet_v2() -> keras.Model:
    """MobileNetV2 without its top."""
    return keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False)


NETWORKS = {
    'efficientnet_lite0': (partial(efficientnet_lite0, SIZE), 'block_11_expand'),
    'mobilenet_v2': (mobilenet_v2, 'block_11_expand_BN'),
}


def frozen_part(name: str, change=lambda base: base) -> keras.Model:
    """The network, changed or not, with the two outputs that training starts from."""
    build, boundary = NETWORKS[name]
    base = change(build())
    return keras.Model(base.input, [*find_cut(base, boundary), keras.layers.GlobalAveragePooling2D()(base.output)])


def drawn_photos() -> np.ndarray:
    """A batch of drawn pets, float32 (32, 160, 160, 3) in [-1, 1]."""
    pets = [draw_pet(LABELS[i % 2], np.random.default_rng(i)) for i in range(BATCH)]
    return np.stack([format_example(pet, i % 2, SIZE)[0] for i, pet in enumerate(pets)])


def real_photos() -> np.ndarray:
    """The first 32 photos of cats_vs_dogs, float32 (32, 160, 160, 3) in [-1, 1]."""
    photos = tfds.load('cats_vs_dogs', split=f'train[:{BATCH}]', as_supervised=True)
    return np.stack([format_example(photo, label, SIZE)[0] for photo, label in photos])


def timed(call) -> tuple[np.ndarray, object]:
    """Seconds by the clock and of processor time that a call took, and what it gave."""
    clock, processor = time.perf_counter(), time.process_time()
    result = call()
    return np.array([time.perf_counter() - clock, time.process_time() - processor]), result


def table_row(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return f'| {" | ".join(cells)} |'


def table_head(columns: tuple[str, ...]) -> list[str]:
    """The first two lines of a table in Markdown."""
    return [table_row(columns), '| --- ' * len(columns) + '|']


def measure(network: str, photos: np.ndarray) -> list[str]:
    """A line of the table for each backend that is installed."""
    model = frozen_part(network)
    start, plain = timed(lambda: tensorflow_backend(model, photos))
    first, reference = timed(lambda: plain.run(photos))
    prepared = {'tensorflow': (start + first, plain)}
    refused = []
    for name in filter(installed, PACKAGES):
        try:
            prepared[name] = timed(lambda: exported_backend(model, name, photos))
        except InputError as error:
            refused.append(f'| {network} | {name} | refused: {error} |' + ' |' * 9)
    rounds = [[timed(lambda: backend.run(photos))[0] for _, backend in prepared.values()] for _ in range(ROUNDS)]
    seconds = dict(zip(prepared, np.min(rounds, axis=0) / BATCH))
    lines = []
    for name, (start, backend) in prepared.items():
        ratio = seconds['tensorflow'] / seconds[name]
        saved, extra = seconds['tensorflow'][1] - seconds[name][1], start[1] - prepared['tensorflow'][0][1]
        pays = f'{extra * CORES / saved:,.0f}' if saved > 0 else ''
        largest, mean_square = deviations(backend.run(photos), reference)
        cells = [network, name, backend.precision, f'{1 / seconds[name][0]:.0f}', f'{ratio[0]:.2f}',
                 f'{1 / seconds[name][1]:.0f}', f'{ratio[1]:.2f}', f'{start[0]:.1f}', f'{start[1]:.1f}', pays,
                 f'{largest:.1e}', f'{mean_square:.1e}']
        lines.append(table_row(cells))
        print(lines[-1], flush=True)
    return lines + refused


def to_bfloat16(values) -> tf.Tensor:
    """float32 values with the digits that bfloat16 has."""
    return tf.cast(tf.cast(values, tf.bfloat16), tf.float32)


class RoundedConv2D(keras.layers.Conv2D):
    """A convolution of rounded inputs."""

    def call(self, inputs):
        return super().call(to_bfloat16(inputs))


class RoundedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution of rounded inputs."""

    def call(self, inputs):
        return super().call(to_bfloat16(inputs))


def rounded(base: keras.Model) -> keras.Model:
    """The network as bfloat16 hardware runs it.

    Batch norms are multiplied into the convolutions, their inputs and weights rounded, sums are in float32.
    """
    kinds = {keras.layers.Conv2D: RoundedConv2D, keras.layers.DepthwiseConv2D: RoundedDepthwiseConv2D}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(base, clone_function=clone)
    copy.set_weights(base.get_weights())
    for layer, following in zip(copy.layers, copy.layers[1:]):
        if isinstance(layer, tuple(kinds.values())):
            gamma, beta, mean, variance = following.get_weights()
            scale = gamma / np.sqrt(variance + following.epsilon)
            per_channel = scale[:, None] if isinstance(layer, RoundedDepthwiseConv2D) else scale
            layer.set_weights([to_bfloat16(layer.get_weights()[0] * per_channel).numpy()])
            following.set_weights([np.ones_like(gamma), beta - mean * scale, np.zeros_like(mean),
                                   np.full_like(variance, 1 - following.epsilon)])
    return copy


def measure_rounding(network: str) -> str:
    """A line of the second table: 2,400 photos with and without rounding, and a head fitted to 1,600 of them."""
    exact, less = inference_graph(frozen_part(network)), inference_graph(frozen_part(network, rounded))
    photos = tfds.load('cats_vs_dogs', split='train[:2400]', as_supervised=True)
    photos = photos.map(lambda photo, label: format_example(photo, label, SIZE), tf.data.AUTOTUNE)
    worst, features, labels = np.zeros(2), [], []
    for batch, batch_labels in photos.batch(BATCH).prefetch(2):
        reference, outputs = [[output.numpy() for output in graph(batch)] for graph in (exact, less)]
        worst = np.maximum(worst, deviations(outputs, reference))
        features.append([reference[1], outputs[1]])
        labels.append(batch_labels.numpy())
    labels, answers = np.concatenate(labels), []
    for rows in (np.concatenate(kind) for kind in zip(*features)):
        head = LogisticRegression(C=0.01, max_iter=1000).fit(rows[:1600], labels[:1600])
        answers.append(head.predict(rows[1600:]))
    accuracies = ' | '.join(f'{(given == labels[1600:]).mean():.4f}' for given in answers)
    return f'| {network} | {worst[0]:.2f} | {worst[1]:.2f} | {accuracies} | {(answers[0] == answers[1]).mean():.4f} |'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mobilenet', action='store_true', help='measure MobileNetV2 too, and bfloat16 on photos')
    parser.add_argument('--not-alone', action='store_true', help='note that the machine had other work')
    arguments = parser.parse_args()
    libraries = [package for packages in PACKAGES.values() for package in packages]
    busy = ' The machine had other work at the same time: rely on the processor time.' if arguments.not_alone else ''
    lines = [f'# Backends\n\n{conditions(*libraries)}.{busy}\n\n{TEXT}\n', *table_head(COLUMNS)]
    lines += measure('efficientnet_lite0', drawn_photos())
    if arguments.mobilenet:
        lines += measure('mobilenet_v2', real_photos())
        lines += [f'\n## bfloat16\n\n{ROUNDING}\n', *table_head(ROUNDING_COLUMNS)]
        lines.append(measure_rounding('mobilenet_v2'))
    (RESULTS / 'backends.md').write_text('\n'.join(lines) + '\n')
