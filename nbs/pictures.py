"""Pictures that the chapters show. How they are drawn is no part of the lesson."""
import matplotlib.pyplot as plt
import numpy as np

FROZEN, TRAINED = 'lightgray', 'orange'


def plot_promise(
    promise: dict[str, list[tuple]],  # by the kind of features: photos, then mean, lowest and highest accuracy
) -> None:
    """Draw accuracy against the number of photos to learn from."""
    _, axis = plt.subplots(figsize=(6.5, 3))
    for name, rows in promise.items():
        photos, mean, low, high = np.transpose(rows)
        axis.errorbar(photos, mean, [mean - low, high - mean], fmt='o-', capsize=4, label=name)
    axis.axhline(0.5, color='gray', linestyle=':', label='guessing')
    axis.set(xscale='log', xticks=photos, xticklabels=[f'{n:,.0f}' for n in photos], ylim=(0.45, 1),
             xlabel='photos to learn from', ylabel='accuracy on 1,000 others',
             title='What a pretrained network is worth')
    axis.minorticks_off()
    axis.legend(loc='center right')
    plt.show()


def plot_losses(
    curves: dict[str, list[float]],  # the loss after each step, by name
    title: str,
    xlabel: str = 'step',
    ylabel: str = 'loss',
) -> None:
    """Draw losses against steps or epochs, one line each."""
    _, axis = plt.subplots(figsize=(6.5, 3))
    for name, losses in curves.items():
        axis.plot(range(1, len(losses) + 1), losses, 'o-' if len(losses) <= 20 else '-', markersize=4, label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc='center left', bbox_to_anchor=(1, 0.5))
    plt.show()


def plot_line(
    x: np.ndarray,  # two features of each photo, (n, 2)
    labels: np.ndarray,  # 0 or 1, (n,)
    class_names: list[str],  # the name of each label
    w: np.ndarray,  # two weights
    b: float,  # the bias
    star: np.ndarray,  # the two features of one photo
    features: list[int],  # the numbers of the two features
) -> None:
    """Draw photos as points, and as a colour the probability that a head on two features gives to each point."""
    figure, axis = plt.subplots(figsize=(6.5, 4))
    across, up = np.meshgrid(*(np.linspace(0, 1.05 * max(x[:, i].max(), star[i]), 200) for i in (0, 1)))
    probability = 1 / (1 + np.exp(-(w[0] * across + w[1] * up + b)))
    shade = axis.contourf(across, up, probability, np.linspace(0, 1, 21), cmap='coolwarm', alpha=0.6)
    axis.contour(across, up, probability, [0.5], colors='white', linewidths=2)
    for label, colour in ((0, 'navy'), (1, 'darkred')):
        axis.scatter(*x[labels == label].T, s=8, color=colour, label=class_names[label])
    axis.scatter(*star, s=180, marker='*', color='gold', edgecolor='black', label='Chelsea')
    right = np.mean((x @ w + b > 0) == labels)
    axis.set(title=f'A head on two features: right for {right:.0%} of these {len(x)} training photos',
             xlabel=f'feature {features[0]}', ylabel=f'feature {features[1]}')
    axis.legend(loc='upper right')
    figure.colorbar(shade, ticks=np.linspace(0, 1, 6), label=f'probability of {class_names[1]}')
    plt.show()


def _draw_row(axis: plt.Axes, y: float, title: str, parts: list[tuple[float, float, str, str]]) -> None:
    "Draw boxes in a row, each with its left edge, width, text and colour, and the gradient's way back below them."
    axis.text(0, y + 0.7, title, fontsize=11, fontweight='bold')
    for left, width, text, colour in parts:
        axis.add_patch(plt.Rectangle((left, y), width, 0.6, facecolor=colour, edgecolor='black'))
        axis.text(left + width / 2, y + 0.3, text, ha='center', va='center', fontsize=8)
        if text != 'logit':
            axis.annotate('', (left + width + 0.2, y + 0.3), (left + width, y + 0.3), arrowprops={'arrowstyle': '->'})
    first = min(left for left, _, _, colour in parts if colour == TRAINED)
    back = {'arrowstyle': '->', 'color': 'orangered', 'lw': 2}
    axis.annotate('', (first, y - 0.13), (10.4, y - 0.13), arrowprops=back)
    axis.text(10.45, y - 0.13, 'gradient', color='orangered', fontsize=8, va='center')


