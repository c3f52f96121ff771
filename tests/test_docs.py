# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The prose of README and docs: what it names exists, and it can be read aloud."""

import re
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS]
# Written by commands, from records and from configs; other tests compare them.
WRITTEN = [p for p in PAGES if re.fullmatch(r'(results.*|tables)\.md', p.name)]
BY_HAND = [p for p in PAGES if p not in WRITTEN]
BRITISH = re.compile(
    r'\b(?:\w*colours?|\w*cent(?:red|res?|ring)|behaviours?|favou?rite[ds]?|grey|'
    r'(?:normal|initial|optim|quant|factor|organ|recogn|summar|general|special)is(?:e[ds]?|ing|ations?)|'
    r'analys(?:e[ds]?|ing)|neighbours?|modell(?:ed|ing)|labell(?:ed|ing)|whilst|licen[c]e|artefacts?)\b',
    re.IGNORECASE,
)


def by_name(pages):
    return pytest.mark.parametrize('page', pages, ids=[str(p.relative_to(ROOT)) for p in pages])


def prose(text):
    """The paragraphs and list items of a page, as a reader speaks them: without code and tables."""
    text = re.sub(r'^```.*?^```$', '', text, flags=re.S | re.M)
    text = re.sub(r'^(?:#|\||!\[).*$', '', text, flags=re.M)
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', text)
    text = re.sub(r'`[^`]*`', 'code', text)
    text = re.sub(r'^\s*(?:[-*]|\d+\.) ', '\n', text, flags=re.M)
    return [' '.join(block.replace('*', '').split()) for block in re.split(r'\n\s*\n', text)]


def sentences(text):
    for block in prose(text):
        block = re.sub(r'\b(Fig|Eq|al|ch)\.', r'\1', block)
        for sentence in re.split(r'(?<=[.!?])["\')]* ', block):
            words = [word for word in sentence.split() if re.search(r'\w', word)]
            if words:
                yield len(words), sentence


def anchors(page):
    """The fragments that GitHub gives to the headings of a page."""
    for heading in re.findall(r'^#+ (.+)$', page.read_text(), flags=re.M):
        yield re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


@by_name(PAGES)
def test_links_lead_somewhere(page):
    for target, fragment in re.findall(r'\]\((?!http)([^)#]*)#?([^)]*)\)', page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not fragment or fragment in anchors(there), f'{target}#{fragment}'


@by_name(BY_HAND)
def test_files_that_are_named_exist(page):
    """Those of this repository: in its folders, or modules of the package by their file name."""
    named = re.findall(
        r'(?<![\w/.])((?:bvit_mm|tools|tests|configs|benchmarks|results)/[\w/.-]*\w)(?![\w/*<])',
        page.read_text(),
    )
    made = ['bvit_mm/backbones/t2t.py', 'bvit_mm/.mim']  # an example; in a wheel only
    for path in set(named).difference(made):
        assert (ROOT / path).exists(), path


@by_name(BY_HAND)
def test_every_sentence_can_be_read_aloud(page):
    counts, texts = zip(*sentences(page.read_text()))
    assert not [text for count, text in zip(counts, texts) if count > 35]
    assert fmean(counts) < 20


@by_name(BY_HAND)
def test_spelling_is_american(page):
    assert not BRITISH.findall(' '.join(prose(page.read_text())))


def test_spelling_of_the_list_is_found():
    wrong = 'Colours in the centre, centred, normalised; a neighbour of grey behaviour'
    assert len(BRITISH.findall(wrong)) == 7
    assert not BRITISH.findall('colors, center, centered, normalized, a precise analysis')


def test_sentences_are_told_apart():
    page = 'One two (Fig. 2). `a.py` is three words.\n\n- Four. Five\n  six\n\n| no | row |\n'
    assert [count for count, _ in sentences(page)] == [4, 4, 1, 2]


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 1100


def test_index_lists_every_page():
    index = (ROOT / 'docs' / 'README.md').read_text()
    assert set(re.findall(r'\]\(([\w.]+\.md)\)', index)) == {p.name for p in DOCS} - {'README.md'}
