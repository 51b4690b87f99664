"""The pictures and figures of chapter 04 with more classes than the tutorial has."""
import numpy as np
import pytest
from PIL import Image

from transfer_cvd.evaluation.metrics import Evaluation, class_recalls
from transfer_cvd.evaluation.plots import plot_confusion, plot_per_class, show_batch
from transfer_cvd.evaluation.results import stage_results


def example(n_classes, n=600):
    """Answers of which some are wrong."""
    rng = np.random.default_rng(n_classes)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(0, 1, (n, n_classes)).astype(np.float32)
    logits[np.arange(n), labels] += 3
    return Evaluation.from_logits(logits, labels, [f'breed {i}' for i in range(n_classes)])


@pytest.mark.parametrize('n_classes', [3, 12, 40])
def test_a_confusion_matrix_that_can_be_read(n_classes):
    figure = plot_confusion(example(n_classes))
    figure.canvas.draw()
    axis = figure.axes[0]
    numbers = [text for text in axis.texts if text.get_text()]
    assert sum(int(text.get_text().split()[0]) for text in numbers) == 600
    assert any('%' in text.get_text() for text in numbers) == (n_classes <= 12)  # shares are left to the shading
    cell = axis.transData.transform([(0, 0), (1, 1)])
    width, height = np.abs(cell[1] - cell[0])
    boxes = [text.get_window_extent() for text in numbers]
    assert max(box.width for box in boxes) < width  # no number reaches into the next cell
    assert max(box.height for box in boxes) < height
    ticks = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in zip(ticks, ticks[1:]))  # nor a name into the next


@pytest.mark.parametrize('n_classes', [51, 300, 1000])
def test_a_confusion_matrix_of_many_classes_is_a_picture_of_one_size(n_classes, tmp_path):
    figure = plot_confusion(example(n_classes, n=5 * n_classes))
    figure.savefig(tmp_path / 'confusion.png', dpi=120)
    width, height = Image.open(tmp_path / 'confusion.png').size
    assert width < 2200 and height < 2200
    assert len(figure.findobj()) < 500  # a text for each cell alone would be thousands
    title = figure.axes[0].get_title()
    assert title == f'Confusion on {5 * n_classes:,} photos of {n_classes:,} classes, shades only'
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (n_classes, n_classes) and shown.diagonal().mean() > 0.2 > shown.mean()


def test_recalls_are_those_of_the_matrix():
    evaluation = example(5)
    recalls = {recall.name: recall for recall in class_recalls(evaluation)}
    for label, name in enumerate(evaluation.class_names):
        of_class = evaluation.labels == label
        assert recalls[name].share == pytest.approx((evaluation.predicted[of_class] == label).mean())
        low, high = recalls[name].interval
        assert low <= recalls[name].share <= high
    in_order = [recall.share for recall in class_recalls(evaluation)]
    assert in_order == sorted(recall.share for recall in recalls.values())


def test_bars_for_forty_classes_and_one_without_photos():
    evaluation = example(40)
    evaluation.class_names.append('none of these')
    figure = plot_per_class(evaluation)
    figure.canvas.draw()
    assert len(figure.axes[0].patches) == 40


def test_a_dollar_sign_in_a_name_is_no_formula():
    evaluation = example(3)
    evaluation.class_names[0] = '$\\frac{$'
    plot_confusion(evaluation).canvas.draw()
    show_batch([np.zeros((8, 8, 3), np.uint8)], [0], evaluation.class_names).canvas.draw()


def test_a_stage_that_was_undone_has_the_figures_of_the_start_and_its_own_facts():
    head = {'loss': [0.5], 'val_loss': [0.4], 'val_accuracy': [0.9], 'learning_rate': None, 'penalty': 10.0}
    facts = {'learning_rate': 2e-4, 'kept': 0, 'precision': 'float32'}
    tuned = {'loss': [0.1, 0.1], 'val_loss': [0.6, 0.5], 'val_accuracy': [0.8, 0.8]} | facts
    found = stage_results({'feature_extraction': head, 'fine_tuning': tuned}, 'fine_tuning')
    assert found == {'loss': 0.4, 'accuracy': 0.9, 'epochs': 2} | facts
