"""Folders and tables as other people have them: names of splits, one name written in two ways, columns, one class."""
import numpy as np
import pytest
from PIL import Image

from transfer_cvd.errors import InputError
from transfer_cvd.inference.predictor import Predictor, labelled_photos
from transfer_cvd.photos.find import find_photos
from transfer_cvd.photos.tables import list_table


def make_at(root, parts, n=6):
    """Different pictures in each class: `{'train': 'cat|dog'}` makes `train/cat` and `train/dog`."""
    number = 0
    for part, names in parts.items():
        for name in names.split('|'):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(n):
                number += 1
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.png')
    return root


def sizes(found):
    return {split: sum(of_class.values()) for split, of_class in found.counts.items()}


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))


@pytest.mark.parametrize('train, test', [
    ('Training', 'Testing'), ('training_set', 'test_set'), ('seg_train', 'seg_test'), ('train', 'TEST'),
    ('TrainImages', 'TestImages'), ('train2017', 'test2017'), ('seg_train/seg_train', 'seg_test/seg_test'),
])
def test_splits_are_known_by_their_names(tmp_path, train, test):
    found = find_photos(make_at(tmp_path, {train: 'cat|dog', test: 'cat|dog'}))
    assert found.class_names == ['cat', 'dog'] and sizes(found)['test'] == 12
    assert {split for path, split in zip(found.paths, found.splits) if f'/{test}/' in path} == {'test'}


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'validate', 'dev', 'val_images'])
def test_validation_has_many_names(tmp_path, name):
    found = find_photos(make_at(tmp_path, {'train': 'cat|dog', name: 'cat|dog'}))
    assert {split for path, split in zip(found.paths, found.splits) if f'/{name}/' in path} == {'validation'}


def test_a_folder_beside_the_splits_is_left_out(tmp_path):
    found = find_photos(make_at(tmp_path, {'train': 'cat|dog', 'test': 'cat|dog', 'extra': 'maybe'}))
    assert found.class_names == ['cat', 'dog']
    assert found.skipped == [(str(tmp_path / 'extra'), 'a folder beside the splits')]


@pytest.mark.parametrize('parts, told', [
    ({'home': 'cat|dog', 'zoo': 'cat|dog'}, 'both have the sub-folders cat and dog'),
    ({'train': '', 'test': ''}, 'have no sub-folder for each class'),
    ({'pets': 'cat|dog'}, 'give {}/pets if its sub-folders are the classes'),
    ({'test': 'cat|dog'}, 'the class cat in {} has no photos in train'),
])
def test_what_cannot_be_told_is_asked_in_one_line(tmp_path, parts, told):
    make_at(tmp_path, parts)
    with pytest.raises(InputError, match=told.format(tmp_path)) as raised:
        find_photos(tmp_path)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('parts', [{'.': 'train|bus|car'}, {'train': 'steam|electric', 'bus': 'red|blue'}])
def test_a_class_may_be_called_train(tmp_path, parts):
    found = find_photos(make_at(tmp_path, parts))
    assert {'train', 'bus'} <= set(found.class_names) and {*found.given} == {''}


def test_a_sub_folder_that_all_classes_have_is_no_class(tmp_path):
    found = find_photos(make_at(tmp_path, {'cat': 'originals', 'dog': 'originals'}))
    assert found.class_names == ['cat', 'dog']


COMPOSED, DECOMPOSED = 'caf\u00e9', 'cafe\u0301'


@pytest.mark.parametrize('parts', [
    {'.': f'{COMPOSED}|{DECOMPOSED}|tea'}, {'train': f'{COMPOSED}|tea', 'test': f'{DECOMPOSED}|tea'},
])
def test_one_name_in_two_unicode_forms_is_one_class(tmp_path, parts):
    found = find_photos(make_at(tmp_path, parts))
    assert found.class_names == [COMPOSED, 'tea']
    assert any('are taken for one class' in line and 'e\\u0301' in line for line in found.warnings)


def test_a_space_at_the_end_makes_no_other_class(tmp_path):
    found = find_photos(make_at(tmp_path, {'.': 'cat|cat |dog'}))
    assert found.class_names == ['cat', 'dog'] and any("'cat '" in line for line in found.warnings)


