"""Near-duplicates follow the oldest of them, no class loses a split by it, and the tables say what was done and why."""
import csv
import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from transfer_cvd.photos import splits as splits_module
from transfer_cvd.photos.near_duplicates import find_groups
from transfer_cvd.photos.splits import (
    BORDERS, PhotoFolder, decide_splits, follow_oldest, group_numbers, groups_apart, split_at, split_fraction,
    write_skipped, write_splits,
)

INSIDE = {'train': 0.1, 'validation': 0.85, 'test': 0.95}  # a fraction within the borders of each split


def folder(bursts, given='', seed=0):
    """Photos of two classes, `bursts` [(label, size), ...], older ones first, and features, alike within a burst."""
    rng = np.random.default_rng(seed)
    labels, names, features = [], [], []
    for number, (label, size) in enumerate(bursts):
        middle = rng.normal(size=64)
        for i in range(size):
            labels.append(label)
            names.append(f'{("cat", "dog")[label]}/{number:03} {i}.jpg')
            features.append(middle + 0.05 * rng.normal(size=64))
    fractions = [split_fraction(name.encode().ljust(16).hex(), seed) for name in names]
    by_fraction = map(split_at, fractions)
    photos = PhotoFolder(
        class_names=['cat', 'dog'], paths=names, labels=np.array(labels), contents=list(names), fractions=fractions,
        times=list(range(len(names))), given=[split if split in given.split() else '' for split in by_fraction],
        lasting_warnings=['one line'],
    )
    return decide_splits(photos), np.array(features, np.float32)


def with_splits(found, indices, splits):
    """The photos, decided again with fractions that put those at `indices` into `splits`."""
    for i, split in zip(range(len(found.paths))[indices], splits, strict=True):
        found.fractions[i] = INSIDE[split]
    changed = decide_splits(found)
    assert changed.splits[indices] == list(splits)
    return changed


def bursts_of(found):
    """The number of each photo's burst, from its name."""
    return np.array([int(path[4:7]) for path in found.paths])


def test_moves_are_counted_and_each_has_its_reason():
    found, features = folder(60 * [(0, 1)] + 60 * [(1, 1)] + 20 * [(0, 4)] + 20 * [(1, 3)])
    followed, groups = follow_oldest(found, features)
    burst = bursts_of(found)
    assert len(groups) == 40 and all(len(set(burst[group])) == 1 for group in groups)
    expected = [found.splits[np.flatnonzero(burst == number)[0]] for number in burst]
    assert followed.splits == expected
    moves = sum(before != after for before, after in zip(found.splits, followed.splits))
    assert 20 < moves == sum(before != after for before, after in zip(found.splits, expected))
    assert Counter(why.split(' of ')[0] for why in followed.origin) == {'content': 160, 'duplicate': 100}
    for i, why in enumerate(followed.origin):
        oldest = found.paths[np.flatnonzero(burst == burst[i])[0]]
        assert why == ('content' if found.paths[i] == oldest else f'duplicate of {oldest}')
    assert followed.warnings == ['one line'] and found.origin == 260 * ['content']


def test_the_time_decides_and_then_the_path():
    found, features = folder(30 * [(0, 1)] + 30 * [(1, 1)] + [(0, 3)])
    found = with_splits(found, slice(-3, None), ['train', 'test', 'validation'])
    for times, expected in (((3, 1, 2), 'test'), ((3, 3, 3), 'train'), ((3, 2, 1), 'validation')):
        found.times[-3:] = times
        assert follow_oldest(found, features)[0].splits[-3:] == 3 * [expected]