def plot_frozen_and_trained() -> None:
    """Draw MobileNetV2 with a head twice, as feature extraction and as fine-tuning train it."""
    _, axis = plt.subplots(figsize=(9.5, 3.6))
    photo = (-0.25, 1.35, 'photo\n160 x 160 x 3', 'white')
    rest = [
        (6.9, 1.35, 'mean over\n5 x 5 positions', 'white'),
        (8.45, 1.05, 'head\n1,281\ntrained', TRAINED),
        (9.7, 0.7, 'logit', 'white'),
    ]
    whole = [(1.3, 5.4, 'base model\n2,257,984 numbers, frozen', FROZEN)]
    halves = [
        (1.3, 2.6, 'lower layers of the base\n395,392, not trained', FROZEN),
        (4.1, 2.6, 'top layers of the base\n1,862,592, trained', TRAINED),
    ]
    _draw_row(axis, 1.7, 'Feature extraction (chapter 02)', [photo, *whole, *rest])
    _draw_row(axis, 0, 'Fine-tuning (chapter 03)', [photo, *halves, *rest])
    axis.set(xlim=(-0.35, 11.3), ylim=(-0.4, 2.7), title='What is frozen (grey) and what is trained (orange)')
    axis.axis('off')
    plt.show()


def plot_seconds(
    seconds: dict[str, float],  # by what took them
    title: str,
) -> None:
    """Draw how long each way took."""
    _, axis = plt.subplots(figsize=(7, 0.8 + 0.4 * len(seconds)))
    bars = axis.barh(list(seconds), list(seconds.values()))
    axis.bar_label(bars, fmt=' %.0f s')
    axis.set(title=title, xlabel='seconds, as this run measured them', xlim=(0, 1.15 * max(seconds.values())))
    axis.invert_yaxis()
    plt.show()


def plot_ways(
    ways: dict[str, dict[str, list[float]]],  # by name: what `fit` recorded
    title: str,
) -> None:
    """Draw training loss (dashed) and validation loss (solid) of several ways to go on after the head."""
    _, axis = plt.subplots(figsize=(7.5, 3.6))
    for name, history in ways.items():
        epochs = range(1, len(history['loss']) + 1)
        line, = axis.plot(epochs, history['val_loss'], 'o-', markersize=4, label=f'validation, {name}')
        axis.plot(epochs, history['loss'], '--', color=line.get_color(), label=f'training, {name}')
    axis.set(title=title, xlabel='epoch after the head', ylabel='loss', ylim=(0, None))
    axis.legend(loc='center left', bbox_to_anchor=(1, 0.5))
    plt.tight_layout()
    plt.show()


def plot_intervals(
    intervals: dict[int, tuple[float, float]],  # lowest and highest value, by the number of photos
    accuracy: float,  # for which they are
) -> None:
    """Draw the 95% interval of an accuracy against the number of test photos."""
    _, axis = plt.subplots(figsize=(6.5, 2.8))
    low, high = np.transpose(list(intervals.values()))
    axis.errorbar(list(intervals), [accuracy] * len(intervals), [accuracy - low, high - accuracy], fmt='o', capsize=5)
    axis.set(xscale='log', xlabel='test photos (logarithmic axis)', ylabel='accuracy',
             title=f'95% interval of an accuracy of {accuracy}')
    axis.set_xticks(list(intervals), [f'{n:,}' for n in intervals])
    axis.minorticks_off()
    plt.show()
