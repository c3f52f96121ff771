# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""README and docs: what they name exists, snippets run, and prose can be read aloud."""

import doctest
import re
import shlex
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from bvit_mm import backbones
from bvit_mm.growth import INITS
from bvit_mm.recipe_setters import SETTERS
from bvit_mm.training_stages import AXES

from .support.tools import script

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS]
# Written by commands, from records and from configs; other tests compare them.
WRITTEN = [p for p in PAGES if re.fullmatch(r'(results_)?tables\.md|gpu\.md', p.name)]
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
    text = re.sub(r'^```.*?^```$|<!--.*?-->', '', text, flags=re.S | re.M)
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
    made = ['bvit_mm/backbones/riformer.py', 'bvit_mm/.mim']  # an example; in a wheel only
    for path in set(named).difference(made):
        assert (ROOT / path).exists(), path


def flags_in_commands():
    """The flags that pages give to each of our tools, in blocks and in the text."""
    flags = defaultdict(set)
    for page in BY_HAND:
        text = page.read_text().replace('\\\n', ' ')
        for name, arguments in re.findall(r'\btools/(\w+)\.py\b([^`\n]*)', text):
            words = shlex.split(arguments.replace("'", ' '), comments=True)
            flags[name].update(w.split('=')[0] for w in words if w.startswith('--'))
    return {name: found for name, found in flags.items() if found}


@pytest.mark.parametrize('name, flags', sorted(flags_in_commands().items()))
def test_tools_have_the_flags_that_are_named(name, flags):
    known = set(re.findall(r'--[\w-]+', script(ROOT / 'tools' / f'{name}.py', '--help', cwd=ROOT)))
    assert flags <= known


@by_name(BY_HAND)
def test_python_snippets_compile(page):
    for code in re.findall(r'^```python\n(.*?)^```', page.read_text(), flags=re.S | re.M):
        if not code.startswith('>>>'):
            compile(code, page.name, 'exec')


def test_session_of_the_baselines_prints_what_it_shows():
    page = ROOT / 'docs' / 'baselines.md'
    session = re.findall(r'^```python\n(>>>.*?)^```', page.read_text(), flags=re.S | re.M)[0]
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, str(page), 0)
    failed, tried = doctest.DocTestRunner().run(test)
    assert (failed, tried) == (0, 3)


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


def test_options_list_every_family():
    """With the plain class that its weights are for, and whether timm has it."""
    page = (ROOT / 'docs' / 'options.md').read_text()
    rows = re.findall(r'^\| `(Elastic\w+)` \| (.*?) \| .*? \| (yes|no) \|$', page, flags=re.M)
    families = {name: getattr(backbones, name) for name in backbones.__all__}
    assert {name: (plain.strip('`'), timm) for name, plain, timm in rows} == {
        name: (family.plain_type or 'none', 'yes' if family.timm_names else 'no')
        for name, family in families.items()
    }


@pytest.mark.parametrize('table', [AXES, INITS, SETTERS], ids=['axes', 'inits', 'setters'])
def test_options_describe_every_row_of_a_table(table):
    page = (ROOT / 'docs' / 'options.md').read_text()
    told = {word for code in re.findall(r'`([^`\n]+)`', page) for word in re.findall(r'\w+', code)}
    assert set(table) <= told


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 1100


def test_index_lists_every_page():
    index = (ROOT / 'docs' / 'README.md').read_text()
    assert set(re.findall(r'\]\(([\w.]+\.md)\)', index)) == {p.name for p in DOCS} - {'README.md'}


def test_rooms_are_those_of_the_package():
    """Each module and folder at the top of the package has a line, and each line one of these."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    (tree,) = re.findall(r'^bvit_mm/\n(.*?)^```', text, flags=re.S | re.M)
    named = [name for line in tree.splitlines() for name in re.findall(r'(?:^ |,) (\w+)[./]', line)]
    package = ROOT / 'bvit_mm'
    modules = [file.stem for file in package.glob('*.py') if file.stem != '__init__']
    folders = [file.parent.name for file in package.glob('*/__init__.py')]
    assert sorted(named) == sorted(modules + folders)
