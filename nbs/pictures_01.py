"""The drawings of chapter 01, so that its cells show what is computed and not how it is drawn."""
from collections.abc import Sequence

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter

PIXELS = {'xlabel': 'column (pixels)', 'ylabel': 'row (pixels)'}


def draw_network(
    network: keras.Sequential,  # layers that give pictures, then layers that give a row of numbers
) -> Figure:
    """Draw each layer's output as a box: its size stands for the side, the number of sheets for the channels."""
    figure, axis = plt.subplots(figsize=(11, 3.4), layout='constrained')
    colors = {'photo': 'tab:green', 'convolution': 'tab:blue', 'pooling': 'tab:orange'}
    stages = [('photo', network.input_shape[1:])] + [(layer.name, layer.output.shape[1:]) for layer in network.layers]
    for place, (name, shape) in enumerate(stages):
        picture = len(shape) == 3
        height = 0.006 * shape[0] if picture else (1 if shape[0] > 2 else 0.1)
        color = colors.get(name.split()[0], 'tab:gray')
        for sheet in range(2 + int(np.log2(shape[2])) if picture else 1):
            corner = (place + 0.035 * sheet, -height / 2 + 0.02 * sheet)
            axis.add_patch(plt.Rectangle(corner, 0.35 * height + 0.08, height, facecolor=color, edgecolor='white'))
        axis.text(place + 0.2, -0.62, name.replace(' ', '\n'), ha='center', va='top', fontsize=9)
        axis.text(place + 0.2, 0.72, ' x '.join(map(str, shape)), ha='center', fontsize=8)
    title = 'A convolutional network, from the photo to one number a class'
    axis.set(title=title, xlim=(-0.2, len(stages)), ylim=(-1, 0.9))
    axis.axis('off')
    plt.close(figure)
    return figure


