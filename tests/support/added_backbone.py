# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The worked example of docs/add_a_backbone.md, run as it stands on the page."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / 'docs' / 'add_a_backbone.md'
CLASS, ROW, CHECK, CONFIG = re.findall(r'```python\n(.*?)```', PAGE.read_text(), flags=re.S)

names = {'__name__': __name__}
for block in (CLASS, ROW):
    exec(compile(block, PAGE.name, 'exec'), names)
RIFORMER = names['RIFORMER']