def test_in_another_split_case_does_not_matter_but_side_by_side_it_does(tmp_path):
    apart = find_photos(make_at(tmp_path / 'apart', {'train': 'Cat|Dog', 'val': 'cat|dog'}))
    assert apart.class_names == ['Cat', 'Dog']
    beside = find_photos(make_at(tmp_path / 'beside', {'.': 'Cat|cat'}))
    assert beside.class_names == ['Cat', 'cat'] and any('differ by case only' in line for line in beside.warnings)


# Evaluation


def always_cat(photos):
    return np.tile(np.float32([0.8, 0.2]), (len(photos), 1))


def test_one_class_is_enough_for_an_evaluation(tmp_path):
    classifier = Predictor(always_cat, ['cat', 'dog'], image_size=8)
    folder = make_at(tmp_path / 'only', {'.': 'cat'})
    table = tmp_path / 'only.csv'
    table.write_text('path,label\n' + ''.join(f'{path},cat\n' for path in sorted(folder.rglob('*.png'))))
    for given in (folder, table):
        assert classifier.evaluate(given).results['recall'] == {'cat': 1.0, 'dog': None}


def test_splits_without_train_are_enough_for_an_evaluation(tmp_path):
    make_at(tmp_path, {'val': 'cat|dog', 'test': 'cat|dog'})
    photos = labelled_photos(tmp_path, ['cat', 'dog'])
    assert len(photos) == 12 and all('/test/' in path for path, _ in photos)


def test_an_evaluation_knows_a_class_in_the_other_unicode_form(tmp_path):
    photos = labelled_photos(make_at(tmp_path, {'.': f'{DECOMPOSED}|tea'}), ['tea', COMPOSED])
    assert {label for path, label in photos if DECOMPOSED in path} == {1}


# Tables


def table(tmp_path, text, name='photos.csv', encoding='utf-8'):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize('header', [
    'path,label', 'Path,Label', 'filename,class', 'image,label', 'FILE;Category', 'image_path\tclass_name',
    'width,path,label,height',
])
def test_columns_by_many_names_and_separators(tmp_path, header):
    separator = next(sign for sign in ';\t,' if sign in header)
    columns = header.lower().split(separator)
    wide = len(columns) == 4

    def line(path, label):
        return separator.join(['9', path, label, '9'] if wide else [path, label])

    listing = list_table(table(tmp_path, '\n'.join([header, line('a.png', 'cat'), line('b.png', 'dog')])))
    assert listing.names == ['cat', 'dog']
    assert [(photo.path, photo.label) for photo in listing.photos] == [
        (str(tmp_path / 'a.png'), 0), (str(tmp_path / 'b.png'), 1)]


def test_two_columns_that_can_be_meant_are_a_question(tmp_path):
    path = table(tmp_path, 'image,file,label\na.png,1.png,cat\nb.png,2.png,dog\n')
    with pytest.raises(InputError, match='file and image: say which is meant with --path-column'):
        list_table(path)
    assert [photo.path for photo in list_table(path, path_column='File').photos] == [
        str(tmp_path / '1.png'), str(tmp_path / '2.png')]
    with pytest.raises(InputError, match="has no column 'species'"):
        list_table(path, path_column='file', label_column='species')


def test_backslashes_of_windows(tmp_path):
    make_at(tmp_path, {'.': 'cat|dog'})
    path = table(tmp_path, 'path,label\ncat\\1.png,cat\ndog\\7.png,dog\n')
    assert [photo.path for photo in list_table(path).photos] == [
        str(tmp_path / 'cat/1.png'), str(tmp_path / 'dog/7.png')]


@pytest.mark.parametrize('encoding, told', [('utf-16', 'UTF-16'), ('cp1252', 'not in the encoding UTF-8')])
def test_another_encoding_is_told_what_to_do(tmp_path, encoding, told):
    with pytest.raises(InputError, match=f'{told}.*: save it as UTF-8'):
        list_table(table(tmp_path, 'path,label\nä.png,cat\nb.png,dog\n', encoding=encoding))