def test_added_copies_move_nothing_else():
    found, features = folder(50 * [(0, 2)] + 50 * [(1, 2)])
    first = bursts_of(found)
    alone = [i for i in range(len(first)) if i == 0 or first[i] != first[i - 1]]
    names = ('paths', 'contents', 'fractions', 'times', 'given')
    of_each = {name: [getattr(found, name)[i] for i in alone] for name in names}
    originals = PhotoFolder(class_names=found.class_names, labels=found.labels[alone], **of_each)
    before, _ = follow_oldest(originals, features[alone])
    after, _ = follow_oldest(found, features)
    assert [after.splits[i] for i in alone] == before.splits


@pytest.mark.parametrize('seed', range(30))
def test_no_class_loses_a_split(seed):
    rng = np.random.default_rng(seed)
    bursts = [(label, int(size)) for label in (0, 1) for size in rng.integers(1, 9, rng.integers(3, 8))]
    found, features = folder(bursts, seed=seed)
    assert all(n for counts in found.counts.values() for n in counts.values())
    followed, groups = follow_oldest(found, features)
    assert all(n for counts in followed.counts.values() for n in counts.values())
    assert all(len({followed.splits[i] for i in group}) == 1 for group in groups)


def test_a_class_of_one_burst_stays_and_is_told():
    found, features = folder(40 * [(0, 1)] + [(1, 40)])
    followed, groups = follow_oldest(found, features)
    assert followed.splits == found.splits and followed.origin == found.origin and len(groups) == 1
    assert 'the class dog has 1 photos that are not near-duplicates' in followed.warnings[1]
    assert '1 groups of near-duplicates stand in more than one split' in followed.warnings[2]


def test_few_photos_are_told_of_the_new_splits():
    found, features = folder(40 * [(0, 1)] + 4 * [(1, 2)])
    found.times[-8:] = range(8)
    splits = ['train', 'test', 'train', 'test', 'validation', 'train', 'test', 'validation']
    found = with_splits(found, slice(-8, None), splits)
    assert 'dog has 8 photos, 3 of them in test' in found.warnings[1]
    followed, _ = follow_oldest(found, features)
    assert 'dog has 8 photos, 2 of them in test' in followed.warnings[1] and len(followed.warnings) == 2


def test_the_warnings_of_splits_are_made_once(monkeypatch):
    made, warn = [], splits_module._few_warnings
    found, features = folder(40 * [(0, 1)] + 40 * [(1, 1)])
    monkeypatch.setattr(splits_module, '_few_warnings', lambda photos: made.append(photos) or warn(photos))
    found.lasting_warnings = [f'line {i}' for i in range(100)]
    assert follow_oldest(found, features)[0].warnings == found.warnings and len(made) == 1


def test_lasting_warnings_stay_even_if_a_split_gives_the_same_line():
    found, features = folder(40 * [(0, 1)] + [(1, 1), (1, 2), (1, 2)])
    found = with_splits(found, slice(-5, None), ['train', 'validation', 'validation', 'test', 'test'])
    assert len(found.split_warnings) == 1
    found.lasting_warnings = ['one line', *found.split_warnings]
    followed, _ = follow_oldest(found, features)
    assert followed.splits == found.splits and followed.warnings == found.lasting_warnings + found.split_warnings


def test_deciding_again_gives_the_same():
    found, features = folder(30 * [(0, 3)] + 4 * [(1, 2)] + [(1, 20)], 'test')
    followed, groups = follow_oldest(found, features)
    assert followed.splits != found.splits and groups
    for again in (follow_oldest(followed, features)[0], decide_splits(followed, groups)):
        assert (again.splits, again.origin, again.warnings) == (followed.splits, followed.origin, followed.warnings)
    without = decide_splits(followed)
    assert (without.splits, without.origin, without.warnings) == (found.splits, found.origin, found.warnings)


def test_indices_are_those_of_a_split():
    found, _ = folder(20 * [(0, 1)] + 20 * [(1, 1)])
    indices = [found.indices(split) for split in BORDERS]
    assert all(of_split.dtype == np.int64 for of_split in indices)
    assert sorted(np.concatenate(indices).tolist()) == list(range(40))
    assert all(found.splits[i] == split for split, of_split in zip(BORDERS, indices) for i in of_split)


