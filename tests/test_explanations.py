"""Grad-CAM: the right map where it is known, for every kind of base, at every size."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from transfer_cvd.base_model import base_model
from transfer_cvd.datasets.drawn_pets.localization import boxes, pet_in_corner, share_inside
from transfer_cvd.evaluation.explanations import (
    draw_explanation, draw_explanations, enlarged, explain_photos, grad_cam, overlay
)
from transfer_cvd.feature_extraction import add_head
from transfer_cvd.fine_tuning import unfreeze_from


@pytest.fixture(scope='module')
def red_or_green():
    """A network that sees red and green in places of 8 x 8 pixels: red speaks for class 1, green for class 0."""
    pooling = keras.layers.AveragePooling2D(8)
    base = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(0.5, 0.5), pooling])
    network = add_head(base, 2)
    network.head.set_weights([np.array([[1.0], [-1.0], [0.0]]), np.array([0.0])])
    return network


def picture(colour, rows, columns):
    """Black, with a patch of one colour, in [-1, 1]."""
    image = np.full((32, 32, 3), -1, np.float32)
    image[rows, columns, colour] = 1
    return image


def test_the_map_is_where_the_evidence_is(red_or_green):
    upper_left, lower_right = (slice(0, 8), slice(0, 8)), (slice(24, 32), slice(24, 32))
    both = np.maximum(picture(0, *upper_left), picture(1, *lower_right))
    one, zero = grad_cam(red_or_green, np.stack([both, both]), classes=[1, 0])
    assert one[0, 0] == 1 and one[31, 31] == 0 and one.mean() < 0.15
    assert zero[31, 31] == 1 and zero[0, 0] == 0


def test_the_default_is_the_class_that_is_answered(red_or_green):
    images = np.stack([picture(0, slice(0, 16), slice(0, 8)), picture(1, slice(0, 16), slice(0, 8))])
    np.testing.assert_array_equal(grad_cam(red_or_green, images), grad_cam(red_or_green, images, classes=[1, 0]))


def test_where_nothing_speaks_for_the_class_the_map_is_empty(red_or_green):
    heat = grad_cam(red_or_green, picture(1, slice(0, 8), slice(0, 8))[None], classes=[1])
    np.testing.assert_array_equal(heat, np.zeros((1, 32, 32)))


def test_a_photo_is_explained_in_its_own_size(red_or_green):
    photo = np.zeros((50, 120, 3), np.uint8)
    photo[:, 90:, 0] = 255
    wide, tall = explain_photos(red_or_green, [photo, photo.transpose(1, 0, 2)])
    assert wide.shape == (50, 120) and tall.shape == (120, 50)
    assert wide[:, 105:].min() > 0.9 and wide[:, :75].max() < 0.1
    np.testing.assert_allclose(wide, tall.T, atol=1e-4)
    assert [heat.shape for heat in explain_photos(red_or_green, [photo] * 20, classes=[0] * 20)] == [(50, 120)] * 20


def test_photos_are_explained_as_their_pixels_are():
    network = add_head(base_model('mobilenet_v2', 64, weights=None), 3)
    photos = np.random.default_rng(0).integers(0, 256, (3, 129, 129, 3), np.uint8)
    expected = grad_cam(enlarged(network, 129), photos / np.float32(127.5) - 1, classes=[2, 0, 1])
    np.testing.assert_allclose(explain_photos(network, photos, classes=[2, 0, 1]), expected, atol=1e-3)


class Noting(keras.layers.Layer):
    """Notes the shapes that it was given while nothing was a graph."""

    eager = []

    def call(self, images):
        if tf.executing_eagerly():
            self.eager.append(images.shape)
        return images


def test_a_base_runs_as_a_graph_which_keeps_nothing_it_needs_no_more():
    base = keras.Sequential([keras.Input((32, 32, 3)), Noting(), keras.layers.AveragePooling2D(8)])
    network = add_head(base, 2)
    grad_cam(network, np.zeros((2, 32, 32, 3), np.float32))
    assert Noting.eager == [(2, 32, 32, 3)]
    Noting.eager.clear()
    explain_photos(network, np.zeros((6, 40, 40, 3), np.uint8))
    assert Noting.eager == []


@pytest.mark.parametrize('name, boundary', [
    ('mobilenet_v2', 'block_11_expand_BN'),
    ('convnext_tiny', 'convnext_tiny_stage_2_block_6_depthwise_conv'),
    ('resnet50', 'conv4_block4_1_conv'),
])
def test_every_kind_of_base_can_be_enlarged(name, boundary):
    network = add_head(base_model(name, 64, weights=None), 3)
    unfreeze_from(network.backbone, boundary)  # the order of the weights must not depend on what is trained
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    same, large = enlarged(network, 64), enlarged(network, 129)
    np.testing.assert_allclose(same(images).numpy(), network(images).numpy(), atol=1e-5)
    assert large.backbone.output_shape[1] >= 2 * network.backbone.output_shape[1]
    heat = grad_cam(large, np.random.default_rng(0).uniform(-1, 1, (2, 129, 129, 3)).astype(np.float32), classes=[2, 0])
    assert heat.shape == (2, 129, 129) and 0 <= heat.min() and heat.max() <= 1


def test_the_animal_is_in_a_corner():
    pets = [pet_in_corner(('cat', 'dog')[i % 2], np.random.default_rng(i), 160) for i in range(12)]
    masks = np.stack([mask for _, mask in pets])
    assert 0.06 < masks.mean() < 0.2 and boxes(masks).mean(axis=(1, 2)).max() <= 0.25
    for lines in (masks.any(axis=2), masks.any(axis=1)):  # each is near one of two opposite edges
        near_start, near_end = lines[:, :28].any(axis=1), lines[:, -28:].any(axis=1)
        assert (near_start != near_end).mean() > 0.8 and (near_start | near_end).all()
    again, _ = pet_in_corner('cat', np.random.default_rng(0), 160)
    np.testing.assert_array_equal(again, pets[0][0])


def test_shares_of_what_is_known():
    mask = np.zeros((1, 10, 10), bool)
    mask[0, :5] = True
    heat = mask.astype(float)
    assert share_inside(heat, mask) == 1 and share_inside(heat, ~mask) == 0 and share_inside(heat, mask, 1.0) == 0.5


def test_pictures_of_any_title_and_size():
    photo, heat = np.full((7, 300, 3), 200, np.uint8), np.tile(np.linspace(0, 1, 300), (7, 1))
    alone = draw_explanation(photo, heat, r'$\frac{$ <b>, 0.9')
    together = draw_explanations([photo] * 5, [heat] * 5, ['$x^2$ 猫'] * 5, columns=2)
    for figure in (alone, together):
        figure.canvas.draw()
    np.testing.assert_array_equal(overlay(photo, 0 * heat), photo)
