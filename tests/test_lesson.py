"""The chapters are a lesson: short, words explained where they first occur, test photos left alone until chapter 04."""
import re
from pathlib import Path

import nbformat
import pytest

NBS = Path(__file__).resolve().parent.parent / 'nbs'
CHAPTERS = sorted(NBS.glob('0[0-5]_*.ipynb'))
MAX_CELLS = 42
LEFT_ALONE = [path for path in CHAPTERS if path.name < '04']  # chapters that may not look at the test photos

chapters = pytest.mark.parametrize('path', CHAPTERS, ids=lambda path: path.stem)


def cells(path, kind):
    """The cells of a notebook that are of one kind, 'code' or 'markdown'."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def prose(text):
    """What is told in Markdown: without code, headings, summaries (quotes) and links, which point to an explanation."""
    text = re.sub(r'```.*?```|`[^`]*`', ' ', text, flags=re.DOTALL)
    text = re.sub(r'\[[^\]]*\]\([^)]*\)', ' ', text)
    return '\n'.join(line for line in text.splitlines() if not line.startswith(('#', '>')))


def told(path):
    """All that a chapter tells."""
    return '\n\n'.join(prose(cell.source) for cell in cells(path, 'markdown'))


def glossary():
    """Each word of the glossary, without what is in parentheses, and the file of the chapter that it names."""
    table = '\n'.join(cell.source for cell in cells(NBS / 'glossary.ipynb', 'markdown'))
    rows = re.findall(r'^\| ([^|]+) \| [^|]+ \| [^|]+ \| \[[^\]]*\]\(([^)]*)\) \|$', table, flags=re.MULTILINE)
    return [(re.sub(r' \(.*\)', '', word), chapter) for word, chapter in rows]


def anywhere(word):
    """A pattern for a word in singular and plural; `**` around it does not matter."""
    stem = word[:-1] if word.endswith('s') and not word.endswith('ss') else word
    return re.compile(rf'(?<![\w-]){re.escape(stem)}(s|es)?(?![\w-])', re.IGNORECASE)


def explanation(word, text):
    """Where a word is explained: the first place where it is in bold, or None."""
    for found in re.finditer(r'\*\*(.+?)\*\*', text):
        if anywhere(word).fullmatch(found[1]):
            return found.start(1)
    return None


@chapters
def test_a_chapter_is_short(path):
    assert len(nbformat.read(path, as_version=4).cells) <= MAX_CELLS


@chapters
def test_five_questions_with_answers_that_fold_out(path):
    text = '\n'.join(cell.source for cell in cells(path, 'markdown'))
    answers = re.findall(r'<details>\s*<summary>.*?</summary>(.*?)</details>', text, flags=re.DOTALL)
    assert len(answers) == 5 and all(answer.strip() for answer in answers)


@chapters
def test_figures_can_be_seen(path):
    for cell in cells(path, 'code'):
        shown = [output.get('data', {}) for output in cell.outputs]
        pictures = [data for data in shown if any(kind.startswith('image/') for kind in data)]
        assert pictures or 'figure' not in cell.metadata.get('tags', []), cell.source
        others = [data.get('text/plain', '') for data in shown if data not in pictures]
        assert not any('<Figure size' in text for text in others), cell.source


def test_the_glossary_names_the_chapters():
    words = glossary()
    assert len(words) >= 40
    assert len({word.lower() for word, _ in words}) == len(words), 'one word, one meaning'
    assert {chapter for _, chapter in words} <= {path.name for path in CHAPTERS}


@pytest.mark.parametrize('word, chapter', glossary())
def test_a_word_is_explained_where_it_first_occurs(word, chapter):
    texts = {path.name: told(path) for path in CHAPTERS}
    place = explanation(word, texts[chapter])
    assert place is not None, f'{word} is not explained in {chapter}: put it in bold there'
    before = [(name, text) for name, text in texts.items() if name < chapter] + [(chapter, texts[chapter][:place])]
    for name, text in before:
        early = anywhere(word).search(text)
        near = text[max(0, early.start() - 60):early.end() + 20] if early else ''
        assert early is None, f'{name} uses {word} before it is explained: {near!r}'


@pytest.mark.parametrize('path', LEFT_ALONE, ids=lambda path: path.stem)
def test_the_test_photos_are_left_alone(path):
    looks = re.compile(r'\b(evaluate|evaluate_photos|predict\w*)\([^)]*\b(raw_)?test\b|\breport\(')
    assert [cell.source for cell in cells(path, 'code') if looks.search(cell.source)] == []
    printed = [str(output.get('text') or output.get('data', {}).get('text/plain', '')) for cell in cells(path, 'code')
               for output in cell.outputs]
    for text in [told(path), *printed]:
        assert not re.search(r'\btest[ _](accuracy|loss)\b[^.\n]{0,40}\d', text, re.IGNORECASE), text


# What stands guard itself


def test_prose_leaves_out_what_is_no_prose():
    text = '# Loss\n> the loss\na `loss` and [loss](02.ipynb)\n```sh\nloss\n```\nits **loss**'
    assert anywhere('loss').findall(prose(text)) == ['']
    assert explanation('loss', prose(text)) is not None


@pytest.mark.parametrize('word, text, found', [
    ('weights', 'a weight', True), ('class', 'Classes', True), ('class', 'classify', False),
    ('step', 'time-step', False), ('batch', 'two batches', True),
])
def test_words_are_found_in_singular_and_plural(word, text, found):
    assert bool(anywhere(word).search(text)) == found