def test_group_numbers_are_the_same_within_a_group_only():
    numbers = group_numbers(7, [[1, 4], [2, 3, 6]])
    assert numbers.dtype == np.int64 and numbers.tolist() == [0, 1, 2, 2, 1, 5, 2]
    assert group_numbers(3, []).tolist() == [0, 1, 2]


@pytest.mark.parametrize('split', BORDERS)
def test_a_large_group_trains_and_is_told(split):
    found, features = folder(60 * [(0, 1)] + 60 * [(1, 1)] + [(1, 20)])
    found = with_splits(found, slice(-20, -19), [split])
    followed, _ = follow_oldest(found, features)
    assert followed.splits[-20:] == 20 * ['train'] and followed.splits[:-20] == found.splits[:-20]
    assert followed.origin[-20] == ('content' if split == 'train' else 'large group')
    assert set(followed.origin[-19:]) == {'duplicate of dog/120 0.jpg'}
    assert followed.warnings[1:] == [
        'one group of near-duplicates has 20 of the 80 photos of the class dog, in train (such as dog/120 0.jpg and '
        'dog/120 1.jpg): if they show the same thing, add photos of others; if not, crop them to what differs, or give '
        'the splits yourself']


def test_a_large_group_does_not_fill_an_empty_split():
    found, features = folder(60 * [(0, 1)] + 4 * [(1, 1)] + [(1, 30)])
    splits = 4 * ['train'] + ['test'] + 29 * ['validation']  # the group's oldest is the one that would test
    found = with_splits(found, slice(60, None), splits)
    followed, _ = follow_oldest(found, features)
    assert followed.splits[-30:] == 30 * ['train'] and set(followed.splits[60:64]) == set(BORDERS)


@pytest.mark.parametrize('size, others', [(9, 5), (20, 80)])
def test_a_group_that_is_not_large_follows_its_oldest(size, others):
    found, features = folder(60 * [(0, 1)] + others * [(1, 1)] + [(1, size)])
    found = with_splits(found, slice(len(found.paths) - size, len(found.paths) - size + 1), ['test'])
    followed, _ = follow_oldest(found, features)
    assert followed.splits[-size:] == size * ['test'] and not any('one group' in line for line in followed.warnings)


def test_a_large_group_of_given_splits_stays_and_is_told():
    found, features = folder(60 * [(0, 1)] + 60 * [(1, 1)] + [(1, 20)], given='train validation test')
    found.given[-20:] = 10 * ['train'] + 10 * ['test']
    followed, groups = follow_oldest(found, features)
    assert followed.splits == found.given and groups_apart(followed, groups) == [list(range(120, 140))]
    assert 'has 20 of the 80 photos of the class dog, in train and test (such as' in followed.warnings[-1]
    assert followed.warnings[-1].endswith('if not, crop them to what differs')


@pytest.mark.parametrize('given', ['test', 'train validation test'])
def test_given_splits_stay_and_leaks_are_counted(given):
    found, features = folder(40 * [(0, 3)] + 40 * [(1, 3)], given)
    followed, groups = follow_oldest(found, features)
    stays = [i for i, why in enumerate(found.origin) if why == 'given']
    assert all(followed.splits[i] == found.splits[i] and followed.origin[i] == 'given' for i in stays)
    assert [split == 'test' for split in followed.splits] == [split == 'test' for split in found.splits]
    leaks = sum(len({followed.splits[i] for i in group}) > 1 for group in groups)
    assert leaks > 10 and f'{leaks} groups of near-duplicates stand in more than one split' in followed.warnings[1]


