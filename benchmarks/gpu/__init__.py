# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""All that a CPU cannot show, in at most nine minutes on one GPU: ``python -m benchmarks.gpu``.

Each part is a function of a device and a size, in a file of its own, that yields rows of plain
numbers. ``parts`` runs each in a process of its own, so that what one breaks or forgets to give
back is not the next one's. Nothing is downloaded: the images are drawn.
"""