def draw_convolution(
    grey: np.ndarray,  # (height, width), from 0 to 1
    weights: np.ndarray,  # (3, 3)
    response: np.ndarray,  # (height, width)
    row: int,  # the place whose sum is shown
    column: int,
) -> Figure:
    """Draw a picture, the window around one of its places with what is multiplied there, and the response."""
    window = grey[row - 1:row + 2, column - 1:column + 2]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout='constrained')
    axes[0].imshow(grey, cmap='gray')
    axes[0].add_patch(plt.Rectangle((column - 5, row - 5), 10, 10, fill=False, color='cyan', linewidth=2))
    axes[0].set(title='Chelsea in grey', **PIXELS)
    axes[1].imshow(window, cmap='gray', vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(window):
        color = 'black' if value > 0.5 else 'white'
        axes[1].text(j, i, f'{value:.2f} x {weights[i, j]:.0f}', ha='center', va='center', color=color)
    axes[1].set(title=f'window x filter, added up: {response[row, column]:.2f}', xticks=[], yticks=[])
    shown = axes[2].imshow(response, cmap='gray', vmin=-2, vmax=2)
    axes[2].set(title='response of the filter', **PIXELS)
    figure.colorbar(shown, ax=axes[2], label='response')
    plt.close(figure)
    return figure


def draw_pooled(
    pictures: dict[int, np.ndarray],  # by how often it was pooled: (rows, columns)
    size: int,  # pixels a side of the picture that they were made of
) -> Figure:
    """Draw responses side by side, as large as the picture that they were made of."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(10, 3.2), layout='constrained')
    for axis, (times, picture) in zip(axes, pictures.items()):
        shown = axis.imshow(picture, cmap='gray', vmin=0, vmax=2, extent=(0, size, size, 0))
        axis.set(title=f'pooled {times} times: {picture.shape[0]} x {picture.shape[1]}', **PIXELS)
    figure.colorbar(shown, ax=axes, label='response')
    plt.close(figure)
    return figure


def draw_filters(
    filters: np.ndarray,  # (3, 3, 3, n)
    responses: np.ndarray,  # (rows, columns, n)
    numbers: Sequence[int],  # of the filters that are shown
) -> Figure:
    """Draw filters as colours, each from its lowest to its highest weight, and below each its response."""
    figure, axes = plt.subplots(2, len(numbers), figsize=(11, 4), layout='constrained')
    for (above, below), i in zip(axes.T, numbers):
        above.imshow((filters[..., i] - filters[..., i].min()) / np.ptp(filters[..., i]))
        above.set(title=f'filter {i}', xticks=[], yticks=[])
        below.imshow(responses[..., i], cmap='gray')
        below.set(title='its response', xticks=[], yticks=[])
    side = responses.shape[0]
    figure.suptitle(f'First layer of EfficientNet-Lite0: filters of 3 x 3 pixels, responses of {side} x {side}')
    plt.close(figure)
    return figure


def draw_plan(
    plan: Sequence[tuple[str, int, int]],  # name, side in positions and channels, in order
    image_size: int,  # pixels a side of the photo
) -> Figure:
    """Draw side and channels of each block, the first at the top; orange where the side is halved."""
    names, sides, channels = zip(*plan)
    colors = ['tab:orange' if side < before else 'tab:blue' for side, before in zip(sides, (image_size, *sides))]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout='constrained')
    left.bar_label(left.barh(names, sides, color=colors), padding=3, fontsize=8)
    left.set(xlabel='side (positions)', ylabel='block, in order', xlim=(0, 1.15 * max(sides)))
    right.bar_label(right.barh(names, channels, color=colors), padding=3, fontsize=8)
    right.set(xlabel='channels (logarithmic)', xscale='log', xlim=(8, 2 * max(channels)))
    left.invert_yaxis()
    figure.suptitle(f'MobileNetV2 at {image_size} pixels, from top to bottom; orange: stride 2')
    plt.close(figure)
    return figure


def draw_block(
    widths: Sequence[int],  # channels of the input, of the three convolutions, and of the sum
) -> Figure:
    """Draw an inverted residual block, as wide as it has channels, with the way around it."""
    figure, axis = plt.subplots(figsize=(9, 3.2), layout='constrained')
    colors = ['tab:gray', 'tab:blue', 'tab:blue', 'tab:blue', 'tab:gray']
    axis.barh(range(5), widths, left=[-width / 2 for width in widths], height=0.5, color=colors)
    beside, edge = 0.6 * max(widths), widths[0] / 2
    axis.plot([edge, beside, beside], [0, 0, 4], color='tab:red')
    arrow = {'arrowstyle': '->', 'color': 'tab:red', 'linewidth': 1.5}
    axis.annotate('', xy=(edge, 4), xytext=(beside, 4), arrowprops=arrow)
    axis.text(1.6 * edge, 3.85, '+', color='tab:red', fontsize=18, ha='center')
    for i, width in enumerate(widths):
        axis.text(0, i, width, ha='center', va='center', color='white')
    axis.set_yticks(range(5), ['input', '1 x 1 expand', '3 x 3 depthwise', '1 x 1 project', 'sum'])
    title = 'An inverted residual block: narrow outside, wide inside'
    axis.set(title=title, xlabel='channels (number in each bar)', xlim=(-1.1 * beside, 1.1 * beside), xticks=[])
    axis.invert_yaxis()
    plt.close(figure)
    return figure


def draw_channels(
    photo: np.ndarray,  # (size, size, 3) in [-1, 1]
    maps: Sequence[np.ndarray],  # of one layer each: (rows, columns, channels)
    n: int = 3,  # channels of each layer
) -> Figure:
    """Lay over a photo the channels whose smoothed response varies most, a column for each layer."""
    size = len(photo)
    figure, axes = plt.subplots(n, len(maps), figsize=(11, 7), layout='constrained')
    for column, channels in zip(axes.T, maps):
        variation = uniform_filter(channels, (3, 3, 0)).std(axis=(0, 1))
        for axis, channel in zip(column, variation.argsort()[::-1]):
            axis.imshow((photo + 1) / 2, extent=(0, size, size, 0))
            axis.imshow(channels[..., channel], cmap='inferno', alpha=0.6, extent=(0, size, size, 0))
            axis.set_title(f'{channels.shape[0]} x {channels.shape[1]}, channel {channel}', fontsize=9)
            axis.axis('off')
    figure.suptitle('From the first layers (left) to the features (right); the brighter, the stronger')
    plt.close(figure)
    return figure