def test_groups_across_classes_are_told():
    found, features = folder(40 * [(0, 1)] + 39 * [(1, 1)] + [(1, 3)])
    features[0] = features[-1]
    followed, groups = follow_oldest(found, features)
    assert len(groups) == 1 and followed.splits[0] == found.splits[0] and followed.origin[0] == 'content'
    assert groups_apart(followed, groups) == []  # a cat and its dogs may stand apart
    said = '1 groups of near-duplicates are in more than one class (such as cat/000 0.jpg and dog/079 0.jpg)'
    assert said in followed.warnings[-1]


@pytest.mark.parametrize('alike', [False, True])
def test_memory_is_bounded(alike):
    features = np.random.default_rng(0).normal(size=(6000, 32)).astype(np.float32)
    features[1::2] = features[::2] + 0.01  # and with `alike` all pairs, 18 million, are over the threshold
    tracemalloc.start()
    groups = find_groups(np.abs(features[:1] if alike else features) + np.zeros((6000, 1), np.float32), 0.9999)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    assert len(groups) == 1 if alike else len(groups) >= 2500


@pytest.mark.parametrize('rank', [300, 40])  # features without any pattern, and such as are mixtures of 40
@pytest.mark.parametrize('threshold', [0.6, 0.88, 0.999])
def test_groups_are_those_of_all_cosines(rank, threshold):
    rng = np.random.default_rng(rank)
    features = np.maximum(rng.normal(size=(1500, rank)) @ rng.normal(size=(rank, 300)), 0)
    for i in range(0, 600, 3):  # copies that differ more and more, and copies of copies
        features[i + 1:i + 3] = features[i:i + 2] + i / 600 * features.mean() * rng.normal(size=(2, 300))
    features = features.astype(np.float32)
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert np.abs(cosines - threshold).min() > 1e-7  # so that rounding decides nowhere
    _, component = connected_components(cosines >= threshold)
    expected = [group for i in range(1500) if len(group := np.flatnonzero(component == i).tolist()) > 1]
    assert expected and find_groups(features, threshold) == expected


@pytest.mark.parametrize('features, expected', [
    (np.zeros((0, 8), np.float32), []), (np.zeros((1, 8), np.float32), []), (np.zeros((5, 8), np.float32), []),
    (np.ones((3, 8), np.float32), [[0, 1, 2]]),
])
def test_few_rows(features, expected):
    assert find_groups(features) == expected


def test_tables(tmp_path):
    found, _ = folder(4 * [(0, 1)] + 4 * [(1, 1)])
    found.paths[0], found.splits[:3] = os.fsdecode(b'a,"b"\n\xff \xf0\x9f\x90\xa6.jpg'), list(BORDERS)
    found.skipped = [('c\\n.jpg', 'it is cut short'), ('d, e', 'the file is empty')]
    for _ in range(2):  # the second time over the first
        write_splits(tmp_path / 'splits.csv', found)
        write_skipped(tmp_path / 'skipped.csv', found)
    with open(tmp_path / 'splits.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    path = 'a,"b"\\n\\xff 🐦.jpg'
    assert rows[0] == {'path': path, 'class': 'cat', 'split': 'train', 'origin': 'content'}
    assert list(rows[0]) == ['path', 'class', 'split', 'origin']
    assert [row['split'] for row in rows] == found.splits
    with open(tmp_path / 'skipped.csv', encoding='utf-8', newline='') as file:
        assert list(csv.reader(file)) == [['path', 'reason'], *map(list, found.skipped)]
    assert sorted(os.listdir(tmp_path)) == ['skipped.csv', 'splits.csv']


def test_no_half_table_is_left(tmp_path):
    found, _ = folder([(0, 3)])
    write_splits(tmp_path / 'splits.csv', found)
    before = (tmp_path / 'splits.csv').read_bytes()
    found.labels = np.array([0, 0, 7])  # there is no class 7
    with pytest.raises(IndexError):
        write_splits(tmp_path / 'splits.csv', found)
    assert os.listdir(tmp_path) == ['splits.csv'] and (tmp_path / 'splits.csv').read_bytes() == before
