# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's CIFAR datasets, for files that were drawn (``tools/make_shapes.py``).

mmpretrain refuses files with other checksums than the real ones; where it knows none, it does not.
"""

from mmpretrain.datasets import CIFAR10, CIFAR100


class DrawnCIFAR10(CIFAR10):
    """CIFAR-10 without checksums; the names of its classes are those in the files."""

    METAINFO = {}
    train_list = [(name, None) for name, _ in CIFAR10.train_list]
    test_list = [(name, None) for name, _ in CIFAR10.test_list]
    meta = CIFAR10.meta | {'md5': None}


class DrawnCIFAR100(CIFAR100):
    """CIFAR-100 without checksums; the names of its classes are those in the files."""

    METAINFO = {}
    train_list = [(name, None) for name, _ in CIFAR100.train_list]
    test_list = [(name, None) for name, _ in CIFAR100.test_list]
    meta = CIFAR100.meta | {'md5': None}
