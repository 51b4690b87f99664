"""The tutorial as it was written in 2020, ported only as far as it needs to run today. Nothing of it comes from transfer_cvd.

    python benchmarks/as_written.py                 # the whole schedule: 20 to 40 minutes on two cores
    python benchmarks/as_written.py --offline       # with transfer_cvd's drawn pets and network, which need no download

The port, in full: `RMSprop` takes `learning_rate`; accuracy cuts logits at 0, where 'accuracy' would cut them at 0.5; the first
trained layer is found by its name, since the 100th is another one today; "ten more" epochs are ten, where the tutorial's
`initial_epoch` made them eleven. Batch normalization of the unfrozen layers runs in training mode, as it does when the tutorial's
lines are run with Keras 3. What the tutorial prints and draws on the way is left out. Needs cats_vs_dogs (TFDS_DATA_DIR) and
MobileNetV2's ImageNet weights (KERAS_HOME), both downloaded if they are not there.
"""
import argparse
import json
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from measuring import PeakMemory, slices

SPLITS = ['train[:80%]', 'train[80%:90%]', 'train[90%:]']
SIZE = 160


def format_example(image, label):
    """Values from -1 to 1, 160 pixels a side."""
    image = tf.cast(image, tf.float32)
    image = (image / 127.5) - 1
    image = tf.image.resize(image, (SIZE, SIZE))
    return image, label


def load_photos(name: str, splits: list[str]) -> list[tf.data.Dataset]:
    """Batches of training, validation and test photos."""
    (raw_train, raw_validation, raw_test), metadata = tfds.load(name, split=splits, with_info=True, as_supervised=True)
    train = raw_train.map(format_example)
    validation = raw_validation.map(format_example)
    test = raw_test.map(format_example)
    return [train.shuffle(1000).batch(32), validation.batch(32), test.batch(32)]


def load_base(offline: bool) -> tuple[keras.Model, str]:
    """The network without its top, and the first of its layers that fine-tuning trains."""
    if offline:
        from transfer_cvd.networks.efficientnet_lite0 import efficientnet_lite0

        return efficientnet_lite0(SIZE), 'block_11_expand'
    return keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights='imagenet'), 'block_11_expand_BN'


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """RMSprop and the loss and accuracy of logits."""
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name='accuracy')],
    )


class Clock(keras.callbacks.Callback):
    """Seconds of each stage, and what each epoch ended with after how many seconds of all stages."""

    def __init__(self):
        super().__init__()
        self.stages, self.history = {}, []

    @contextmanager
    def time(self, stage: str):
        """Time what is done inside."""
        self.started = time.perf_counter()
        yield
        self.stages[stage] = self.stages.get(stage, 0) + time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        seconds = sum(self.stages.values()) + time.perf_counter() - self.started
        self.history.append({'epoch': epoch + 1, 'seconds': round(seconds, 2)} | logs)


def run(epochs: int = 10, fine_tune_epochs: int = 10, seed: int = 0, offline: bool = False, splits: list[str] = SPLITS) -> dict:
    """Both stages. The seconds leave out importing TensorFlow, and what training does not need: evaluating before it, testing after it."""
    keras.utils.set_random_seed(seed)
    clock = Clock()
    with PeakMemory() as peak:
        with clock.time('data'):
            train, validation, test = load_photos('drawn_pets' if offline else 'cats_vs_dogs', splits)
        with clock.time('feature_extraction'):
            base, from_layer = load_base(offline)
            base.trainable = False
            model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
            compile_model(model, 1e-4)
        loss, accuracy = model.evaluate(validation, steps=20, verbose=2)
        with clock.time('feature_extraction'):
            history = model.fit(train, epochs=epochs, validation_data=validation, callbacks=[clock], verbose=2)
        with clock.time('fine_tuning'):
            base.trainable = True
            for layer in base.layers[:base.layers.index(base.get_layer(from_layer))]:
                layer.trainable = False
            compile_model(model, 1e-5)
            if fine_tune_epochs:
                model.fit(train, epochs=epochs + fine_tune_epochs, initial_epoch=history.epoch[-1] + 1,
                          validation_data=validation, callbacks=[clock], verbose=2)
    test_loss, test_accuracy = model.evaluate(test, verbose=2)
    return {
        'stages': {name: round(seconds, 2) for name, seconds in clock.stages.items()}, 'before': {'loss': loss, 'accuracy': accuracy},
        'validation_features': clock.history[epochs - 1]['val_accuracy'], 'validation': clock.history[-1]['val_accuracy'],
        'test': test_accuracy, 'test_loss': test_loss, 'peak_gigabytes': round(peak.gigabytes, 2), 'history': clock.history,
    }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--epochs', type=int, default=10, help='of feature extraction')
    parser.add_argument('--fine-tune-epochs', type=int, default=10)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--offline', action='store_true')
    parser.add_argument('--photos', type=int, help='train on so many, validate and test on an eighth of it each')
    parser.add_argument('--out', type=Path, help='write the result to this file, too')
    arguments = parser.parse_args()
    splits = list(slices(arguments.photos).values()) if arguments.photos else SPLITS
    if arguments.offline:
        import transfer_cvd.datasets.drawn_pets.builder  # noqa: F401 (TensorFlow Datasets knows it by then)
    result = json.dumps(run(arguments.epochs, arguments.fine_tune_epochs, arguments.seed, arguments.offline, splits))
    print(result)
    if arguments.out:
        arguments.out.write_text(result + '\n')
