"""From which cosine of their features are two photos almost the same? And how long does it take to compare 20,000?

    python benchmarks/near_duplicates.py     # needs cats_vs_dogs from TFDS, and MobileNetV2's weights from Keras

All pairs of the first 2,500 photos of cats_vs_dogs, as different pictures; and 100 of them beside changed copies of
themselves.
"""
import io
import os
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_CPU_ALLOCATOR_USE_BFC', '1')

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from measuring import RESULTS, PeakMemory, conditions
from PIL import Image, ImageEnhance

from transfer_cvd.photos.preprocess import format_example
from transfer_cvd.networks.efficientnet_lite0 import efficientnet_lite0
from transfer_cvd.photos.near_duplicates import THRESHOLD, find_groups

PHOTOS, CHANGED, SIZE = 2500, 100, 160
LIMITS = (0.75, 0.8, 0.85, 0.875, 0.9)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=40)
    return Image.open(buffer).convert('RGB')


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = int(share * image.width), int(share * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES = {
    'half the size': lambda image: image.resize((image.width // 2, image.height // 2)),
    'JPEG of quality 40': recompressed,
    '3% cropped on each side': lambda image: cropped(image, 0.03),
    '6% cropped on each side': lambda image: cropped(image, 0.06),
    'shifted by 5%': lambda image: image.crop((image.width // 20, 0, image.width, image.height * 19 // 20)),
    '15% brighter': lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    'turned by 3 degrees': lambda image: cropped(image.rotate(3, Image.Resampling.BICUBIC), 0.04),
}


def unit_features(network: keras.Model, images) -> np.ndarray:
    """The pooled features of pictures, each of length 1."""
    compute = tf.function(lambda batch: tf.reduce_mean(network(batch, training=False), (1, 2)), reduce_retracing=True)
    rows, batch = [], []
    for image in images:
        batch.append(format_example(np.asarray(image), 0, SIZE)[0])
        if len(batch) == 50:
            rows.append(compute(tf.stack(batch)).numpy())
            batch = []
    features = np.concatenate(rows)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def photos():
    """The photos, one after the other."""
    data = tfds.load('cats_vs_dogs', split=f'train[:{PHOTOS}]', as_supervised=True)
    return (image for image, _ in tfds.as_numpy(data))


def of_base(name: str, network: keras.Model) -> str:
    """What the features of one network tell, as Markdown."""
    features = unit_features(network, photos())
    pairs = (features @ features.T)[np.triu_indices(PHOTOS, 1)]
    some = [Image.fromarray(image) for image, _ in zip(photos(), range(CHANGED))]
    lines = [f'## {name}', '',
             f'Of {len(pairs):,} pairs of different pictures, with a median of {np.median(pairs):.2f},', '',
             '| over | ' + ' | '.join(map(str, LIMITS)) + ' |', '| --- |' + ' --- |' * len(LIMITS),
             '| pairs | ' + ' | '.join(str(int((pairs > limit).sum())) for limit in LIMITS) + ' |', '',
             f'{CHANGED} photos beside themselves:', '',
             f'| change | lowest | median | {THRESHOLD} or more |', '| --- | --- | --- | --- |']
    for change, function in CHANGES.items():
        cosines = (unit_features(network, map(function, some)) * features[:CHANGED]).sum(1)
        over = np.mean(cosines >= THRESHOLD)
        lines.append(f'| {change} | {cosines.min():.2f} | {np.median(cosines):.2f} | {over:.0%} |')
    return '\n'.join(lines)


def speed() -> str:
    """How long 20,000 photos take, of which 5,000 are copies, and what memory beside that of the features."""
    features = np.abs(np.random.default_rng(0).normal(size=(20_000, 1280))).astype(np.float32)
    features -= 0.7
    features[15_000:] = features[:5_000] + 0.01
    with PeakMemory() as before:
        time.sleep(0.3)
    started = time.perf_counter()
    with PeakMemory() as memory:
        groups = find_groups(features)
    seconds = time.perf_counter() - started
    return (f'20,000 photos with 1,280 features each: {len(groups):,} groups in {seconds:.1f} seconds, '
            f'{memory.gigabytes - before.gigabytes:.2f} GB of memory beside the features.')


def main() -> None:
    bases = {'efficientnet_lite0': efficientnet_lite0(SIZE),
             'mobilenet_v2': keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False)}
    tables = '\n\n'.join(of_base(name, network) for name, network in bases.items())
    text = (f'# Cosines of near-duplicates\n\n{tables}\n\n## Speed\n\n{speed()}\n\n{conditions()}. '
            'Made by `python benchmarks/near_duplicates.py`.\n')
    print(text)
    (RESULTS / 'near_duplicates.md').write_text(text)


if __name__ == '__main__':
    main()
