# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Shows images as a config reads them: mmpretrain's own ``browse_dataset.py``, flag for flag.

Newer versions of matplotlib want an argument that the stock tool does not give.
"""

import inspect

from _stock import stock_tool


def main() -> None:
    """Runs the tool."""
    stock = stock_tool('visualization/browse_dataset')
    adjust = stock.adjust_bbox
    renderer = inspect.signature(adjust).parameters.get('renderer')
    if renderer is not None and renderer.default is renderer.empty:
        stock.adjust_bbox = lambda figure, box: adjust(figure, box, figure.canvas.get_renderer())
    stock.main()


if __name__ == '__main__':
    main()
